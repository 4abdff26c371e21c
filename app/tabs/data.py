"""Data: any file in, its rows seen as a table and as conversations, what is wrong found and mended.

The parts are `app.datasets.adding`, `app.datasets.mapped`, `app.datasets.keeping`, `app.datasets.browse` and
`app.datasets.advice`: here they are laid out and connected, around one draft: the open dataset's entry, saved or not.
The user's file is never changed.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from html import escape
from typing import Any

import gradio as gr

from app.board import QUIET, Ask, Board
from app.datasets import adding, advice, browse, dataset, headline, keeping, making, mapped, table, whole
from app.datasets.adding import Adding
from app.datasets.browse import Browser, Seen
from app.datasets.dataset import Window
from app.datasets.keeping import Keeping
from app.datasets.making import Making
from app.datasets.mapped import Mapped
from app.datasets.table import EVERYTHING
from app.theme import Help, sentence_error
from data.datasets import registry
from data.datasets.registry import Entry
from engine.contract.errors import BoardError

TITLE = "Data"
PANELS = {"add": "Add data", "columns": "Columns", "keep": "Save and export", "make": "Make rows"}
POLL_SECONDS = 1.0
# One click after the other, so that the panel that was asked for last is the one that stands open.
IN_ORDER: dict[str, Any] = {"concurrency_id": "data-panel", "concurrency_limit": 1}


def help_texts() -> dict[str, Help]:
    """What the (i) of each field says."""
    return {**adding.HELP, **browse.HELP, **mapped.HELP, **keeping.HELP, **making.help_texts()}


def build(board: Board) -> None:
    Data(board)


class Data:
    """The components of the tab and their events."""

    def __init__(self, board: Board) -> None:
        self.board, self.workspace, self.allowed = board, board.workspace, board.allowed
        self.draft = gr.State("")  # the entry of the open dataset as JSON
        with gr.Column(elem_classes="tb-card", elem_id="data-top"):
            self._top()
        with gr.Row(elem_classes="tb-columns"):
            with gr.Column(scale=3, min_width=560, elem_classes="tb-card", elem_id="data-rows"):
                self.browser = Browser(board)
            with gr.Column(scale=1, min_width=300, elem_classes=["tb-card", "tb-sticky"], elem_id="data-side"):
                with gr.Row(elem_classes="tb-card-top"):
                    gr.HTML('<h2 class="tb-title">Findings</h2>', padding=False)
                    self.undo = gr.Button("Undo", size="sm", min_width=0, visible=False, elem_id="data-undo")
                self.findings = gr.HTML(
                    js_on_load="tuneboard.pressed(element, trigger)", elem_id="data-findings", padding=False
                )
                self.through = gr.State("")  # says which rows the findings are about, when that is all of a large file
        self._connect()

    def _top(self) -> None:
        with gr.Row(elem_classes="data-choose"):
            self.choice = gr.Dropdown(keeping.offered(self.workspace, self.allowed), value=None, label="Dataset",
                                      elem_id="data-choice", allow_custom_value=True, min_width=260)  # fmt: skip
            buttons = {name: gr.Button(title, min_width=0, elem_id=f"data-to-{name}") for name, title in PANELS.items()}
            self.train = gr.Button("Train on this", variant="primary", min_width=0, elem_id="data-train")
        self.said = gr.HTML(elem_id="data-said", elem_classes="data-said", padding=False)
        self.headline = gr.HTML(
            js_on_load="tuneboard.pressed(element, trigger)", elem_id="data-headline", padding=False
        )
        panels = {}
        self.panel = gr.State("")  # the one that is open
        with gr.Column(visible=False, elem_id="data-adding", elem_classes="data-panel") as panels["add"]:
            self.adding = Adding(self.board)
        with gr.Column(visible=False, elem_id="data-columns", elem_classes="data-panel") as panels["columns"]:
            self.mapped = Mapped()
        with gr.Column(visible=False, elem_id="data-keeping", elem_classes="data-panel") as panels["keep"]:
            self.keeping = Keeping(self.board)
        with gr.Column(visible=False, elem_id="data-making", elem_classes="data-panel") as panels["make"]:
            self.making = Making(self.board)
        self.making.begins_with(self.choice, buttons["make"])
        for name, button in buttons.items():
            button.click(
                lambda now, name=name: "" if now == name else name, self.panel, self.panel,
                trigger_mode="multiple", **IN_ORDER, **QUIET,
            )  # fmt: skip
        self.panel.change(
            lambda now: [gr.Column(visible=name == now) for name in panels], self.panel, list(panels.values()),
            **IN_ORDER, **QUIET,
        )  # fmt: skip

    # Events

    def _connect(self) -> None:
        board, browser = self.board, self.browser
        browser.connect(self.draft)
        self.adding.connect(self.choice)
        self.mapped.connect(self.draft)
        self.keeping.connect(self.draft, self.choice)
        opened = [self.draft, browser.seen, self.said, browser.words, browser.keep, browser.length]
        board.opens(self._arrived, [*board.visit, self.choice, board.dataset], [self.choice, *opened])
        self.choice.change(lambda choice: choice or "", self.choice, board.dataset, **QUIET)
        board.asks(lambda ref: gr.Dropdown(keeping.offered(self.workspace, self.allowed), value=ref), (), [self.choice])
        self.choice.change(self._choose, [self.choice, self.draft, browser.seen], opened, **QUIET)
        self.clock = board.timer(POLL_SECONDS)  # ticks while all rows of a large file are looked at
        found = [self.findings, self.undo, browser.keep, self.through, self.clock]
        looked = [self.draft, browser.seen, browser.keep]
        # The rows first; what takes longer comes when it comes, and is then marked in them.
        self.draft.change(browser.drawn, browser.asked, browser.shown, **browse.IN_ORDER)
        self.draft.change(self._about, self.draft, self.headline, **QUIET)
        self.headline.select(
            lambda draft: dataset.entry(draft).model_copy(update={"skip_bad": True}).model_dump_json(),
            self.draft, self.draft, **QUIET,
        )  # fmt: skip
        self.draft.change(self._found, looked, found, **QUIET).then(
            browser.marked, browser.asked, browser.shown, **browse.IN_ORDER
        )
        self.draft.change(self._panel, [self.draft, self.panel], self.panel, **QUIET)
        self.draft.change(self.mapped.drawn, [self.draft, self.mapped.place], self.mapped.shown, **QUIET)
        self.draft.change(self.keeping.drawn, self.draft, self.keeping.shown, **QUIET)
        browser.touched.change(self._about, self.draft, self.headline, **QUIET).then(
            self._found, looked, found, **QUIET
        )
        self.findings.select(
            self._pressed,
            [self.draft, browser.seen, self.through],
            [browser.keep, browser.seen, browser.touched, self.said],
            **browse.IN_ORDER,
        ).then(self._found, looked, found, **QUIET).then(browser.drawn, browser.asked, browser.shown, **browse.IN_ORDER)
        self.clock.tick(self._polled, looked, found, **QUIET)
        self.through.change(browser.marked, browser.asked, browser.shown, **browse.IN_ORDER)
        self.undo.click(self._undo, self.draft, [browser.touched, self.said], **QUIET)
        if board.has("train"):
            self.train.click(
                self._train, [self.draft, self.choice], [*board.jump_to("train"), self.choice, self.said], **QUIET
            )

    def _arrived(self, come: int, ask: Ask, choice: str | None, addressed: str) -> list[Any]:
        """Somebody comes to the tab: what is listed now; where nothing is open, what the address says, or the first."""
        offered = keeping.offered(self.workspace, self.allowed)
        if choice or ask.of(come):
            return [gr.Dropdown(offered), *([gr.skip()] * 6)]
        choice = addressed or offered[0][1]
        return [gr.Dropdown(offered, value=choice), *self._choose(choice)]

    def _choose(self, choice: str | None, draft: str = "", seen: Seen | None = None) -> list[Any]:
        """Another dataset: its entry, from its first row on, with nothing searched for. Nobody waits for the old."""
        if draft and seen and seen.whole:
            self._leave(draft)
        everything = gr.Dropdown([("All rows", EVERYTHING)], value=EVERYTHING)
        try:
            entry = registry.find(choice, self.workspace, self.allowed) if choice else None
        except BoardError as problem:
            return ["", Seen(), sentence_error(problem.text, problem.hint), "", everything, ""]
        return [entry.model_dump_json() if entry else "", Seen(), "", "", everything, ""]

    def _about(self, draft: str) -> str:
        """What is said of a dataset as a whole."""
        if not draft:
            return ""
        entry = dataset.entry(draft)
        try:
            return headline.html(entry, dataset.window(entry), dataset.head(entry))
        except BoardError:  # said in place of the table
            return (
                f'<p class="data-about"><b>Not read</b> · <span class="tb-muted">{escape(entry.path.name)}</span></p>'
            )

    def _panel(self, draft: str, now: str) -> Any:
        """What was added is shown; where nobody knows what its columns mean, so is the place to say it."""
        try:
            dataset.head(dataset.entry(draft))
        except dataset.Unrecognised:
            return "columns"
        except (BoardError, ValueError):  # nothing is open, or nothing can be read
            return gr.skip()
        return "" if now == "add" else gr.skip()

    def _found(self, draft: str, seen: Seen, keep: str) -> list[Any]:
        """What is wrong in the rows, with the filter that shows it."""
        nothing = ["", gr.Button(visible=False), gr.skip(), "", gr.Timer(active=False)]
        if not draft:
            return nothing
        entry = dataset.entry(draft)
        try:
            window = dataset.window(entry, seen.start)
            answer = whole.known(entry, self.workspace) if seen.whole else None
            if answer:
                found = dataset.looked_through(dataset.window(entry, seen.start, seen.only), answer)
                looked_at, act, waiting = f"Looked at all {answer.rows:,} rows.", "", False
            else:
                found = dataset.look(entry, seen.start)
                looked_at, act, waiting = self._looked_at(entry, window, seen)
            last = dataset.patch(entry).last() if entry.patch else ""
        except BoardError:
            return nothing  # said in place of the table
        filters = table.filters(window.lines, advice.titles(found))
        # What is chosen is left alone where it can be: somebody may have chosen anew while this was found out.
        kept = keep in [word for _, word in filters]
        return [
            advice.html(found, looked_at, act),
            gr.Button(f"Undo: {last}", visible=bool(last)),
            gr.Dropdown(filters) if kept else gr.Dropdown(filters, value=EVERYTHING),
            whole.key(entry) if answer else "",
            gr.Timer(active=waiting),
        ]

    def _looked_at(self, entry: Entry, window: Window, seen: Seen) -> tuple[str, str, bool]:
        """In which rows was looked, what can be done about the others, and whether they are being looked at."""
        if not (window.more or window.start):
            count = len(window.lines)
            return f"Looked at all {count:,} rows." if count != 1 else "Looked at the one row.", "", False
        total = dataset.total(entry)
        if window.start:
            where = f"rows {window.start + 1:,} to {window.end:,} of {f'{total:,}' if total else 'a larger file'}"
        else:
            where = f"the first {window.end:,} {f'of {total:,} rows' if total else 'rows of a larger file'}"
        said = f"Looked at {where}."
        if not seen.whole:
            return said, "look", False
        how_far = whole.ask(entry, self.workspace)
        if whole.failed(entry, self.workspace):
            return f"{said} The look at all of them ended: {how_far}", "", False
        return f"{said} Looking at all of them: {how_far or 'it begins'}.", "stop", True

    def _polled(self, draft: str, seen: Seen, keep: str) -> list[Any]:
        """How far the look at all rows is."""
        return self._found(draft, seen, keep) if seen.whole else [*([gr.skip()] * 4), gr.Timer(active=False)]

    def _leave(self, draft: str) -> None:
        with suppress(BoardError):  # the file is gone, and the look at it ends by itself
            whole.leave(dataset.entry(draft), self.workspace)

    def _pressed(self, pressed: gr.EventData, draft: str, seen: Seen, through: str) -> list[Any]:
        """A finding's rows are shown, or mended; or all rows are to be looked at, or not."""
        word, _, mark = str(pressed.id).partition(":")
        same = [gr.skip()] * 4
        entry = dataset.entry(draft)
        if word == "all":
            if mark == "stop":
                self._leave(draft)
            return [gr.skip(), replace(seen, whole=mark == "look"), gr.skip(), ""]
        try:
            answer = whole.known(entry, self.workspace) if through else None
            if word == "mend":
                dataset.mended(entry, seen.start, mark, answer)
                return [gr.skip(), gr.skip(), time.time_ns(), ""]
            if answer and (found := dataset.marks(answer).get(mark)):
                seen = replace(seen, opened=0, page=0, only=found.rows[: dataset.NAMED])
                return [gr.Dropdown(value=EVERYTHING), seen, gr.skip(), ""]
        except BoardError as problem:
            return [*same[:3], sentence_error(problem.text, problem.hint)]
        return [gr.Dropdown(value=f"finding:{mark}"), replace(seen, opened=0, page=0), gr.skip(), ""]

    def _train(self, draft: str, choice: str) -> list[Any]:
        """To Train with this dataset chosen; columns that were changed are kept, for they are what is to be trained."""
        stay = [gr.skip()] * 5
        if not draft:
            return [*stay, sentence_error("No dataset is open.", "Choose one first.")]
        entry = dataset.entry(draft)
        try:
            dataset.head(entry)
            if entry != registry.find(choice, self.workspace, self.allowed):
                choice = registry.save(entry, self.workspace).name
        except BoardError as problem:
            return [*stay, sentence_error(problem.text, problem.hint)]
        offered = keeping.offered(self.workspace, self.allowed)
        return [*self.board.jump("train", f"data:{choice}"), gr.Dropdown(offered, value=choice), ""]

    def _undo(self, draft: str) -> list[Any]:
        try:
            dataset.patch(dataset.entry(draft)).undo()
        except BoardError as problem:
            return [gr.skip(), sentence_error(problem.text, problem.hint)]
        return [time.time_ns(), ""]
