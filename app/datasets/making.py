"""Rows made by a model: the question, the price and the run that makes them, for the Data tab.

Built where it is called, inside that tab. It starts a run and watches it; `engine.make` does the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr

from app.board import QUIET, Board
from app.form import Form
from app.running import live, runs
from app.theme import Help, sentence_error
from data.checking import preflight
from data.datasets import registry
from engine.contract.args import MakeArgs
from engine.contract.errors import ArgsError, BoardError, Problem

WATCH_SECONDS = 1.0
BASICS = ("what", "max_rows", "to")
NOTHING = (
    "No rows made yet",
    "Load a model in Chat, or name a server on the left; begin with ten rows, and look at what comes.",
)


def help_texts() -> dict[str, Help]:
    """What the (i) of each field says."""
    return Form.help_of(MakeArgs, "make")


class Making:
    """The components and their events."""

    def __init__(self, board: Board) -> None:
        self.board, self.workspace, self.allowed = board, board.workspace, board.allowed
        self.form = Form(MakeArgs, "make", {"datasets": self._names()})
        self.run = gr.State("")
        with gr.Row(elem_classes="tb-columns", elem_id="make"):
            with gr.Column(scale=3, min_width=420, elem_classes="tb-card"):
                self._ask()
            with gr.Column(scale=2, min_width=380, elem_classes="tb-card"):
                self.view = live.RunView("make-run", self.workspace, dense=True, nothing=NOTHING)
        self._connect()

    def _ask(self) -> None:
        form = self.form
        form.field("what.kind")
        form.field("data")
        form.fields(*BASICS)
        form.fields("endpoint.address", "endpoint.model")
        form.more(leave_out=("name", "description", "resume"), last="More")
        with gr.Row(elem_classes="tb-actions"):
            self.start = gr.Button("Make rows", variant="primary", elem_id="make-start", interactive=False, min_width=0)
            self.go_on = gr.Button("Go on", elem_id="make-go-on", visible=False, min_width=0)
        self.said = gr.HTML(elem_id="make-said", padding=False)

    def _connect(self) -> None:
        board, form = self.board, self.form
        judged = [form.channel, self.start, self.said]
        gr.on([field.change for field in form.inputs], self._changed, form.inputs, judged,
              trigger_mode="always_last", **QUIET)  # fmt: skip
        arrived = [form.components["data", ""], self.run, *judged]
        board.opens(self._arrived, [self.run, *form.inputs], arrived)
        seen = [self.run, self.view.watch]
        clock = board.timer(WATCH_SECONDS)
        clock.tick(self._tick, seen, [*self.view.outputs, self.go_on, clock], **QUIET)
        self.run.change(lambda: gr.Timer(active=True), None, clock, **QUIET).then(
            self.view.refresh, seen, self.view.outputs, **QUIET
        )
        self.start.click(self._start, form.inputs, [self.run, self.said], **QUIET)
        self.go_on.click(self._resume, self.run, [self.run, self.said], **QUIET)
        self.view.connect(self.run)
        for name, button in self.view.buttons.items():
            if name == "details":
                button.click(lambda id: board.jump("runs", id), self.run, board.jump_to("runs"), **QUIET)
            elif name != "stop":
                button.visible = False  # there is no model in such a run

    def begins_with(self, opened: gr.components.Component, asked: gr.Button) -> None:
        """Begin with the dataset that is open, when somebody comes here from it."""
        data = self.form.components["data", ""]
        asked.click(lambda name: gr.Dropdown(value=[name]) if name else gr.skip(), opened, data, **QUIET)

    def _names(self) -> list[str]:
        return [entry.name for entry in registry.entries(self.workspace)]

    def _arrived(self, opened: str, *values: Any) -> list[Any]:
        """Somebody comes to the tab: the datasets that there are now, and the newest run of this kind."""
        if runs.opened(self.workspace, opened) is None:
            opened = next((found.id for found in runs.listed(self.workspace) if found.kind == "make"), "")
        return [gr.Dropdown(self._names()), opened, *self._changed(*values)]

    def _checked(self, values: Sequence[Any]) -> tuple[Any, list[Problem]]:
        args, problems = self.form.checked(values)
        return args, problems or preflight.problems(args, self.workspace, self.allowed, rows=False)

    def _changed(self, *values: Any) -> list[Any]:
        args, problems = self._checked(values)
        said = self.form.plain(" ".join(problem.text for problem in problems))
        if not self._touched(values):  # who has done nothing has done nothing wrong
            words = f'<div class="tb-line tb-muted">{escape(said)}</div>' if said else ""
            return [self.form.news(values, [], args), gr.Button(interactive=not problems), words]
        words = sentence_error(self.form.label(problems[0], values), said) if problems else ""
        return [self.form.news(values, problems, args), gr.Button(interactive=not problems), words]

    def _touched(self, values: Sequence[Any]) -> bool:
        """Whether a field holds something else than at first; the datasets follow what is open in the tab."""
        held, first = (self.form.content(these) for these in (values, self.form.shown(MakeArgs())))
        return {**held, "data": []} != {**first, "data": []}

    def _start(self, *values: Any) -> list[Any]:
        try:
            args, problems = self._checked(values)
            if problems:
                raise ArgsError(problems)
            run = runs.start(self.workspace, args, f"make-{args.to}", allowed=self.allowed)
        except BoardError as problem:
            return [gr.skip(), self.form.refusal(problem, values)]
        return [run.id, ""]

    def _resume(self, opened: str) -> list[Any]:
        """A new run that takes over what the open one has made."""
        found = runs.opened(self.workspace, opened)
        summary = runs.summary(found) if found else None
        if summary is None or not isinstance(summary.args, MakeArgs):
            return [gr.skip(), sentence_error("There is nothing to go on with.")]
        args = summary.args.model_copy(update={"resume": summary.id})
        try:
            return [runs.start(self.workspace, args, f"make-{args.to}", allowed=self.allowed).id, ""]
        except BoardError as problem:
            return [gr.skip(), self.form.refusal(problem)]

    def _tick(self, opened: str, watch: Any) -> list[Any]:
        shown = self.view.refresh(opened, watch)
        run = runs.opened(self.workspace, opened)
        state = run.state() if run else ""
        stuck = state in ("stopped", "failed", "lost")
        return [*shown, gr.Button(visible=stuck), gr.skip() if state in runs.MOVING else gr.Timer(active=False)]
