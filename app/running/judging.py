"""The place under a live run where a person judges its answers: one at a time, by a button or a number.

The run waits; what is said here goes into its folder (`engine.contract.judging`), and the next answer comes. It draws
and writes; it knows no task.
"""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from app.form import PLAIN
from app.running.watch import Watch
from app.theme import sentence_error
from engine.contract import judging
from engine.contract.judging import Waiting
from engine.contract.rundir import Run

SCORES = {"0 bad": 0.0, "0.25": 0.25, "0.5": 0.5, "0.75": 0.75, "1 good": 1.0}


class Judging:
    """The components, in sight while the run waits. Build it inside the page; `parts` says how they stand."""

    def __init__(self, elem_id: str) -> None:
        self.number = gr.State(0)  # of the answer in sight: what is said is said of that one
        with gr.Column(visible=False, elem_id=elem_id, elem_classes="tb-judging") as self.box:
            self.answer = gr.HTML("", padding=False)
            with gr.Row(elem_classes="tb-judging-buttons"):
                self.buttons = [gr.Button(label, size="sm", min_width=0) for label in SCORES]
                self.other = gr.Textbox(
                    placeholder="or a number from 0 to 1, and Enter", label="Another score", container=False,
                    max_lines=1, min_width=220, html_attributes=PLAIN, elem_id=f"{elem_id}-number",
                )  # fmt: skip
            self.said = gr.HTML("", padding=False)

    def parts(self, watch: Watch) -> dict[str, dict[str, Any]]:
        """Component name -> its update."""
        found = waiting(watch)
        return {
            "judging": {"visible": bool(found)},
            "judged": {"value": drawn(found) if found else ""},
            "judged number": {"value": found[0].number if found else 0},
        }

    @property
    def outputs(self) -> list[gr.components.Component]:
        """The components of `parts`, in its order."""
        return [self.box, self.answer, self.number]

    def score(self, run: Run | None, number: int, score: float) -> None:
        if run and any(one.number == number for one in judging.waiting(run)):
            judging.judge(run, number, score)

    def typed(self, run: Run | None, number: int, said: str) -> list[Any]:
        """What is left in the box, and what is wrong with it."""
        try:
            score = float(said.replace(",", "."))
        except ValueError:
            score = -1.0
        if not 0 <= score <= 1:
            return [said, sentence_error(f"{said.strip()[:20]!r} is no score.", "Write a number from 0 to 1.")]
        self.score(run, number, score)
        return ["", ""]


def waiting(watch: Watch) -> list[Waiting]:
    """What the run waits for; files are read only while it does."""
    return judging.waiting(watch.run) if watch.moving and watch.phase == judging.PHASE else []


def drawn(found: list[Waiting]) -> str:
    """The first answer, what was asked, and how many are left."""
    one, count = found[0], len(found)
    left = "The last answer" if count == 1 else f"{count:,} answers left"
    return (
        f'<h3 class="tb-title">The run waits for you <span class="tb-muted">{left} before it goes on</span></h3>'
        f'<q>{escape(one.prompt)}</q><p class="tb-judged-answer">{escape(one.answer) or "(nothing)"}</p>'
    )
