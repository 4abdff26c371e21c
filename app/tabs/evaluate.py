"""Evaluate: did it get better? The question on the left, the verdict and what it rests on at the right.

An evaluation is a run of its own; this page starts it, watches it and shows what it wrote. `app.results.comparison`
draws.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import gradio as gr

from app.board import QUIET, Ask, Board
from app.form import Form
from app.results import comparison, refs
from app.running import ledger, runs
from app.running.watch import Watch
from app.theme import Help, empty, sentence_error
from data import weights
from data.checking import preflight
from data.datasets import registry
from engine.contract.args import EvaluateArgs
from engine.contract.errors import ArgsError, BoardError, Problem

TITLE = "Evaluate"
WATCH_SECONDS = 1.0
NOTHING_TRAINED = ("Nothing to judge yet", "Train a model first; then ask here whether it got better than its base.")
NOTHING_JUDGED = (
    "Is it better than its base?",
    "Press Start: both models get the rows that training never saw, and the verdict comes with its interval.",
)


def help_texts() -> dict[str, Help]:
    """What the (i) of each field says."""
    return Form.help_of(EvaluateArgs, "evaluate")


def build(board: Board) -> None:
    Evaluate(board)


class Evaluate:
    """The components of the tab and their events."""

    def __init__(self, board: Board) -> None:
        self.board, self.workspace, self.allowed = board, board.workspace, board.allowed
        self.form = Form(EvaluateArgs, "evaluate", self._offered())
        self.opened, self.watch, self.page = gr.State(""), gr.State(None), gr.State(0)
        with gr.Row(elem_classes="tb-columns"):
            with gr.Column(scale=1, min_width=340, elem_classes="tb-sticky"):
                self._ask()
            with gr.Column(scale=3, min_width=560):
                self._answer()
        self._connect()

    # Layout

    def _ask(self) -> None:
        form = self.form
        with gr.Column(elem_classes="tb-card"):
            gr.HTML('<h2 class="tb-title">Did it get better?</h2>', padding=False)
            form.field("tuned")
            form.field("base")
            form.field("data")
            form.fields("max_rows", "max_tokens")
            form.more(leave_out=("name", "description"), last="More")
            with gr.Row(elem_classes="tb-actions"):
                self.start = gr.Button(
                    "Start", variant="primary", elem_id="evaluate-start", interactive=False, min_width=0
                )
            self.said = gr.HTML(elem_id="evaluate-said", padding=False)
        with gr.Column(elem_classes="tb-card", elem_id="evaluate-earlier"):
            gr.HTML('<h2 class="tb-title">Evaluations</h2>', padding=False)
            self.list = gr.HTML(
                html_template='<div class="tb-list"></div>',
                js_on_load="tuneboard.list(element, props, watch, trigger)",
                elem_id="evaluate-list",
                padding=False,
            )

    def _answer(self) -> None:
        self.blank = gr.HTML(empty(*NOTHING_JUDGED), elem_id="evaluate-blank", padding=False)
        with gr.Column(visible=False, elem_classes="tb-card", elem_id="evaluate-verdict") as self.verdict:
            self.head = gr.HTML(elem_id="evaluate-head", padding=False)
            self.stop = gr.Button(
                "Stop", size="sm", min_width=0, visible=False, elem_classes="tb-stop", elem_id="evaluate-stop"
            )
            self.table = gr.HTML(elem_id="evaluate-table", padding=False)
        with gr.Column(visible=False, elem_classes="tb-card", elem_id="evaluate-rows") as self.rows:
            with gr.Row(elem_classes="tb-card-top"):
                gr.HTML('<h2 class="tb-title">Rows side by side</h2>', padding=False)
                self.order = gr.Radio(
                    list(comparison.ORDERS), value="Worst first", show_label=False, container=False,
                    elem_classes="tb-segmented", elem_id="evaluate-order",
                )  # fmt: skip
                self.metric = gr.Dropdown(
                    [(f"by {shown.label}", key) for key, shown in comparison.METRICS.items()], value="loss", scale=0,
                    label="Measure", show_label=False, container=False, min_width=150, elem_id="evaluate-metric",
                )  # fmt: skip
            self.side_by_side = gr.HTML(elem_id="evaluate-side-by-side", padding=False)
            with gr.Row(elem_classes="tb-pager", visible=False) as self.pager:
                self.before = gr.Button("Earlier", size="sm", min_width=0)
                self.place = gr.HTML(padding=False)
                self.after = gr.Button("Later", size="sm", min_width=0)

    # Events

    def _connect(self) -> None:
        board, form = self.board, self.form
        tuned, base = form.components["tuned", ""], form.components["base", ""]
        judged = [form.channel, self.start, self.said]
        gr.on(
            [field.change for field in form.inputs],
            self._changed,
            form.inputs,
            judged,
            trigger_mode="always_last",
            **QUIET,
        )
        choices = [tuned, base, form.components["data", ""]]
        board.opens(
            self._arrived, [*board.visit, self.opened, *form.inputs], [*choices, self.opened, self.list, *judged]
        )
        board.asks(self._asked, (), [tuned, self.opened])
        board.moves(self._listed, [self.opened], [self.list])

        seen = [self.opened, self.watch, self.order, self.metric, self.page]
        shown = [self.watch, self.blank, self.verdict, self.head, self.stop, self.table, self.rows,
                 self.side_by_side, self.pager, self.place, self.metric, self.page]  # fmt: skip
        clock = board.timer(WATCH_SECONDS)
        clock.tick(self._tick, seen, [*shown, clock], **QUIET)
        board.opens(self._look, seen, shown)
        self.opened.change(lambda: 0, None, self.page, **QUIET).then(self._look, seen, shown, **QUIET).then(
            self._listed, self.opened, self.list, **QUIET
        ).then(lambda: gr.Timer(active=True), None, clock, **QUIET)
        for field in (self.order, self.metric):
            field.change(lambda *given: self._look(*given[:-1], 0), seen, shown, **QUIET)
        for button, step in ((self.before, -1), (self.after, 1)):
            button.click(lambda *given, step=step: self._look(*given[:-1], given[-1] + step), seen, shown, **QUIET)

        self.start.click(self._start, form.inputs, [self.opened, self.said], **QUIET)
        self.stop.click(self._stop, self.opened, None, **QUIET).then(self._look, seen, shown, **QUIET)
        self.list.select(self._picked, None, self.opened, **QUIET)

    def _offered(self) -> dict[str, list[Any]]:
        found = refs.offered(self.workspace)
        return {"weights": found, "datasets": [entry.name for entry in registry.entries(self.workspace)]}

    def _arrived(self, come: int, ask: Ask, opened: str, *values: Any) -> list[Any]:
        """Somebody comes to the tab: what can be chosen now, the newest run chosen, the newest evaluation open."""
        offered = self._offered()
        place = self.form.inputs.index(self.form.components["tuned", ""])
        chosen = ask.of(come) or values[place] or refs.newest(self.workspace)
        if wish := ask.of(come):
            opened = self._earlier(wish)
        elif runs.opened(self.workspace, opened) is None:
            opened = next((found.id for found in self._evaluations()), "")
        base = [("auto: what it was trained from", "auto"), *offered["weights"]]
        return [
            gr.Dropdown(offered["weights"], value=chosen), gr.Dropdown(base), gr.Dropdown(offered["datasets"]),
            opened, self._listed(opened), *self._changed(*values[:place], chosen, *values[place + 1 :]),
        ]  # fmt: skip

    def _asked(self, ref: str) -> list[Any]:
        """From another tab: this one is to be judged. Its newest evaluation is opened, if there is one."""
        return [gr.Dropdown(refs.offered(self.workspace), value=ref), self._earlier(ref)]

    def _earlier(self, ref: str) -> str:
        return next((found.id for found in self._evaluations() if getattr(found.args, "tuned", "") == ref), "")

    def _evaluations(self) -> list[runs.Summary]:
        return [found for found in runs.listed(self.workspace) if found.kind == "evaluate"]

    def _listed(self, opened: str) -> str:
        rows = []
        for found in self._evaluations():
            title = found.name or self._title(found.args) or found.id
            html = ledger.item(found, title, (comparison.summary_of(found.run) or {}).get("verdict", ""))
            rows.append({"id": found.id, "html": html, "words": f"{title} {found.id} {found.state}".lower()})
        nothing = '<p class="tb-muted">Each evaluation is kept here.</p>'
        return json.dumps({"rows": rows, "opened": opened, "nothing": nothing}, ensure_ascii=False)

    def _title(self, args: Any) -> str:
        """`first try against its base`, or empty when the arguments are of another version."""
        if not isinstance(args, EvaluateArgs):
            return ""
        base = "its base" if args.base == "auto" else refs.short(args.base, self.workspace)
        return f"{refs.short(args.tuned, self.workspace)} against {base}"

    def _picked(self, picked: gr.EventData) -> str:
        return str(picked.id)

    def _checked(self, values: Sequence[Any]) -> tuple[Any, list[Problem]]:
        args, problems = self.form.checked(values)
        if args is not None:
            for path in ("tuned", "base"):
                problems += refs.confined(path, getattr(args, path), self.workspace, self.allowed)
            problems = problems or preflight.problems(args, self.workspace, self.allowed, rows=False)
            problems = problems or self._rows_to_judge_on(args)
        return args, problems

    def _rows_to_judge_on(self, args: EvaluateArgs) -> list[Problem]:
        """Without datasets the held-out rows are needed: say so before the start, and not a minute after it."""
        run = weights.find(args.tuned, self.workspace).run
        if args.data or args.tuned.startswith("exports/"):
            return []
        if run is None:
            return [Problem("data", "Only a run has held-out rows. Choose a dataset to judge this one on.")]
        if not any(path.is_file() and path.stat().st_size for path in (run.test_path, run.heldout_path)):
            return [Problem("data", f"{run.id} held out no rows. Choose a dataset that it was not trained on.")]
        return []

    def _changed(self, *values: Any) -> list[Any]:
        args, problems = self._checked(values)
        nothing = not values[0]  # not chosen yet is no mistake
        words = '<p class="tb-muted">Choose a model to judge.</p>' if nothing else ""
        if problems and not nothing:
            words = sentence_error(self.form.label(problems[0], values), self._said(problems))
        hints = {"data": "the rows that the run held out"}
        news = self.form.news(values, [] if nothing else problems, args, hints=hints)
        return [news, gr.Button(interactive=not problems), words]

    def _said(self, problems: Sequence[Problem]) -> str:
        return refs.spoken(self.form.plain(" ".join(problem.text for problem in problems)), self.workspace)

    def _start(self, *values: Any) -> list[Any]:
        try:
            args, problems = self._checked(values)
            if problems:
                raise ArgsError(problems)
            run = runs.start(self.workspace, args, "evaluate", allowed=self.allowed)
        except BoardError as problem:
            return [gr.skip(), self.form.refusal(problem, values)]
        return [run.id, ""]

    def _stop(self, opened: str) -> None:
        if run := runs.opened(self.workspace, opened):
            runs.stop(run)

    def _look(self, opened: str, watch: Watch | None, order: str, metric: str, page: int) -> list[Any]:
        """What the right side shows now; only what differs is sent."""
        run = runs.opened(self.workspace, opened)
        if run is None:
            nothing = NOTHING_JUDGED if refs.newest(self.workspace) else NOTHING_TRAINED
            hidden = [
                gr.Column(visible=False),
                "",
                gr.Button(visible=False),
                "",
                gr.Column(visible=False),
                "",
                gr.skip(),
                "",
                gr.skip(),
                0,
            ]
            return [None, gr.HTML(empty(*nothing), visible=True), *hidden]
        if watch is None or watch.run.id != run.id:
            watch = Watch(run)
            watch.title = (found.name or self._title(found.args)) if (found := runs.summary(run)) else run.id
        watch.look()
        summary = comparison.summary_of(run)
        if summary:
            summary |= {side: refs.short(summary[side], self.workspace) for side in ("base", "tuned")}
            summary["rows_from"] = refs.spoken(summary["rows_from"], self.workspace)
        found = comparison.ordered(run, metric, order)
        html, page, pages = comparison.rows(found, page, metric, [self.workspace, *self.allowed])
        stopping = bool(watch.status.get("stopping"))
        place = f'<span class="tb-muted">page {page + 1:,} of {pages:,}</span>' if pages > 1 else ""
        parts: dict[str, dict[str, Any]] = {
            "blank": {"visible": False},
            "verdict": {"visible": True},
            "head": {"value": comparison.head(watch)},
            "stop": {"value": "Kill" if stopping else "Stop", "visible": watch.moving},
            "table": {"value": comparison.table(summary) if summary else ""},
            "rows": {"visible": bool(found)},
            "side": {"value": html},
            "pager": {"visible": pages > 1},
            "place": {"value": place},
            "metric": {"visible": "loss" in comparison.measured("loss", found)},  # pairs are measured in one way
        }
        return [watch, *(_new(watch, name, part) for name, part in parts.items()), page]

    def _tick(self, opened: str, *given: Any) -> list[Any]:
        run = runs.opened(self.workspace, opened)
        moving = run is not None and run.state() in runs.MOVING
        return [*self._look(opened, *given), gr.skip() if moving else gr.Timer(active=False)]


def _new(watch: Watch, name: str, part: dict[str, Any]) -> Any:
    if watch.sent.get(name) == part:
        return gr.skip()
    watch.sent[name] = part
    return gr.update(**part)
