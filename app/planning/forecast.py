"""What will happen when Start is pressed: the model, the rows, the steps, the memory and the time, as facts.

Everything comes from files, through the very functions that the worker uses, and is kept until a file or an argument
that matters changes. Nothing here draws.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from app.planning import counting
from app.running import runs
from data import models
from data.checking import preflight, survey
from data.checking.inspection import Inspection
from data.datasets import registry, sets, sources
from data.planning.plan import Plan, planned
from data.planning.shape import begun
from engine.contract import auto, machine
from engine.contract.args import TrainArgs
from engine.contract.errors import BoardError, Problem

# The files of a model that decide how rows become tokens.
MODEL_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "config.json",
    "generation_config.json",
)  # fmt: skip


@dataclass(frozen=True)
class Forecast:
    """What is known; a part is None while it cannot be, and `problems` say why, each at its field.

    `question` names the exact look at the rows while `rows` is a sample, and is empty once all of them are counted.
    `out_of_reach`: what keeps the run from starting and not from being planned.
    """

    args: TrainArgs
    card: models.Card | None = None
    rows: Inspection | None = None
    question: str = ""
    plan: Plan | None = None
    steps: int = 0
    problems: tuple[Problem, ...] = ()
    out_of_reach: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def may_start(self) -> bool:
        return not self.problems and not self.out_of_reach and not (self.rows and self.rows.of("error"))


def look(args: TrainArgs, workspace: Path, allowed: Sequence[Path] = ()) -> Forecast:
    """The forecast of `args`; `Forecast.args` has every `auto` decided that can be."""
    problems: list[Problem] = []
    notes: list[str] = []
    card, rows, question = None, None, ""
    away: list[Problem] = []
    try:
        folder = runs.model_folder(workspace, args, allowed)
        card = models.card(folder) if folder else None
    except BoardError as problem:
        problems.append(_problem("model.path", problem))
    else:
        notes += preflight.notes(args, workspace)
        problems += preflight.problems(args, workspace, allowed, rows=False)
        away = preflight.out_of_reach(args, workspace)
    if not problems:
        try:
            rows, question = rows_of(args, card.folder if card else None, workspace, allowed)
            if question and (answer := counting.known(question, workspace)):
                rows, question = answer.inspection or rows, ""
                problems += answer.problems
        except BoardError as problem:
            problems.append(_problem("data.train", problem))
    known = begun(args, card)
    facts = auto.Facts(machine.machine(), known.parameters if known else 0, sequences(rows) if rows else 0)
    args = auto.resolved(args, facts)
    plan = planned(args, known, workspace, rows=rows) if known else None
    notes += [f"The plan takes {plan.batch}"] if plan and plan.batch else []
    return Forecast(
        plan.args if plan else args, card, rows, question,
        plan=plan,
        steps=auto.total_steps(args, facts) if rows else 0,
        problems=tuple(problems), out_of_reach=tuple(away), notes=tuple(notes),
    )  # fmt: skip


def sequences(rows: Inspection) -> int:
    """The sequences that all rows come to, as far as the rows looked at tell."""
    return round(rows.sequences * rows.scale)


def _problem(path: str, problem: BoardError) -> Problem:
    said = f"{problem.text} {problem.hint}".strip()
    return Problem(path, said[:1].upper() + said[1:])


def rows_of(
    args: TrainArgs, folder: Path | None, workspace: Path, allowed: Sequence[Path]
) -> tuple[Inspection | None, str]:
    """A look at some of the rows, or None when there is no tokenizer yet to count with; and the name of the question
    that is still open: what all of them come to."""
    names = sets.named(args)
    chosen = sets.entries(args, names, workspace, allowed)
    for entry in chosen:
        registry.count(entry)  # a file that is gone is said before anything is read
    if folder is None:
        return None, ""
    states = [source.state for source in sources.opened(names, chosen, args.data.max_rows)]
    states += [_stamp(folder / name) for name in MODEL_FILES]
    matters = _matters(args)
    found = _sampled(matters, folder, workspace, tuple(allowed), repr(states))
    key = hashlib.sha256(repr((matters, folder, states)).encode()).hexdigest()[:24]
    return found, "" if found.exact else key


def _stamp(file: Path) -> tuple[int, int]:
    return (file.stat().st_mtime_ns, file.stat().st_size) if file.exists() else (0, 0)


def _matters(args: TrainArgs) -> str:
    """The arguments that decide what becomes of the rows, and no other, as text."""
    kept = TrainArgs.model_validate({
        "task": {"kind": args.task.kind, **{name: getattr(args.task, name) for name in args.task.decides}},
        "model": {name: getattr(args.model, name) for name in ("path", "template", "new_tokens")},
        "data": args.data.model_dump(),
        "vision": args.vision.model_dump(),
        "steps": {"seed": args.steps.seed},
    })  # fmt: skip
    return kept.model_dump_json()


@lru_cache(maxsize=64)
def _sampled(matters: str, folder: Path, workspace: Path, allowed: tuple[Path, ...], states: str) -> Inspection:
    return survey.sampled(TrainArgs.model_validate_json(matters), folder, workspace, allowed)
