"""Look at rows: how long they are, and how the model reads them, as a part of the Train tab.

What is shown is `app.planning.rows` and `app.planning.histogram`: here it is laid out and connected.

Which rows are shown stands in states, which only events that come one at a time write, each with the rows and with what
the dropdown says. An event never reads the dropdown but where somebody has just chosen in it: two questions that leave
the page together may come in either order, and the one that comes last may have been read from the page first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from app.board import QUIET, Board
from app.form import PLAIN, Form
from app.planning import rows
from app.planning.forecast import Forecast
from app.planning.histogram import histogram
from app.theme import sentence_error
from engine.contract.errors import BoardError

Forecasting = Callable[[str], "Forecast | None"]
"""From what the form holds to what will happen; None while the form holds something impossible."""
# One at a time, so that what was asked for last is shown last.
IN_ORDER: dict[str, Any] = {"concurrency_id": "train-rows", "concurrency_limit": 1}
LATEST: dict[str, Any] = {**QUIET, **IN_ORDER, "trigger_mode": "always_last"}
# Asked at once: not dropped because the answer to the wish before is on its way, nor kept back until after the next.
WISH: dict[str, Any] = {**QUIET, **IN_ORDER, "trigger_mode": "multiple"}
IN_SIGHT = "() => document.getElementById('train-rows').scrollIntoView({block: 'nearest', behavior: 'smooth'})"


class RowsView:
    """The components and their events. Build it inside the page; then `connect` it to the form."""

    def __init__(self, workspace: Path, allowed: Sequence[Path], form: Form, forecast: Forecasting) -> None:
        self.workspace, self.allowed, self.form, self.forecast = workspace, allowed, form, forecast
        with gr.Accordion("Look at rows", open=False, elem_id="train-rows", elem_classes="tb-more") as self.whole:
            self.lengths = gr.HTML(elem_id="train-lengths", padding=False, min_height=168)
            with gr.Row(elem_classes="tb-pager"):
                self.which = gr.Dropdown(
                    rows.choices(None), value=rows.ORDER, label="Rows", elem_id="train-rows-which", container=False,
                    interactive=True, min_width=240,
                )  # fmt: skip
                self.number = gr.Textbox(
                    placeholder="row number", label="Row number", elem_id="train-rows-number", container=False,
                    max_lines=1, min_width=110, html_attributes=PLAIN,
                )  # fmt: skip
                self.before = gr.Button("Earlier", size="sm", min_width=0, elem_id="train-rows-before")
                self.place = gr.HTML(padding=False)
                self.after = gr.Button("Later", size="sm", min_width=0, elem_id="train-rows-after")
            gr.HTML(rows.LEGEND, padding=False)
            self.seen = gr.HTML(elem_id="train-rows-seen", padding=False)
            self.chosen, self.page, self.row = gr.State(rows.ORDER), gr.State(0), gr.State("")
            self.offered = gr.State(rows.choices(None))

    @property
    def offers(self) -> list[Any]:
        """What `offer` gives values for."""
        return [self.lengths, self.which, self.offered]

    def offer(self, found: Forecast | None, offered: Sequence[tuple[str, str]], which: str) -> list[Any]:
        """The lengths, and the choice of rows where it has become another one."""
        choices = rows.choices(found)
        lengths = histogram(found.rows) if found and found.rows else ""
        if [tuple(choice) for choice in offered] == choices:
            return [lengths, gr.skip(), gr.skip()]
        # What is chosen is left alone where it can be: somebody may have chosen anew while this was found out.
        still = which in (kind for _, kind in choices)
        return [lengths, gr.Dropdown(choices) if still else gr.Dropdown(choices, value=rows.ORDER), choices]

    def connect(self, board: Board, held: gr.Textbox, fields: Sequence[Any], outlook: gr.HTML) -> None:
        """held: the form, as text; fields: those that decide what rows look like; outlook: where findings stand, whose
        `select` brings the kind of one to look at."""
        asked = [self.chosen, self.page, self.row, held]
        shown = [self.seen, self.place, self.which, self.chosen, self.page, self.row]
        board.opens(self._show, asked, shown, **IN_ORDER)
        # With new choices the dropdown may say something else: it is told again what is shown.
        changes = [field.change for field in fields] + [self.offered.change]
        gr.on(changes, self._show, asked, shown, **LATEST)
        self.number.change(self._numbered, [self.number, *asked], shown, **WISH)
        self.which.input(self._choose, [self.which, held], [*shown, self.number], **WISH)
        for button, step in ((self.before, -1), (self.after, 1)):
            button.click(
                lambda which, page, *values, step=step: self._show(which, page + step, *values), asked, shown, **WISH
            )
        outlook.select(self._reveal, held, [*shown, self.number, self.whole], **WISH).then(
            None, None, None, js=IN_SIGHT
        )

    def _reveal(self, picked: gr.EventData, held: str) -> list[Any]:
        """Somebody wants to see the rows of a finding."""
        return [*self._choose(str(picked.kind), held), gr.Accordion(open=True)]

    def _choose(self, which: str, held: str) -> list[Any]:
        """Other rows, from the first one on."""
        return [*self._show(which, 0, "", held), ""]

    def _numbered(self, number: str | None, which: str, page: int, row: str, held: str) -> Any:
        """Somebody has typed a number; when `_choose` has emptied the field there is nothing to do."""
        return gr.skip() if (number or "") == row else self._show(which, page, number or "", held)

    def _show(self, which: str, page: int, row: str, held: str) -> list[Any]:
        """The rows, their place, and what is chosen, which is another thing where it is not there any more."""
        found = self.forecast(held)
        if which not in (kind for _, kind in rows.choices(found)):
            which, page = rows.ORDER, 0
        seen, place, page = self._seen(found, which, page, row, held)
        return [seen, place, which, which, page, row]

    def _seen(self, found: Forecast | None, which: str, page: int, row: str, held: str) -> tuple[str, str, int]:
        if found is None:
            return sentence_error("The rows cannot be shown yet.", "Mend the fields that are marked."), "", page
        if found.problems:
            why = self.form.plain(found.problems[0].text, self.form.values(held))
            return sentence_error("The rows cannot be shown yet.", why), "", page
        number = row.strip().replace(",", "")
        try:
            if number and not (number.isdecimal() and int(number)):
                raise BoardError(f"{row!r} is no row number.", "Write a number from 1 on.")
            seen = rows.page(found, self.workspace, self.allowed, which, page, int(number or 0))
        except BoardError as problem:
            values = self.form.values(held)
            said = [self.form.plain(said, values) for said in (problem.text, problem.hint)]
            return sentence_error(*said), "", 0
        place = f'<span class="tb-muted">page {seen.number + 1:,} of {seen.pages:,}</span>'
        return seen.html, place, seen.number
