"""The rows of the open dataset on the page: table and conversation, search and filter, from row to row.

    browser = Browser(board)             # makes the components where it is called
    browser.connect(draft)               # draft: a state that holds the open dataset's entry as JSON, or nothing
    event.then(browser.drawn, browser.asked, browser.shown)

It lays out and connects; the rows are `app.datasets.dataset`, the drawings `app.datasets.table` and
`app.datasets.turns`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from app.board import QUIET, Board
from app.datasets import dataset, editor, table, turns
from app.datasets.dataset import Window
from app.datasets.table import EVERYTHING, Line, Query
from app.theme import Help, empty, sentence_error
from engine.contract.errors import BoardError, DataError

# One after the other, so that what was asked for last is what is seen, however long an answer takes.
IN_ORDER: dict[str, Any] = {**QUIET, "concurrency_id": "data-rows", "concurrency_limit": 1}
AS_YOU_TYPE: dict[str, Any] = {**IN_ORDER, "trigger_mode": "always_last"}
NOTHING = ("No dataset is open", "Choose one above, or press Add data: a file, pasted rows, an address or a hub's id.")
HELP = {
    "data-words": Help("Shows the rows that hold all of these words, anywhere in their text."),
    "data-keep": Help("Shows only some of the rows: those with a finding, edited ones, those with tools ..."),
    "data-length": Help("Shows the rows whose text has so many characters.", usual="100-2000, 100- or -2000"),
}


@dataclass(frozen=True)
class Seen:
    """Which part of the dataset is on screen: the window, the page and its order, the row that is open."""

    start: int = 0
    page: int = 0
    order: str = "number"
    down: bool = False
    opened: int = 0
    whole: bool = False  # whether findings are those of all rows of a large file
    only: tuple[int, ...] = ()  # rows that are shown alone, wherever they are


@dataclass(frozen=True)
class Looked:
    """What a query found: the window, the lines that it keeps, and the query."""

    window: Window
    found: list[Line]
    query: Query


class Browser:
    """The components of table and conversation. `words`, `keep`, `length` are the query, `seen` the place."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.seen = gr.State(Seen())
        self.touched = gr.State(0)  # when a row was last changed
        with gr.Row(elem_classes="data-bar"):
            self.words = gr.Textbox(
                placeholder="words", label="Search", elem_id="data-words", max_lines=1, min_width=140
            )
            self.keep = gr.Dropdown([("All rows", EVERYTHING)], value=EVERYTHING, label="Show", elem_id="data-keep",
                                    min_width=140)  # fmt: skip
            self.length = gr.Textbox(
                placeholder="such as 100-2000", label="Characters", elem_id="data-length", max_lines=1, min_width=110
            )
        with gr.Column(elem_id="data-tabled") as self.tabled:
            self.table = gr.HTML(
                empty(*NOTHING), js_on_load="tuneboard.pressed(element, trigger)", elem_id="data-table", padding=False
            )
            with gr.Row(elem_classes="tb-pager"):
                self.before = gr.Button("Earlier", size="sm", min_width=0, interactive=False)
                self.place = gr.HTML(elem_id="data-place", padding=False)
                self.after = gr.Button("Later", size="sm", min_width=0, interactive=False, elem_id="data-later")
                self.first = gr.Button("First rows", size="sm", min_width=0, visible=False)
                self.further = gr.Button("Next rows", size="sm", min_width=0, visible=False, elem_id="data-further")
        with gr.Column(elem_id="data-opened", visible=False) as self.opened:
            with gr.Row(elem_classes="tb-pager"):
                self.back = gr.Button("Back to the table", size="sm", min_width=0, elem_id="data-back")
                self.previous = gr.Button("Previous", size="sm", min_width=0, elem_id="data-previous")
                self.head = gr.HTML(elem_id="data-row-head", padding=False)
                self.next = gr.Button("Next", size="sm", min_width=0, elem_id="data-next")
                self.edit = gr.Button("Edit", size="sm", min_width=0, elem_id="data-edit")
                self.exclude = gr.Button("Exclude", size="sm", min_width=0, elem_id="data-exclude")
                self.restore = gr.Button("Restore", size="sm", min_width=0, elem_id="data-restore", visible=False)
            self.said = gr.HTML(elem_id="data-row-said", elem_classes="data-said", padding=False)
            self.talk = gr.HTML(js_on_load="tuneboard.pressed(element, trigger)", elem_id="data-talk", padding=False)
            with gr.Column(visible=False, elem_id="data-editor") as self.editor:
                self.text = gr.Code(label="The row as it is to be", language="yaml", elem_id="data-text", max_lines=24,
                                    wrap_lines=True)  # fmt: skip
                with gr.Row(elem_classes="tb-pager"):
                    self.keep_edit = gr.Button("Keep this", variant="primary", size="sm", min_width=0,
                                               elem_id="data-keep-edit")  # fmt: skip
                    self.leave = gr.Button("Leave it as it was", size="sm", min_width=0)
        self.shown = [
            self.seen, self.tabled, self.table, self.place, self.before, self.after, self.first, self.further,
            self.opened, self.head, self.talk, self.previous, self.next, self.exclude, self.restore, self.said,
            self.editor,
        ]  # fmt: skip

    def connect(self, draft: gr.State) -> None:
        self.asked = [draft, self.seen, self.words, self.keep, self.length]
        for field in (self.words, self.keep, self.length):
            field.change(self._moved(lambda seen, _: replace(seen, page=0)), self.asked, self.shown, **AS_YOU_TYPE)
        self.table.select(self._pressed, self.asked, self.shown, **IN_ORDER)
        moves: dict[gr.Button, Callable[[Seen, Looked], Seen]] = {
            self.before: lambda seen, _: replace(seen, page=seen.page - 1),
            self.after: lambda seen, _: replace(seen, page=seen.page + 1),
            self.first: lambda seen, _: replace(seen, start=0, page=0, only=()),
            self.further: lambda seen, looked: replace(seen, start=looked.window.end, page=0),
            self.back: lambda seen, _: replace(seen, opened=0),
            self.previous: lambda seen, looked: _turned(seen, looked.found, before=True),
            self.next: lambda seen, looked: _turned(seen, looked.found, before=False),
        }
        for button, move in moves.items():
            # Rows far into a large file take a while, for they are counted from its beginning.
            quiet = {**IN_ORDER, "show_progress": "minimal"} if button is self.further else IN_ORDER
            button.click(self._moved(move), self.asked, self.shown, **quiet)

        here = self.asked[:2]
        edited = [self.touched, self.said]
        self.edit.click(self._edit, here, [self.talk, self.said], **IN_ORDER)
        self.talk.select(self._told, self.asked, [*edited, self.talk, self.text, self.editor], **IN_ORDER)
        self.leave.click(self.drawn, self.asked, self.shown, **IN_ORDER)
        self.keep_edit.click(self._keep, [*here, self.text], edited, **IN_ORDER)
        self.exclude.click(self._exclude, here, edited, **IN_ORDER)
        self.restore.click(self._restore, here, edited, **IN_ORDER)
        self.touched.change(self.drawn, self.asked, self.shown, **IN_ORDER)

    def drawn(self, draft: str, seen: Seen, *query: Any) -> list[Any]:
        """The table, or the row that is open."""
        return self._drawn(draft, seen, query)

    def marked(self, draft: str, seen: Seen, *query: Any) -> list[Any]:
        """The same, with what was found in the rows meanwhile. The text of the open row stays as it is: somebody may be
        editing it."""
        left = self.talk, self.said, self.editor
        drawn = zip(self.shown, self._drawn(draft, seen, query), strict=True)
        return [gr.skip() if place in left else what for place, what in drawn]

    def _drawn(self, draft: str, seen: Seen, query: Sequence[Any]) -> list[Any]:
        try:
            looked = look(draft, seen, *query)
        except BoardError as problem:
            return self._nothing(seen, sentence_error(problem.text, problem.hint))
        if looked is None:
            return self._nothing(seen, empty(*NOTHING))
        last = table.pages(len(looked.found)) - 1
        seen = replace(seen, page=min(max(0, seen.page), last))
        line = looked.window.line(seen.opened)
        return [
            seen,
            gr.Column(visible=line is None),
            table.html(looked.found, looked.query, seen.page, seen.opened),
            _where(looked, seen),
            gr.Button(interactive=seen.page > 0),
            gr.Button(interactive=seen.page < last),
            gr.Button(visible=looked.window.start > 0 or bool(seen.only)),
            gr.Button(visible=looked.window.more),
            gr.Column(visible=line is not None),
            *(_row(line, looked.found) if line else [gr.skip()] * 6),
            "",
            gr.Column(visible=False),
        ]

    def _nothing(self, seen: Seen, said: str) -> list[Any]:
        still = [gr.Button(interactive=False), gr.Button(interactive=False), gr.skip(), gr.skip()]
        return [seen, gr.Column(visible=True), said, "", *still, gr.Column(visible=False), *([gr.skip()] * 8)]

    def _moved(self, move: Callable[[Seen, Looked], Seen]) -> Callable[..., list[Any]]:
        """What to do when somebody goes elsewhere: `move` takes the place and what is found there."""

        def moved(draft: str, seen: Seen, *query: Any) -> list[Any]:
            try:
                looked = look(draft, seen, *query)
            except BoardError:
                looked = None  # said by what is drawn
            return self._drawn(draft, move(seen, looked) if looked else seen, query)

        return moved

    def _pressed(self, pressed: gr.EventData, draft: str, seen: Seen, *query: Any) -> list[Any]:
        word, _, value = str(pressed.id).partition(":")
        if word == "row":
            seen = replace(seen, opened=int(value))
        elif word == "sort" and value in table.COLUMNS:
            seen = replace(seen, page=0, order=value, down=seen.order == value and not seen.down)
        return self._drawn(draft, seen, query)

    def _edit(self, draft: str, seen: Seen) -> list[Any]:
        try:
            return [turns.editable(_line(draft, seen).row), ""]
        except BoardError as problem:
            return [gr.skip(), sentence_error(problem.text, problem.hint)]

    def _told(self, pressed: gr.EventData, draft: str, seen: Seen, *query: Any) -> list[Any]:
        """A button in the open row: keep its texts, leave them, or edit the whole record."""
        word = str(pressed.id).partition(":")[0]
        same = [gr.skip()] * 3
        try:
            row = _line(draft, seen).row
        except BoardError as problem:
            return [gr.skip(), sentence_error(problem.text, problem.hint), *same]
        if word == "save":
            record, texts = row.record(), dict(pressed.texts)
            return [
                *_change(lambda: dataset.patch(dataset.entry(draft)).edit(row, editor.changed(record, texts))),
                *same,
            ]
        if word == "whole":
            return [gr.skip(), "", gr.HTML(visible=False), editor.written(row.record()), gr.Column(visible=True)]
        return [gr.skip(), "", turns.conversation(row), *same[1:]]

    def _keep(self, draft: str, seen: Seen, text: str) -> list[Any]:
        def kept() -> None:
            dataset.patch(dataset.entry(draft)).edit(_line(draft, seen).row, editor.read(text))

        return _change(kept)

    def _exclude(self, draft: str, seen: Seen) -> list[Any]:
        return _change(lambda: dataset.patch(dataset.entry(draft)).exclude([_line(draft, seen).row]))

    def _restore(self, draft: str, seen: Seen) -> list[Any]:
        return _change(lambda: dataset.patch(dataset.entry(draft)).restore([seen.opened]))


