"""What will happen when Start is pressed: the model, the rows, the steps, the memory and the time, as facts.

Everything comes from files, through the very functions that the worker uses, and is kept until a file or an argument
that matters changes. Nothing here draws.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from app import counting, runs
from data import forecast, models, preflight, registry, sets, sources, survey
from data.inspection import Inspection
from engine.contract import auto, machine
from engine.contract.args import TrainArgs
from engine.contract.errors import BoardError, Problem
from engine.contract.rundir import records

# The files of a model that decide how rows become tokens.
MODEL_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "config.json",
    "generation_config.json",
)  # fmt: skip


@dataclass(frozen=True)
class Forecast:
    """What is known; a part is None while it cannot be, and `problems` say why, each at its field.

    `question` names the exact look at the rows while `rows` is a sample, and is empty once all of them are counted.
    """

    args: TrainArgs
    card: models.Card | None = None
    rows: Inspection | None = None
    question: str = ""
    trained: int = 0
    steps: int = 0
    memory: forecast.Memory | None = None
    free: int = 0
    total: int = 0
    seconds: float | None = None
    measured: float = 0.0  # bytes at the peak of an earlier run with the same arguments; 0 without one
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def may_start(self) -> bool:
        return not self.problems and not (self.rows and self.rows.of("error"))


def look(args: TrainArgs, workspace: Path, allowed: Sequence[Path] = ()) -> Forecast:
    """The forecast of `args`; `Forecast.args` has every `auto` decided that can be."""
    problems: list[Problem] = []
    notes: list[str] = []
    card, rows, question = None, None, ""
    try:
        folder = runs.model_folder(workspace, args, allowed)
        card = models.card(folder) if folder else None
    except BoardError as problem:
        problems.append(_problem("model.path", problem))
    else:
        notes += preflight.notes(args, workspace)
        problems += preflight.problems(args, workspace, allowed, rows=False)
    if not problems:
        try:
            rows, question = rows_of(args, card.folder if card else None, workspace, allowed)
            if question and (answer := counting.known(question, workspace)):
                rows, question = answer.inspection or rows, ""
                problems += answer.problems
        except BoardError as problem:
            problems.append(_problem("data.train", problem))
    facts = auto.Facts(machine.machine(), card.parameters if card else 0, sequences(rows) if rows else 0)
    args = auto.resolved(args, facts)
    now = machine.memory()
    found = Forecast(args, card, rows, question, free=now.free, total=now.total)
    if rows:
        found = replace(
            found, steps=auto.total_steps(args, facts), seconds=_seconds(args, rows, _past(args, workspace, _alike))
        )
    if past := _past(args, workspace, _alike_in_memory):
        found = replace(found, measured=past.peak)
    if card:
        longest = min(rows.longest if rows and not args.data.packing else args.data.max_length, args.data.max_length)
        tied = bool(card.config.get("tie_word_embeddings"))
        found = replace(
            found,
            trained=forecast.trained_parameters(card.shapes, args.method, tied=tied),
            memory=forecast.memory(card, args, longest=longest),
        )
    return replace(found, notes=tuple(notes), problems=tuple(problems))


def sequences(rows: Inspection) -> int:
    """The sequences that all rows come to, as far as the rows looked at tell."""
    return round(rows.sequences * rows.scale)


def _problem(path: str, problem: BoardError) -> Problem:
    return Problem(path, f"{problem.text} {problem.hint}".strip())


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
        "model": {"path": args.model.path, "template": args.model.template},
        "data": args.data.model_dump(),
        "vision": args.vision.model_dump(),
        "steps": {"seed": args.steps.seed},
    })  # fmt: skip
    return kept.model_dump_json()


@lru_cache(maxsize=64)
def _sampled(matters: str, folder: Path, workspace: Path, allowed: tuple[Path, ...], states: str) -> Inspection:
    return survey.sampled(TrainArgs.model_validate_json(matters), folder, workspace, allowed)


def _seconds(args: TrainArgs, rows: Inspection, past: Past | None) -> float | None:
    """How long the steps take at the speed of an earlier run of the same model and method here; None without one."""
    if past is None or not past.speed:
        return None
    share = args.steps.max_steps / max(1, _steps_an_epoch(args, rows)) if args.steps.max_steps else args.steps.epochs
    return rows.tokens * rows.scale * share / past.speed


def _steps_an_epoch(args: TrainArgs, rows: Inspection) -> int:
    return math.ceil(math.ceil(sequences(rows) / args.steps.batch_size) / auto.accumulation_of(args))


@dataclass(frozen=True)
class Past:
    """What an ended run logged: its median tokens/s, and its peak of memory in bytes; 0 where it logged none."""

    speed: float
    peak: float


def _past(args: TrainArgs, workspace: Path, same: Callable[[TrainArgs], object]) -> Past | None:
    """The newest run that was done and is the same as `args` in what `same` looks at."""
    for found in runs.listed(workspace):
        if found.state == "done" and isinstance(found.args, TrainArgs) and same(found.args) == same(args):
            return _logged(found.run.metrics_path)
    return None


def _alike(args: TrainArgs) -> object:
    return args.model.path, args.method.kind, args.model.dtype, args.compute.device, args.compute.checkpointing


def _alike_in_memory(args: TrainArgs) -> object:
    """All that memory depends on."""
    return args.model, args.data, args.method, args.optim.optimiser, args.steps.batch_size, args.compute


@lru_cache(maxsize=256)
def _logged(metrics: Path) -> Past:
    values = [record.get("values") or {} for record in records(metrics)]
    speeds, peaks = (
        [value[name] for value in values if isinstance(value.get(name), (int, float)) and value[name] > 0]
        for name in ("train/tokens_per_second", "memory/peak_gb")
    )
    return Past(statistics.median(speeds) if speeds else 0.0, max(peaks, default=0.0) * 1e9)
