"""What is known from having done it: earlier runs like this one, and two steps that were measured.

Reads run folders and the workspace's cache; starts nothing.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from engine.contract import text
from engine.contract.args import TrainArgs
from engine.contract.errors import BoardError
from engine.contract.machine import machine
from engine.contract.rundir import Run, records, runs

KEPT = "measured"  # the folder in the workspace's cache


class Measured(BaseModel):
    """Two real steps on the longest rows. peak: bytes.   speed: tokens a second.   seconds: of one step.   longest: of
    those rows, in tokens.   out_of_memory: they did not fit, and the rest says nothing."""

    model_config = ConfigDict(frozen=True)

    peak: int = 0
    speed: float = 0.0
    seconds: float = 0.0
    longest: int = 0
    out_of_memory: bool = False


@dataclass(frozen=True)
class Past:
    """What an ended run logged: its median tokens/s, and its peak of memory in bytes; 0 where it logged none."""

    speed: float = 0.0
    peak: float = 0.0


def alike(args: TrainArgs) -> object:
    """All that speed depends on most."""
    checkpointing = args.compute.checkpointing
    return args.model.path, args.task.kind, args.method.kind, args.model.dtype, args.compute.device, checkpointing


def alike_in_memory(args: TrainArgs) -> object:
    """All that memory depends on."""
    batch = args.steps.batch_size
    return args.model, args.data, args.task, args.method, args.optim.optimiser, batch, args.compute, args.launch


def key(args: TrainArgs) -> str:
    """The name of a measurement: of the arguments that it depends on, on this machine."""
    matters = alike_in_memory(args), args.steps.accumulation, args.vision, machine()
    return hashlib.sha256(repr(matters).encode()).hexdigest()[:24]


def measured(args: TrainArgs, workspace: Path) -> Measured | None:
    """What was measured for these arguments, if it was."""
    file = workspace / "cache" / KEPT / f"{key(args)}.json"
    try:
        return Measured.model_validate_json(file.read_bytes())
    except (FileNotFoundError, ValidationError):  # ... or written by another version
        return None


def earlier(args: TrainArgs, workspace: Path, same: Callable[[TrainArgs], object]) -> Past:
    """The newest run that was done and is the same as `args` in what `same` looks at; nothing known without one."""
    wanted = same(args)
    for run in runs(workspace):
        if (stamp := _stamp(run)) and (was := _done(run, stamp)) and same(was) == wanted:
            return _logged(run.metrics_path)
    return Past()


def _stamp(run: Run) -> int:
    try:
        return run.status_path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


@lru_cache(maxsize=4096)
def _done(run: Run, stamp: int) -> TrainArgs | None:
    """The arguments of a training run that was done; None of any other, and of one by another version."""
    if run.status().get("state") != "done":
        return None
    try:
        args = text.load(run.args_path)
    except (BoardError, OSError):
        return None
    return args if isinstance(args, TrainArgs) else None


@lru_cache(maxsize=256)
def _logged(metrics: Path) -> Past:
    values = [record.get("values") or {} for record in records(metrics)]
    speeds, peaks = (
        [value[name] for value in values if isinstance(value.get(name), (int, float)) and value[name] > 0]
        for name in ("train/tokens_per_second", "memory/peak_gb")
    )
    return Past(statistics.median(speeds) if speeds else 0.0, max(peaks, default=0.0) * 1e9)