def _change(act: Callable[[], Any]) -> list[Any]:
    """Does it; then the time of the change and no words, or no change and the words why not."""
    try:
        act()
    except BoardError as problem:
        return [gr.skip(), sentence_error(problem.text, problem.hint)]
    return [time.time_ns(), ""]


def _line(draft: str, seen: Seen) -> Line:
    line = dataset.window(dataset.entry(draft), seen.start, seen.only).line(seen.opened) if draft else None
    if line is None:
        raise DataError("this row is not there any more.", "Go back to the table.")
    return line


def look(draft: str, seen: Seen, words: str, keep: str, length: str) -> Looked | None:
    """What the query finds, or None when no dataset is open. Raises BoardError."""
    if not draft:
        return None
    query = Query(words or "", keep or EVERYTHING, *table.lengths(length), seen.order, seen.down)
    window = dataset.window(dataset.entry(draft), seen.start, seen.only)
    named = {mark: found.rows for mark, found in dataset.known(window, seen.whole).items()}
    return Looked(window, table.chosen(list(table.marked(window.lines, named)), query), query)


def _turned(seen: Seen, found: list[Line], *, before: bool) -> Seen:
    """To the row before or after the one that is open; the table follows to its page."""
    number = table.neighbours(found, seen.opened)[0 if before else 2] or seen.opened
    place = next((place for place, line in enumerate(found) if line.number == number), 0)
    return replace(seen, opened=number, page=place // table.PAGE)


def _where(looked: Looked, seen: Seen) -> str:
    count, window = len(looked.found), looked.window
    first, last = seen.page * table.PAGE + 1, min(count, (seen.page + 1) * table.PAGE)
    said = f"{first:,} to {last:,} of {count:,}" if count else "none"
    if count != len(window.lines):
        said += f" found in {len(window.lines):,} rows"
    if seen.only:
        said += " · rows of this finding, from all of the file"
    elif window.more or window.start:
        said += f" · searched are rows {window.start + 1:,} to {window.end:,} of a larger file"
    return f'<span class="tb-muted">{said}</span>'


def _row(line: Line, found: list[Line]) -> list[Any]:
    before, place, after = table.neighbours(found, line.number)
    where = f"{place:,} of {len(found):,}" if place else "not among the rows shown"
    head = f'<b>Row {line.number:,}</b> <span class="tb-muted">{where}</span> {table.marks(line)}'
    return [
        f'<span class="data-row-head">{head}</span>',
        gr.HTML(turns.conversation(line.row), visible=True),
        gr.Button(interactive=bool(before)),
        gr.Button(interactive=bool(after)),
        gr.Button(visible=not line.excluded),
        gr.Button(visible=line.excluded or line.edited),
    ]
