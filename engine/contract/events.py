"""What a worker says while it works: the event union, its JSONL codec, and the journal that appends it.

Two files carry it: `metrics.jsonl` (numbers by step) and `events.jsonl` (everything else). Each line is one JSON object
with `kind`, `t` (Unix seconds) and `attempt`. Readers ignore kinds that they do not know. Nothing here knows who reads.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar


@dataclass(frozen=True)
class Phase:
    """The worker entered a phase: `loading`, `preparing`, `training`, `evaluating`, `saving`, `generating` ..."""

    kind: ClassVar[str] = "phase"
    name: str


@dataclass(frozen=True)
class Progress:
    """Step `step` of `steps` of the current phase; `seconds_left` is the worker's own estimate, None while unknown.

    unit: what is counted, in the plural: `steps`, `rows`, `MB`.
    """

    kind: ClassVar[str] = "progress"
    step: int
    steps: int
    seconds_left: float | None = None
    unit: str = "steps"


@dataclass(frozen=True)
class Note:
    """A fact worth a line: what was loaded, what `auto` became, how many rows were cut."""

    kind: ClassVar[str] = "note"
    text: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint lies at `path`, relative to the run folder."""

    kind: ClassVar[str] = "checkpoint"
    step: int
    path: str


@dataclass(frozen=True)
class Sample:
    """What the model answered to `prompt` at `step`; `reward` says what it was worth, where it learns from that."""

    kind: ClassVar[str] = "sample"
    step: int
    prompt: str
    answer: str
    reward: float | None = None


@dataclass(frozen=True)
class Warn:
    """Something is off, and the run goes on; `hint` says what to do about it."""

    kind: ClassVar[str] = "warning"
    text: str
    hint: str = ""


@dataclass(frozen=True)
class Failure:
    """Why the run ends; `bug` is true when no BoardError explains it (the traceback is in the log)."""

    kind: ClassVar[str] = "error"
    text: str
    hint: str = ""
    bug: bool = False


@dataclass(frozen=True)
class Serving:
    """The server answers at `address` (`http://127.0.0.1:PORT`)."""

    kind: ClassVar[str] = "serving"
    address: str


@dataclass(frozen=True)
class Result:
    """What came of it: train, evaluate and export each say their own facts. `sentence` is for people."""

    kind: ClassVar[str] = "result"
    sentence: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Metrics:
    """Numbers at one optimiser step, by name: `train/loss`, `eval/loss`, `train/tokens_per_second` ..."""

    kind: ClassVar[str] = "metrics"
    step: int
    epoch: float
    values: Mapping[str, float | None]


Event = Phase | Progress | Note | Checkpoint | Sample | Warn | Failure | Serving | Result | Metrics
KINDS: dict[str, type] = {
    kind.kind: kind for kind in (Phase, Progress, Note, Checkpoint, Sample, Warn, Failure, Serving, Result, Metrics)
}


def finite(value: Any) -> Any:
    """`value` with every NaN and infinity in it replaced by None: JSON has neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def encode(event: Event, *, attempt: int = 1, t: float | None = None) -> str:
    """One line of JSON, newline included."""
    stamp = round(time.time() if t is None else t, 3)
    record = {"kind": event.kind, "t": stamp, "attempt": attempt, **asdict(event)}
    return json.dumps(finite(record), ensure_ascii=False, allow_nan=False) + "\n"


def decode(record: Mapping[str, Any]) -> Event | None:
    """The event that a parsed line holds, or None when its kind or its fields are from another version."""
    kind = KINDS.get(str(record.get("kind")))
    if kind is None:
        return None
    try:
        return kind(**{key: value for key, value in record.items() if key not in ("kind", "t", "attempt")})  # type: ignore[no-any-return]
    except TypeError:
        return None


class Journal:
    """Appends whole lines to one file. Invariant: between calls the file ends with a newline or is empty.

    A torn last line, left by a worker that was killed in mid-write, is cut at opening, and so is a line that a full
    disk cut short: then OSError is raised and everything before it is intact. Safe to use from several threads.
    """

    def __init__(self, path: Path, *, attempt: int = 1) -> None:
        self.path = path
        self.attempt = attempt
        self._guard = threading.Lock()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._cut_torn_line()

    def write(self, event: Event) -> None:
        line = encode(event, attempt=self.attempt).encode()
        with self._guard:
            end = os.fstat(self._file).st_size
            try:
                written = 0
                while written < len(line):
                    written += os.write(self._file, line[written:])
            except OSError:
                os.ftruncate(self._file, end)
                raise

    def close(self) -> None:
        os.close(self._file)

    def _cut_torn_line(self) -> None:
        end = os.fstat(self._file).st_size
        start = end
        while start > 0:
            block = min(65536, start)
            found = os.pread(self._file, block, start - block).rfind(b"\n")
            if found >= 0:
                keep = start - block + found + 1
                break
            start -= block
        else:
            keep = 0
        if keep < end:
            os.ftruncate(self._file, keep)
