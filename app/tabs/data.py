"""Data: any file in, its rows seen as a table and as conversations, what is wrong found and mended.

The rows are browsed by `app.browse`: here the parts are laid out and connected. The user's file is never changed.
"""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from app import browse, dataset, table
from app.board import QUIET, Board
from app.browse import Browser, Seen
from app.table import EVERYTHING
from app.theme import Help, sentence_error
from data import registry
from engine.contract.errors import BoardError

TITLE = "Data"


def help_texts() -> dict[str, Help]:
    """What the (i) of each field says."""
    return {**browse.HELP}


def build(board: Board) -> None:
    Data(board)


class Data:
    """The components of the tab and their events."""

    def __init__(self, board: Board) -> None:
        self.board, self.workspace, self.allowed = board, board.workspace, board.allowed
        self.draft = gr.State("")  # the entry of the open dataset as JSON, saved or not
        with gr.Column(elem_classes="tb-card", elem_id="data-top"):
            with gr.Row(elem_classes="data-choose"):
                self.choice = gr.Dropdown(self._offered(), value=None, label="Dataset", elem_id="data-choice",
                                          allow_custom_value=True, min_width=320)  # fmt: skip
                self.train = gr.Button("Train on this", variant="primary", min_width=0, elem_id="data-train")
            self.headline = gr.HTML(elem_id="data-headline", padding=False)
            self.said = gr.HTML(elem_id="data-said", padding=False)
        with gr.Row(elem_classes="tb-columns"):
            with gr.Column(scale=3, min_width=560, elem_classes="tb-card", elem_id="data-rows"):
                self.browser = Browser(board)
            with gr.Column(scale=1, min_width=300, elem_classes=["tb-card", "tb-sticky"], elem_id="data-side"):
                gr.HTML('<h2 class="tb-title">Findings</h2>', padding=False)
                self.findings = gr.HTML(
                    js_on_load="tuneboard.pressed(element, trigger)", elem_id="data-findings", padding=False
                )
        self._connect()

    def _connect(self) -> None:
        board, browser = self.board, self.browser
        browser.connect(self.draft)
        board.opens(self._arrived, [self.choice], [self.choice])
        board.asks(lambda ref: gr.Dropdown(self._offered(), value=ref), (), [self.choice])
        self.choice.change(self._choose, self.choice, [self.draft, browser.seen, self.said], **QUIET)
        self.draft.change(self._opened, self.draft, [self.headline, browser.keep], **QUIET).then(
            browser.drawn, browser.asked, browser.shown, **QUIET
        )

    def _offered(self) -> list[tuple[str, str]]:
        return [(entry.title, entry.name) for entry in registry.entries(self.workspace)]

    def _arrived(self, choice: str | None) -> Any:
        offered = self._offered()
        return gr.Dropdown(offered, value=choice or offered[0][1])

    def _choose(self, choice: str | None) -> list[Any]:
        try:
            entry = registry.find(choice, self.workspace, self.allowed) if choice else None
        except BoardError as problem:
            return ["", Seen(), sentence_error(problem.text, problem.hint)]
        return [entry.model_dump_json() if entry else "", Seen(), ""]

    def _opened(self, draft: str) -> list[Any]:
        """What is said of a dataset as a whole."""
        nothing = ["", gr.Dropdown([("All rows", EVERYTHING)], value=EVERYTHING)]
        if not draft:
            return nothing
        entry = dataset.entry(draft)
        try:
            window = dataset.window(entry)
        except BoardError:
            return nothing  # said in place of the table
        head = f'<p class="tb-line">{len(window.lines):,} rows · {escape(str(entry.path))}</p>'
        return [head, gr.Dropdown(table.filters(window.lines, {}), value=EVERYTHING)]
