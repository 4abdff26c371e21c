"""Export: what do I take away? The choice on the left; what was made of it, with its receipt, at the right.

An export is a run of its own; this page starts it, watches it and shows the receipt. `app.results.shelf` reads and
draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr

from app.board import QUIET, Ask, Board
from app.form import Form
from app.results import refs, shelf
from app.running import runs
from app.running.live import progress, verdict
from app.running.watch import Watch
from app.theme import Help, empty, pill, sentence_error
from data.checking import preflight
from engine.contract.args import ExportArgs
from engine.contract.errors import ArgsError, BoardError, Problem

TITLE = "Export"
WATCH_SECONDS = 1.0
NOTHING_TRAINED = (
    "Nothing to take away yet",
    "Train a model first; here it is merged, verified and made ready to use.",
)
NOTHING_MADE = (
    "Take your model with you",
    "Press Export: the result is written, loaded afresh and compared with the tuned model before it gets its name.",
)
CHOICE = """element.addEventListener('click', event => {
  const button = event.target.closest('button[data-form]');
  if (button && !button.disabled) trigger('select', {id: button.dataset.form});
})"""
FETCH = "() => document.querySelector('#export-file')?.click()"


def help_texts() -> dict[str, Help]:
    """What the (i) of each field says."""
    return Form.help_of(ExportArgs, "export")


def build(board: Board) -> None:
    Export(board)


class Export:
    """The components of the tab and their events."""

    def __init__(self, board: Board) -> None:
        self.board, self.workspace, self.allowed = board, board.workspace, board.allowed
        self.form = Form(ExportArgs, "export", {"weights": refs.offered(self.workspace)})
        self.opened, self.working, self.watch = gr.State(""), gr.State(""), gr.State(None)
        with gr.Row(elem_classes="tb-columns"):
            with gr.Column(scale=1, min_width=360, elem_classes="tb-sticky"):
                self._choose()
            with gr.Column(scale=2, min_width=560):
                self._made()
        self._connect()

    # Layout

    def _choose(self) -> None:
        form = self.form
        with gr.Column(elem_classes="tb-card"):
            gr.HTML('<h2 class="tb-title">What do you take away?</h2>', padding=False)
            form.field("tuned")
            self.cards = gr.HTML(shelf.cards(None, "merged"), js_on_load=CHOICE, elem_id="export-cards", padding=False)
            form.field("form", elem_classes="tb-away")
            form.field("to")
            form.more(leave_out=("name", "description"), last="More")
            with gr.Row(elem_classes="tb-actions"):
                self.start = gr.Button(
                    "Export", variant="primary", elem_id="export-start", interactive=False, min_width=0
                )
            self.said = gr.HTML(elem_id="export-said", padding=False)
        with gr.Column(elem_classes="tb-card", elem_id="export-earlier"):
            gr.HTML('<h2 class="tb-title">Exports</h2>', padding=False)
            self.list = gr.HTML(
                html_template='<div class="tb-list"></div>',
                js_on_load="tuneboard.list(element, props, watch, trigger)",
                elem_id="export-list",
                padding=False,
            )

    def _made(self) -> None:
        with gr.Column(visible=False, elem_classes="tb-card", elem_id="export-work") as self.work:
            self.head = gr.HTML(elem_id="export-head", padding=False)
            self.stop = gr.Button("Stop", size="sm", min_width=0, elem_classes="tb-stop", elem_id="export-stop")
        self.blank = gr.HTML(empty(*NOTHING_MADE), elem_id="export-blank", padding=False)
        with gr.Column(visible=False, elem_classes="tb-card", elem_id="export-made") as self.made:
            self.receipt = gr.HTML(elem_id="export-receipt", padding=False)
            with gr.Row(elem_classes="tb-run-buttons"):
                self.zip = gr.Button("Download as zip", size="sm", min_width=0, elem_id="export-zip")
                self.chat = gr.Button("Chat", size="sm", min_width=0, visible=self.board.has("chat"))
                self.judge = gr.Button("Evaluate", size="sm", min_width=0, visible=self.board.has("evaluate"))
                self.remove = gr.Button("Delete", size="sm", min_width=0, elem_id="export-delete")
            self.file = gr.DownloadButton("Download", elem_id="export-file", elem_classes="tb-channel")
            with gr.Row(visible=False, elem_classes="tb-confirm", elem_id="export-confirm") as self.confirm:
                gr.HTML("<span>Delete this export? This cannot be undone.</span>", padding=False)
                self.sure = gr.Button("Delete for good", size="sm", min_width=0, elem_classes="tb-danger-button")
                self.keep = gr.Button("Keep it", size="sm", min_width=0)
            self.trouble = gr.HTML(elem_id="export-trouble", padding=False)

    # Events

    def _connect(self) -> None:
        board, form = self.board, self.form
        tuned, kind = form.components["tuned", ""], form.components["form", ""]
        judged = [form.channel, self.cards, self.start, self.said]
        typing = {**QUIET, "trigger_mode": "always_last"}
        gr.on([field.change for field in form.inputs], self._changed, form.inputs, judged, **typing)
        self.cards.select(self._picked, None, kind, **QUIET)
        tuned.change(self._possible, [tuned, kind], kind, **QUIET)
        arrived = [*board.visit, self.opened, self.working, *form.inputs]
        board.opens(self._arrived, arrived, [tuned, self.opened, self.working, self.list, *judged])
        board.asks(self._asked, (), [tuned])

        looked = [self.working, self.watch, self.opened]
        shown = [self.watch, self.work, self.head, self.stop, self.opened, self.list]
        clock = board.timer(WATCH_SECONDS)
        clock.tick(self._tick, looked, [*shown, clock], **QUIET)
        self.working.change(self._look, looked, shown, **QUIET).then(
            lambda: gr.Timer(active=True), None, clock, **QUIET
        )
        right = [self.blank, self.made, self.receipt, self.confirm, self.list, self.trouble]
        # A name that was free may be taken now, and the other way round.
        self.opened.change(self._open, self.opened, right, **QUIET).then(self._changed, form.inputs, judged, **QUIET)
        board.opens(self._open, [self.opened], right)

        self.start.click(self._start, form.inputs, [self.working, self.said], **QUIET)
        self.stop.click(self._stop, self.working, None, **QUIET).then(self._look, looked, shown, **QUIET)
        self.list.select(self._picked, None, self.opened, **QUIET)
        self.zip.click(self._zip, self.opened, [self.file, self.trouble], api_visibility="private").success(
            None, None, None, js=FETCH
        )
        for button, tab in ((self.chat, "chat"), (self.judge, "evaluate")):
            if board.has(tab):
                button.click(
                    lambda name, tab=tab: board.jump(tab, f"exports/{name}"), self.opened, board.jump_to(tab), **QUIET
                )
        self.remove.click(lambda: gr.Row(visible=True), None, self.confirm, **QUIET)
        self.keep.click(lambda: gr.Row(visible=False), None, self.confirm, **QUIET)
        self.sure.click(self._delete, self.opened, [self.opened, self.trouble], **QUIET)

    def _arrived(self, come: int, ask: Ask, opened: str, working: str, *values: Any) -> list[Any]:
        """Somebody comes to the tab: what can be chosen now, the newest run chosen, the newest export open."""
        place = self.form.inputs.index(self.form.components["tuned", ""])
        chosen = ask.of(come) or values[place] or refs.newest(self.workspace)
        exports = shelf.listed(self.workspace)
        if opened not in [found.name for found in exports]:
            opened = exports[0].name if exports else ""
        last = next((found for found in runs.listed(self.workspace) if found.kind == "export"), None)
        if not working and last is not None and last.moving:
            working = last.id
        return [
            gr.Dropdown(refs.offered(self.workspace), value=chosen), opened, working,
            shelf.listing(self.workspace, opened),
            *self._changed(*values[:place], chosen, *values[place + 1 :]),
        ]  # fmt: skip

    def _asked(self, ref: str) -> Any:
        return gr.Dropdown(refs.offered(self.workspace), value=ref)

    def _possible(self, tuned: str, form: str) -> Any:
        """The other form where there is only that one."""
        try:
            sizes = shelf.sizes(tuned, "auto", self.workspace)
        except BoardError:
            return gr.skip()  # what is wrong with it is said below the form
        only = [name for name in shelf.ABOUT if getattr(sizes, name) is not None]
        return only[0] if tuned and len(only) == 1 and only[0] != form else gr.skip()

    def _picked(self, picked: gr.EventData) -> str:
        return str(picked.id)

    def _checked(self, values: Sequence[Any]) -> tuple[Any, list[Problem]]:
        args, problems = self.form.checked(values)
        if args is not None:
            problems += refs.confined("tuned", args.tuned, self.workspace, self.allowed)
            problems = problems or preflight.problems(args, self.workspace, self.allowed, rows=False)
            if args.to and shelf.opened(self.workspace, args.to):
                problems.append(Problem("to", f"There is an export called {args.to} already. Choose another name."))
        return args, problems

    def _changed(self, *values: Any) -> list[Any]:
        args, problems = self._checked(values)
        sizes = None
        if args is not None and not any(problem.path == "tuned" for problem in problems):
            sizes = shelf.sizes(args.tuned, args.dtype, self.workspace)
            if getattr(sizes, args.form) is None:
                other = next(form for form in shelf.MISSING if form != args.form)
                problems.append(Problem("form", f"{shelf.MISSING[args.form]} Choose {other}."))
        nothing = not values[0]  # not chosen yet is no mistake
        words = '<p class="tb-muted">Choose a model to export.</p>' if nothing else ""
        if problems and not nothing:
            said = refs.spoken(self.form.plain(problems[0].text), self.workspace)
            words = sentence_error(self.form.label(problems[0], values), said)
        hints = {"to": "the run's name"}
        chosen = args.form if args else "merged"
        return [
            self.form.news(values, [] if nothing else problems, args, hints=hints),
            shelf.cards(sizes, chosen),
            gr.Button(interactive=not problems),
            words,
        ]

    def _start(self, *values: Any) -> list[Any]:
        try:
            args, problems = self._checked(values)
            if problems:
                raise ArgsError(problems)
            run = runs.start(self.workspace, args, "export", allowed=self.allowed)
        except BoardError as problem:
            return [gr.skip(), self.form.refusal(problem, values)]
        return [run.id, ""]

    def _stop(self, working: str) -> None:
        if run := runs.opened(self.workspace, working):
            runs.stop(run)

    def _look(self, working: str, watch: Watch | None, opened: str) -> list[Any]:
        """The export that is being made; once it is done its receipt opens, and it needs no card of its own."""
        run = runs.opened(self.workspace, working)
        if run is None:
            return [None, gr.Column(visible=False), "", gr.skip(), gr.skip(), gr.skip()]
        if watch is None or watch.run.id != run.id:
            watch = Watch(run)
            args = found.args if (found := runs.summary(run)) else None
            watch.title = refs.short(args.tuned, self.workspace) if isinstance(args, ExportArgs) else run.id
        before = watch.state
        watch.look()
        fresh = before in runs.MOVING and watch.state == "done" and watch.result
        name = watch.result.facts.get("name", opened) if fresh and watch.result else opened
        return [
            watch,
            gr.Column(visible=watch.state != "done"),
            _head(watch),
            gr.Button("Kill" if watch.status.get("stopping") else "Stop", visible=watch.moving),
            name,
            shelf.listing(self.workspace, name),
        ]

    def _tick(self, working: str, watch: Watch | None, opened: str) -> list[Any]:
        run = runs.opened(self.workspace, working)
        still = run is None or run.state() not in runs.MOVING
        return [*self._look(working, watch, opened), gr.Timer(active=False) if still else gr.skip()]

    def _open(self, opened: str) -> list[Any]:
        found = shelf.opened(self.workspace, opened)
        nothing = NOTHING_MADE if refs.newest(self.workspace) else NOTHING_TRAINED
        return [
            gr.HTML(empty(*nothing), visible=found is None),
            gr.Column(visible=found is not None),
            shelf.receipt(found, self.workspace) if found else "",
            gr.Row(visible=False),
            shelf.listing(self.workspace, opened),
            "",
        ]

    def _zip(self, opened: str) -> list[Any]:
        found = shelf.opened(self.workspace, opened)
        if found is None:
            raise gr.Error("This export is not there any more.")
        try:
            # Inside gradio's own cache, from where it is served without being copied once more.
            path = shelf.zipped(found, self.workspace / "cache" / "page" / "zip")
        except BoardError as problem:
            return [gr.skip(), sentence_error(problem.text, problem.hint)]
        return [gr.DownloadButton(value=str(path)), ""]

    def _delete(self, opened: str) -> list[Any]:
        try:
            shelf.delete(self.workspace, opened)
        except BoardError as problem:
            return [gr.skip(), sentence_error(problem.text, problem.hint)]
        return ["", ""]


def _head(watch: Watch) -> str:
    trouble = "" if watch.state == "done" else verdict(watch)
    doing = "stopping" if watch.status.get("stopping") else watch.phase
    return (
        f'<div class="tb-run-head">{trouble}<div class="tb-run-line">{pill(watch.state)}'
        f"<strong>{escape(watch.title)}</strong><span>{escape(doing if watch.moving else '')}</span></div>"
        f"{progress(watch) if watch.moving else ''}</div>"
    )
