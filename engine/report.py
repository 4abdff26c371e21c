"""What a worker says and what it is told: the journals of its run folder, and the request to stop.

One writer per file: metrics.jsonl and events.jsonl are written here, by rank 0, and nowhere else. Knows no task.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from engine.contract.events import (
    Checkpoint,
    Failure,
    Journal,
    Metrics,
    Note,
    Phase,
    Progress,
    Result,
    Sample,
    Serving,
    Warn,
)
from engine.contract.rundir import Run


class Stopped(BaseException):
    """The run was asked to stop, and nothing is left to save. Not an Exception: no recipe may swallow it."""


class Stop:
    """The request to stop: SIGTERM, or the end of standard input (then the supervisor is dead).

    Outside `deferred` a request raises Stopped at once, since nothing would be lost; inside, it only sets `asked`, and
    the recipe ends where it is safe.
    """

    def __init__(self) -> None:
        self.asked = False
        self._deferred = 0
        self._told: list[Callable[[], object]] = []

    def listen(self, *, watch_stdin: bool, end: str = "The supervisor is gone") -> None:
        """end: what the end of standard input says."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        if watch_stdin:
            threading.Thread(target=self._watch_stdin, args=(end,), daemon=True).start()

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        self._deferred += 1
        try:
            yield
        finally:
            self._deferred -= 1

    def settle(self) -> None:
        """How the run ends is known: a request that comes while it is written down changes nothing."""
        self._deferred += 1

    def on_ask(self, tell: Callable[[], object]) -> None:
        """Have `tell` called when a stop is asked for; at once when it was."""
        self._told.append(tell)
        if self.asked:
            tell()

    def check(self) -> None:
        """Raise Stopped if it was asked for."""
        if self.asked:
            raise Stopped

    def _on_signal(self, *_: object) -> None:
        self.asked = True
        for tell in self._told:
            tell()
        if not self._deferred:
            raise Stopped

    def _watch_stdin(self, end: str) -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        print(f"{end}: saving and ending.", flush=True)
        os.kill(os.getpid(), signal.SIGTERM)


class Report:
    """Everything that the worker of one run writes down while it works."""

    def __init__(self, run: Run, *, attempt: int = 1, lead: bool = True) -> None:
        self.run = run
        self.lead = lead  # rank 0; the other ranks say nothing
        self._events = Journal(run.events_path, attempt=attempt) if lead else None
        self._metrics = Journal(run.metrics_path, attempt=attempt) if lead else None

    def phase(self, name: str) -> None:
        self._say(Phase(name), f"{name} ...")

    def progress(self, step: int, steps: int, seconds_left: float | None = None, unit: str = "steps") -> None:
        self._say(Progress(step, steps, seconds_left, unit))

    def note(self, text: str, **facts: Any) -> None:
        self._say(Note(text, facts), text)

    def warn(self, text: str, hint: str = "") -> None:
        self._say(Warn(text, hint), f"Warning: {text} {hint}")

    def checkpoint(self, step: int, path: str) -> None:
        self._say(Checkpoint(step, path), f"Saved {path}.")

    def sample(self, step: int, prompt: str, answer: str, reward: float | None = None) -> None:
        self._say(Sample(step, prompt, answer, reward))

    def serving(self, address: str) -> None:
        self._say(Serving(address), f"Answering at {address}/v1")

    def result(self, sentence: str, **facts: Any) -> None:
        self._say(Result(sentence, facts), sentence)

    def failure(self, text: str, hint: str = "", *, bug: bool = False) -> None:
        self._say(Failure(text, hint, bug), f"Failed: {text} {hint}")

    def metrics(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """A point of the curves. NaN and infinity are written as null; whoever trains warns about them."""
        if self._metrics is not None:
            self._metrics.write(Metrics(step, epoch, dict(values)))
            shown = "  ".join(f"{key} {value:.4g}" for key, value in values.items() if math.isfinite(value))
            print(f"step {step}  {shown}", flush=True)

    def _say(self, event: Any, line: str = "") -> None:
        if self._events is not None:
            self._events.write(event)
            if line:
                print(line, flush=True)
