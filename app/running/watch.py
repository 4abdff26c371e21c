"""One run as somebody watches it: what its files have said so far, each read from where the last look ended.

A `Watch` belongs to one browser session. It knows run folders and events; it knows no widget and draws nothing.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from app import naming
from app.running.charts import Curve
from app.running.tail import Tail
from engine.contract import events, text
from engine.contract.args import AnyArgs, TrainArgs
from engine.contract.errors import ArgsError
from engine.contract.fields import Section, walk
from engine.contract.rundir import ENDED, Run

STORY = 300  # events kept for the list; a long run's oldest ones are in its file
WITHIN_TRAINING = ("training", "evaluating", "saving")
LISTED = (events.Note, events.Checkpoint, events.Sample, events.Warn, events.Failure, events.Result, events.Serving)


@dataclass(frozen=True)
class Happening:
    """An event worth a line in the list, and when it was (Unix seconds)."""

    t: float
    event: events.Event


class Watch:
    """Follows `run`. `look()` reads what is new; everything else is what is known after it."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.args = arguments(run)
        self._kinds = _kinds(self.args) if self.args else ()
        self.title = (self.args.name if self.args else "") or run.id
        self.state = "queued"
        self.status: dict[str, object] = {}
        self.sent: dict[str, object] = {}  # what the page shows, by part: only what differs is sent again
        self._begin()

    def _begin(self) -> None:
        self._metrics, self._events = Tail(self.run.metrics_path), Tail(self.run.events_path)
        self.phase = ""
        self._progress: dict[str, Any] | None = None
        self._trained: dict[str, Any] | None = None  # the progress of training, which goes on after other phases
        self.steps_total: int | None = None  # of training alone: later phases count steps of their own
        self.failure: events.Failure | None = None
        self.result: events.Result | None = None
        self.again: events.Warn | None = None  # why the newest attempt is not the first
        self._heard = 1  # the newest attempt that has said something
        self.story: deque[Happening] = deque(maxlen=STORY)
        self.curve = Curve()
        for ancestor, step in lineage(self.run):
            self.curve.extend(Tail(ancestor.metrics_path).records())
            self.curve.begin(step)

    def look(self) -> None:
        """Read what was written since the last look."""
        self.state, self.status = self.run.state(), self.run.status()
        restarts = self._metrics.restarts + self._events.restarts
        new_events, new_metrics = list(self._events.records()), self._metrics.records()
        self.curve.extend(new_metrics)
        if self._metrics.restarts + self._events.restarts > restarts:
            self._begin()
            new_events = list(self._events.records())
            self.curve.extend(self._metrics.records())
        for record in new_events:
            self._hear(record)

    def _hear(self, record: dict[str, Any]) -> None:
        if record.get("kind") == "progress":  # by far the most frequent, and only the last one counts
            self._progress = record
            if self.phase == "training":
                self._trained, self.steps_total = record, record["steps"]
            return
        event = events.decode(record)
        if (attempt := record.get("attempt", 1)) > self._heard:
            self._heard, self.again = attempt, event if isinstance(event, events.Warn) else None
        match event:
            case events.Phase():
                self.phase, self._progress = event.name, None
                if event.name not in WITHIN_TRAINING:
                    self._trained = None
            case events.Failure():
                self.failure = event
            case events.Result():
                self.result = event
        if isinstance(event, LISTED):
            self.story.append(Happening(record.get("t", 0.0), event))

    @property
    def progress(self) -> events.Progress | None:
        """How far the current phase is, and before its first step the training that it is part of; else None."""
        record = self._progress or self._trained
        event = events.decode(record) if record else None
        return event if isinstance(event, events.Progress) else None

    @property
    def moving(self) -> bool:
        return self.state not in ENDED

    def plain(self, sentence: str) -> str:
        """`sentence` with the labels of arguments where it names their paths."""
        return _plain(type(self.args), sentence, self._kinds) if self.args else sentence

    @property
    def aim(self) -> str:
        """What training works on: `reward` or `loss`. Known before the first number by what the run was asked for."""
        asked = self.args.task.aim if isinstance(self.args, TrainArgs) else ""
        return asked if asked == "reward" else self.curve.aim

    @property
    def learns(self) -> bool:
        """Whether it is a run that draws curves; of one from another version nobody knows."""
        return self.args is None or isinstance(self.args, TrainArgs)

    @property
    def attempt(self) -> int:
        return int(str(self.status.get("attempt", 1)))


def arguments(run: Run) -> AnyArgs | None:
    """What the run was started with; None when that is of another version, or gone."""
    try:
        return text.load(run.args_path)
    except ArgsError:
        return None


def _kinds(args: AnyArgs) -> tuple[tuple[str, str], ...]:
    """(union, which variant of it is chosen) of every union."""
    content = args.model_dump(mode="json")
    unions = {spec.union for spec in walk(type(args)) if spec.union}
    return tuple((union, str(text.at(content, f"{union}.kind"))) for union in sorted(unions))


@lru_cache(4096)
def _plain(root: type[Section], sentence: str, kinds: tuple[tuple[str, str], ...]) -> str:
    """Kept, as a story is told anew at every look."""
    return naming.plain(root, sentence, dict(kinds))


def lineage(run: Run) -> list[tuple[Run, int | None]]:
    """The runs that `run` continues, oldest first, each with the checkpoint's step that the next one went on from."""
    found: list[tuple[Run, int | None]] = []
    seen = {run.id}
    while parent := _parent(run):
        run = parent[0]
        if run.id in seen or not run.path.is_dir():
            break
        seen.add(run.id)
        found.append(parent)
    return found[::-1]


def _parent(run: Run) -> tuple[Run, int | None] | None:
    args = arguments(run)
    if not isinstance(args, TrainArgs) or not args.resume.run or Path(args.resume.run).name != args.resume.run:
        return None
    parent = Run(run.path.parent / args.resume.run)
    named = re.fullmatch(r"step-(\d+)", args.resume.checkpoint)
    if named:
        return parent, int(named[1])
    steps = [step for step, _ in parent.checkpoints()]
    return parent, max(steps) if steps else None
