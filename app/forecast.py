"""What will happen when Start is pressed: the model, the rows, the steps, the memory and the time, as facts.

Everything comes from files, through the very functions that the worker uses, and is kept until a file or an argument
that matters changes. Nothing here draws.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from app import runs
from data import forecast, models, preflight, registry
from data.conversation import Row
from data.pack import packed
from data.prepare import Report, prepare
from data.render import ChatTemplate
from data.splitting import split
from data.tokens import TextTokenizer
from engine.contract import auto, machine
from engine.contract.args import TrainArgs
from engine.contract.dataset import Split
from engine.contract.errors import BoardError, Problem
from engine.contract.rundir import records

SAMPLED_ABOVE = 5_000  # rows; more are counted in full, and tokenised as a sample of this size


@dataclass(frozen=True)
class Rows:
    """The rows of a forecast: `report` is about the training rows looked at, `scale` what it takes to get to all."""

    report: Report
    train: int
    held_out: int
    sequences: int
    scale: float = 1.0

    @property
    def sampled(self) -> bool:
        return self.scale != 1.0

    @property
    def tokens(self) -> int:
        return round(self.report.tokens * self.scale)


@dataclass(frozen=True)
class Forecast:
    """What is known; a part is None while it cannot be, and `problems` say why, each at its field."""

    args: TrainArgs
    card: models.Card | None = None
    rows: Rows | None = None
    trained: int = 0
    steps: int = 0
    memory: forecast.Memory | None = None
    free: int = 0
    total: int = 0
    seconds: float | None = None
    measured: float = 0.0  # bytes at the peak of an earlier run with the same arguments; 0 without one
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()


def look(args: TrainArgs, workspace: Path, allowed: Sequence[Path] = ()) -> Forecast:
    """The forecast of `args`; `Forecast.args` has every `auto` decided that can be."""
    problems: list[Problem] = []
    warnings: list[str] = []
    card, rows = None, None
    try:
        folder = runs.model_folder(workspace, args, allowed)
        card = models.card(folder) if folder else None
    except BoardError as problem:
        problems.append(_problem("model.path", problem))
    else:
        warnings += preflight.notes(args, workspace)
        problems += preflight.problems(args, workspace, allowed, rows=False)
    if not problems:
        try:
            rows = rows_of(args, card.folder if card else None, workspace, allowed)
        except BoardError as problem:
            problems.append(_problem("data.train", problem))
    facts = auto.Facts(machine.machine(), card.parameters if card else 0, rows.sequences if rows else 0)
    args = auto.resolved(args, facts)
    now = machine.memory()
    found = Forecast(args, card, rows, free=now.free, total=now.total)
    if rows:
        found = replace(
            found, steps=auto.total_steps(args, facts), seconds=_seconds(args, rows, _past(args, workspace, _alike))
        )
        warnings += rows.report.warnings
        if not rows.report.rows_used:
            way_out = "Raise the maximum length, or look at the rows: are there answers?"
            problems.append(Problem("data.train", f"No row has a token to train on. {way_out}"))
    if past := _past(args, workspace, _alike_in_memory):
        found = replace(found, measured=past.peak)
    if card:
        longest = min(
            rows.report.longest if rows and not args.data.packing else args.data.max_length, args.data.max_length
        )
        tied = bool(card.config.get("tie_word_embeddings"))
        found = replace(
            found,
            trained=forecast.trained_parameters(card.shapes, args.method, tied=tied),
            memory=forecast.memory(card, args, longest=longest),
        )
    return replace(found, warnings=tuple(warnings), problems=tuple(problems))


def _problem(path: str, problem: BoardError) -> Problem:
    return Problem(path, f"{problem.text} {problem.hint}".strip())


def entries(args: TrainArgs, names: Sequence[str], workspace: Path, allowed: Sequence[Path]) -> list[registry.Entry]:
    """The datasets called `names`, with the words that the arguments put in place of placeholders."""
    found = [registry.find(name, workspace, allowed) for name in names]
    return [entry.model_copy(update={"fill": {**entry.fill, **args.data.fill}}) for entry in found]


def loaded(args: TrainArgs, names: Sequence[str], workspace: Path, allowed: Sequence[Path]) -> list[Row]:
    """Every row of the datasets called `names`, at most `data.max_rows` of each, as the worker reads them."""
    return [row for entry in entries(args, names, workspace, allowed) for row in _rows(entry)[: args.data.max_rows]]


def _rows(entry: registry.Entry) -> list[Row]:
    state = entry.path.stat() if entry.path.exists() else None
    return _rows_once(entry.model_dump_json(), state.st_mtime_ns if state else 0, state.st_size if state else 0)


@lru_cache(maxsize=16)
def _rows_once(entry: str, changed: int, size: int) -> list[Row]:
    return registry.load(registry.Entry.model_validate_json(entry))


def rows_of(args: TrainArgs, folder: Path | None, workspace: Path, allowed: Sequence[Path]) -> Rows | None:
    """What becomes of the rows; None when there is no tokenizer yet to count with."""
    train = entries(args, args.data.train, workspace, allowed)
    held = entries(args, args.data.validation, workspace, allowed)
    for entry in [*train, *held]:
        registry.count(entry)  # a file that is gone is said before anything is read
    if folder is None:
        return None
    stamps = tuple((entry.path, entry.path.stat().st_mtime_ns) for entry in [*train, *held])
    tokenizer = folder / "tokenizer.json"
    matters = _matters(args)
    return _rows_of(
        matters, folder, tokenizer.stat().st_mtime_ns if tokenizer.exists() else 0, workspace, tuple(allowed), stamps
    )


def _matters(args: TrainArgs) -> str:
    """The arguments that decide what becomes of the rows, and no other, as text."""
    kept = TrainArgs.model_validate({
        "model": {"path": args.model.path, "template": args.model.template},
        "data": args.data.model_dump(),
        "steps": {"seed": args.steps.seed},
    })  # fmt: skip
    return kept.model_dump_json()


@lru_cache(maxsize=64)
def _rows_of(
    matters: str, folder: Path, tokenizer_at: int, workspace: Path, allowed: tuple[Path, ...], stamps: object
) -> Rows:
    args = TrainArgs.model_validate_json(matters)
    train = loaded(args, args.data.train, workspace, allowed)
    if args.data.validation:
        held = loaded(args, args.data.validation, workspace, allowed)
    else:
        train, held = split(train, Split.of(args.data.split).validation, args.steps.seed)
    sample = train[:: math.ceil(len(train) / SAMPLED_ABOVE)] if len(train) > SAMPLED_ABOVE else train
    template = ChatTemplate.of(folder, None if args.model.template == "auto" else args.model.template)
    done = prepare(
        sample, template, _tokenizer(folder, tokenizer_at), train_on=args.data.train_on, max_length=args.data.max_length
    )
    scale = len(train) / len(sample) if sample else 1.0
    used = len(packed(done.rows, args.data.max_length)) if args.data.packing else done.report.rows_used
    return Rows(done.report, len(train), len(held), round(used * scale), scale)


@lru_cache(maxsize=4)
def _tokenizer(folder: Path, changed: int) -> TextTokenizer:
    return TextTokenizer.of(folder)


def tokenizer(folder: Path) -> TextTokenizer:
    """The model's tokenizer, read once."""
    file = folder / "tokenizer.json"
    return _tokenizer(folder, file.stat().st_mtime_ns if file.exists() else 0)


def _seconds(args: TrainArgs, rows: Rows, past: Past | None) -> float | None:
    """How long the steps take at the speed of an earlier run of the same model and method here; None without one."""
    if past is None or not past.speed:
        return None
    share = args.steps.max_steps / max(1, _steps_an_epoch(args, rows)) if args.steps.max_steps else args.steps.epochs
    return rows.tokens * share / past.speed


def _steps_an_epoch(args: TrainArgs, rows: Rows) -> int:
    return math.ceil(math.ceil(rows.sequences / args.steps.batch_size) / auto.accumulation_of(args))


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
