"""Beside the plan: measure what a run really takes, and make it fit where it does not.

The figures come from `data.planning`, the two steps from an engine process (`python -m engine measure`), which waits in
the line for the device. What is proposed is shown as a diff and changes nothing until it is accepted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import gradio as gr

from app.board import QUIET, Board
from app.errands import Errands
from app.form import Form
from app.planning.forecast import Forecast
from app.planning.outlook import size
from app.theme import sentence_error
from data.planning import past
from data.planning.fit import Fit, applied, fitted
from data.planning.past import Measured
from engine.contract import text
from engine.contract.errors import Problem
from engine.contract.launching import Launch
from engine.contract.needs import Here

POLL_SECONDS = 1.0
ALONE = {"processes": 1, "machines": 1, "strategy": "ddp"}  # how a run is launched whose steps can be measured
_errands = Errands(past.KEPT, Measured)

Look = Callable[[str], Forecast | None]


class Fitting:
    """Two buttons and what they say. `outputs` follow the form, by `offer`."""

    def __init__(self, board: Board, form: Form, look: Look) -> None:
        self.workspace, self.form, self.look = board.workspace, form, look
        with gr.Row(elem_classes="tb-fitting", elem_id="train-fitting"):
            self.measure = gr.Button("Measure", size="sm", min_width=0, elem_id="train-measure", visible=False)
            self.fit = gr.Button("Make it fit", size="sm", min_width=0, elem_id="train-fit", visible=False)
            self.why = gr.HTML(elem_id="train-unmeasured", padding=False)
            self.said = gr.HTML(elem_id="train-measured", padding=False)
        with gr.Column(visible=False, elem_id="train-proposal", elem_classes="tb-proposal") as self.proposal:
            self.diff = gr.HTML(padding=False)
            with gr.Row():
                self.accept = gr.Button("Accept", variant="primary", size="sm", min_width=0, elem_id="train-accept")
                self.dismiss = gr.Button("Not now", size="sm", min_width=0, elem_id="train-dismiss")
        self.asked = gr.State("")  # what is being measured: its name and arguments, as JSON
        self.clock = board.timer(POLL_SECONDS)
        self.outputs = [self.measure, self.why, self.fit, self.proposal]

    def offer(self, found: Forecast | None, linked: Callable[[str], str] = escape) -> list[Any]:
        """Which of the buttons there are for the plan as it is now; a proposal for another one goes away.

        linked: a sentence that may name fields, as HTML.
        """
        plan = found.plan if found and not found.problems else None
        ready = plan is not None and bool(found and found.card and found.may_start)
        several = plan is not None and plan.args.launch.everywhere > 1
        return [
            gr.Button(visible=ready, interactive=not several),
            f'<p class="tb-muted">{linked(alone(plan.args.launch))}</p>' if ready and several else "",
            gr.Button(visible=bool(plan and not plan.fits)),
            gr.Column(visible=False),
        ]

    def connect(
        self, held: gr.Textbox, given: Sequence[Any], shown: Sequence[Any], changed: Callable[..., list[Any]]
    ) -> None:
        """held: what the form holds, as text.   given, shown: what `changed` takes, and what it fills."""
        told = [self.asked, self.said, self.measure, self.clock]
        self.measure.click(self._measure, [self.asked, held], told, **QUIET)
        self.clock.tick(self._tick, self.asked, told, **QUIET)
        self.asked.change(changed, given, shown, **QUIET, concurrency_id="train-plan", concurrency_limit=1)
        self.fit.click(self._propose, held, [self.proposal, self.diff, self.accept], **QUIET)
        self.accept.click(self._accept, held, [*self.form.inputs, self.proposal], **QUIET)
        self.dismiss.click(lambda: gr.Column(visible=False), None, self.proposal, **QUIET)

    # Measuring

    def _measure(self, asked: str, held: str) -> list[Any]:
        """Begin, or leave what was begun."""
        if asked:
            _errands.leave(json.loads(asked)["key"], self.workspace)
            return self._ended("")
        found = self.look(held)
        if found is None or found.plan is None:
            return self._ended("")
        key = past.key(found.plan.args)
        _errands.again(key, self.workspace)
        asked = json.dumps({"key": key, "args": text.dump(found.plan.args)})
        return [asked, *self._going(asked)]

    def _tick(self, asked: str) -> list[Any]:
        if not asked:
            return self._ended("")
        key = json.loads(asked)["key"]
        if _errands.known(key, self.workspace):
            return self._ended("")
        going = self._going(asked)
        if _errands.failed(key, self.workspace):
            why = _errands.last_word(key, self.workspace)
            return self._ended(sentence_error("The two steps could not be taken.", self.form.plain(why)))
        return [gr.skip(), *going]

    def _going(self, asked: str) -> list[Any]:
        question = json.loads(asked)
        word = _errands.ask(
            question["key"], self.workspace, question["args"], lambda file: ["measure", str(file), "--json"]
        )
        said = f'<span class="tb-muted">Measuring: {escape(word or "starting")} ...</span>'
        # In sight whatever the form holds by now: what was begun can always be left.
        return [said, gr.Button("Cancel", visible=True, interactive=True), gr.Timer(active=True)]

    def _ended(self, said: str) -> list[Any]:
        return ["", said, gr.Button("Measure"), gr.Timer(active=False)]

    # Making it fit

    def _propose(self, held: str) -> list[Any]:
        found = self.look(held)
        if found is None or found.plan is None:
            return [gr.Column(visible=False), "", gr.skip()]
        fit = fitted(found.plan)
        diff = self._diff(fit, found.plan.free, self.form.values(held))
        return [gr.Column(visible=True), diff, gr.Button(visible=bool(fit.changes))]

    def _diff(self, fit: Fit, free: int, values: Sequence[Any]) -> str:
        """Every change with what it saves, as what it was and what it becomes."""
        if not fit.changes:
            return "<p><b>It does not fit, whatever is changed.</b> Choose a smaller model.</p>"
        items = ""
        for change in fit.changes:
            lines = "".join(
                f"<span>{self.form.headed(Problem(path, ''), values)[0]} "
                f"<del>{escape(self._word(path, change.before[path]))}</del> "
                f"<ins>{escape(self._word(path, value))}</ins></span>"
                for path, value in change.put.items()
            )
            items += (
                f"<li>{self.form.linked(change.said, values)} <b>Saves {size(change.saves)}.</b><div>{lines}</div></li>"
            )
        listed, needs = f'<ol class="tb-diff">{items}</ol>', f"about <b>{size(fit.needed)}</b> of {size(free)} free"
        if fit.fits:
            return f"{listed}<p>Then it takes {needs}: it fits.</p>"
        said = (
            f"<p><b>It does not fit, whatever is changed</b>: it would still take {needs}. Choose a smaller model.</p>"
        )
        return f"{said}<p>This brings it as near as it comes:</p>{listed}"

    def _accept(self, held: str) -> list[Any]:
        """The form with the changes; what was left to `auto` beside them stays there."""
        found, (args, _) = self.look(held), self.form.checked(self.form.values(held))
        if found is None or found.plan is None or args is None:
            return [*(gr.skip() for _ in self.form.inputs), gr.Column(visible=False)]
        fit = fitted(found.plan)
        here = Here.of(args.compute.device)
        accepted = applied(args, fit.changes, here) or fit.args
        return [*self.form.shown(accepted), gr.Column(visible=False)]

    def _word(self, path: str, value: Any) -> str:
        """A value as the form shows it."""
        words = {True: "on", False: "off", None: "empty"}
        return words[value] if isinstance(value, bool | None) else self.form.titles.get((path, value), str(value))


def alone(launch: Launch) -> str:
    """Why a run of several processes is not measured, and what to change for it."""
    fields = [f"launch.{name} to {value}" for name, value in ALONE.items() if getattr(launch, name) != value]
    needs = "as much" if launch.strategy == ALONE["strategy"] else "less"
    return f"Measuring takes one process: set {' and '.join(fields)}. Each of several needs {needs}."
