"""Runs: the list on the left, one run on the right, with everything that can be done with it.

The list is `app.running.runs`, the open run is drawn by `app.running.live`: here they are laid out and connected. Which
run is open stands in the address, so that a reload or a second browser shows the same.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr

from app.board import QUIET, Ask, Board
from app.running import ledger, live, runs
from app.theme import sentence_error
from engine.contract.errors import BoardError
from engine.contract.rundir import Run

TITLE = "Runs"
LIST_SECONDS = 2.0
WATCH_SECONDS = 1.0


def build(board: Board) -> None:
    RunsTab(board)


class RunsTab:
    """The components of the tab and their events."""

    def __init__(self, board: Board) -> None:
        self.board, self.workspace = board, board.workspace
        with gr.Row(elem_classes="tb-columns"):
            with gr.Column(scale=1, min_width=320, elem_classes=["tb-card", "tb-sticky"], elem_id="runs-side"):
                self.list = gr.HTML(
                    html_template='<div class="tb-list"></div>',
                    js_on_load="tuneboard.list(element, props, watch, trigger)",
                    elem_id="runs-list",
                    padding=False,
                )
            with gr.Column(scale=3, min_width=560):
                with gr.Column(elem_classes="tb-card"):
                    self.said = gr.HTML(elem_id="runs-said", padding=False)
                    self.view = live.RunView("runs-run", self.workspace)
                    with self.view.buttons["resume"].parent:  # what belongs to these buttons stands beside them
                        self.checkpoint = gr.Dropdown(
                            [], label="Checkpoint", container=False, elem_id="runs-checkpoint", min_width=110, scale=0,
                            interactive=True,
                        )  # fmt: skip
                        self.remove = gr.Button("Delete", size="sm", min_width=0, elem_id="runs-delete")
                    with gr.Row(visible=False, elem_id="runs-confirm", elem_classes="tb-confirm") as self.confirm:
                        self.question = gr.HTML(padding=False)
                        self.sure = gr.Button("Delete for good", size="sm", min_width=0, elem_id="runs-sure",
                                              elem_classes="tb-danger-button")  # fmt: skip
                        self.keep = gr.Button("Keep it", size="sm", min_width=0)
                with gr.Column(visible=False, elem_classes="tb-card", elem_id="runs-more") as self.more:
                    with gr.Accordion("Arguments", open=False, elem_classes="tb-more"):
                        self.arguments = gr.HTML(elem_id="runs-arguments", padding=False)
                    with gr.Accordion("Files", open=False, elem_classes="tb-more"):
                        self.files = gr.HTML(elem_id="runs-files", padding=False)
        self._connect()

    def _connect(self) -> None:
        board, opened = self.board, self.board.opened
        listing = [self.list]
        seen = [opened, self.view.watch]
        beside = self.beside = [self.more, self.arguments, self.files, self.checkpoint, self.remove]
        board.asks(lambda ref: ref, (), [opened])
        board.opens(self._newest, [opened, board.asked["runs"]], [opened])
        board.opens(self._listed, [opened], listing)
        board.moves(self._listed, [opened], listing)
        board.moves(self._beside, [opened, self.checkpoint], beside)
        self.list.select(self._picked, None, [opened, self.said], **QUIET)
        clock = board.timer(WATCH_SECONDS)
        opened.change(self.view.refresh, seen, self.view.outputs, **QUIET)
        opened.change(self._beside, opened, beside, **QUIET)
        opened.change(self._listed, opened, listing, **QUIET)
        opened.change(lambda: [gr.Timer(active=True), gr.Row(visible=False)], None, [clock, self.confirm], **QUIET)
        board.moves(lambda: gr.Timer(active=True), (), [clock])
        clock.tick(self._tick, seen, [*self.view.outputs, clock, *beside], **QUIET)
        slow = board.timer(LIST_SECONDS)
        slow.tick(self._ticking, opened, [*listing, slow], **QUIET)
        board.moves(lambda: gr.Timer(active=True), (), [slow])

        self.view.connect(opened)
        buttons = self.view.buttons
        buttons["resume"].click(self._resume, [opened, self.checkpoint], [opened, self.said], **QUIET)
        jumps = {"clone": "train", "evaluate": "evaluate", "chat": "chat", "export": "export"}
        for name, tab in jumps.items():
            if board.has(tab):
                buttons[name].click(partial(self._jump, tab), [opened, self.checkpoint], board.jump_to(tab), **QUIET)
            else:
                buttons[name].visible = False
        self.remove.click(self._ask, opened, [self.confirm, self.question], **QUIET)
        self.keep.click(lambda: gr.Row(visible=False), None, self.confirm, **QUIET)
        self.sure.click(self._delete, opened, [opened, self.said, self.confirm], **QUIET)

    def _newest(self, opened: str, asked: Ask) -> Any:
        """Somebody comes without a run in mind: the newest one is opened."""
        if opened or asked.ref:
            return gr.skip()
        return next((found.id for found in runs.listed(self.workspace)), "")

    def _listed(self, opened: str) -> str:
        return ledger.listing(runs.listed(self.workspace), opened)

    def _picked(self, picked: gr.EventData) -> list[Any]:
        return [str(picked.id), ""]

    def _ticking(self, opened: str) -> list[Any]:
        found = runs.listed(self.workspace)
        moving = any(one.moving for one in found)
        return [ledger.listing(found, opened), gr.skip() if moving else gr.Timer(active=False)]

    def _tick(self, opened: str, watch: Any) -> list[Any]:
        shown = self.view.refresh(opened, watch)
        run = runs.opened(self.workspace, opened)
        if run and run.state() in runs.MOVING:
            return [*shown, gr.skip(), *(gr.skip() for _ in self.beside)]
        return [*shown, gr.Timer(active=False), *self._beside(opened)]

    def _beside(self, opened: str, chosen: str | None = "") -> list[Any]:
        """What is known of a run that does not change from second to second; `chosen` checkpoints stay so."""
        run = runs.opened(self.workspace, opened)
        if run is None:
            return [gr.Column(visible=False), "", "", gr.Dropdown([], value=None), gr.Button(interactive=False)]
        steps = [folder.name for _, folder in reversed(run.checkpoints())]
        # The newest by meaning and not by name: a stop may save one more after this list was made.
        offered = [("final model" if run.model_path.is_dir() else "newest", ""), *((step, step) for step in steps)]
        return [
            gr.Column(visible=True),
            ledger.arguments(run),
            ledger.files(run),
            gr.Dropdown(offered, value=chosen if chosen in steps else "", visible=bool(steps)),
            gr.Button(interactive=run.state() not in runs.MOVING),
        ]

    def _jump(self, tab: str, opened: str, checkpoint: str | None) -> list[Any]:
        """To another tab with the chosen checkpoint; only Clone means the run as a whole."""
        return self.board.jump(tab, f"{opened}/{checkpoint}" if checkpoint and tab != "train" else opened)

    def _resume(self, opened: str, checkpoint: str | None) -> list[Any]:
        """A new run that goes on from the checkpoint; it is opened at once."""
        try:
            run = runs.start_training(
                self.workspace, runs.resumed(self._run(opened), checkpoint or ""), allowed=self.board.allowed
            )
        except BoardError as problem:
            return [gr.skip(), sentence_error(problem.text, problem.hint)]
        return [run.id, ""]

    def _run(self, opened: str) -> Run:
        run = runs.opened(self.workspace, opened)
        if run is None:
            raise BoardError("This run is not there any more.", "Choose another one from the list.")
        return run

    def _ask(self, opened: str) -> list[Any]:
        run = runs.opened(self.workspace, opened)
        found = runs.summary(run) if run else None
        if found is None:
            return [gr.Row(visible=False), ""]
        return [gr.Row(visible=True), ledger.question(found)]

    def _delete(self, opened: str) -> list[Any]:
        try:
            runs.delete(self._run(opened))
        except BoardError as problem:
            return [gr.skip(), sentence_error(problem.text, problem.hint), gr.Row(visible=False)]
        return ["", "", gr.Row(visible=False)]
