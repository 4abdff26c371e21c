"""Start a program, wait for something it does, and say what it took: seconds from its start, and bytes of memory.

Knows processes and clocks; it does not know what is measured. Linux only, as it reads /proc.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
POLL_SECONDS = 0.02
PATIENCE_SECONDS = 600


@dataclass
class Line:
    """One row of the table: ours, what it is compared with if anything, and what is aimed at."""

    what: str
    unit: str
    ours: float
    other: float | None = None
    against: str = ""
    goal: str = ""
    samples: dict[str, list[float]] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        return self.ours / self.other if self.other else None


def line(what: str, unit: str, ours: list[float], other: list[float], against: str, **more: Any) -> Line:
    """The medians of two lists of samples, side by side."""
    middle = statistics.median
    return Line(what, unit, middle(ours), middle(other), against, samples={"ours": ours, "other": other}, **more)


class Program:
    """`python *words` from the project's root, as a process group of its own; its output goes to `log`."""

    def __init__(self, words: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.log = log
        self.started = time.time()
        with open(log, "wb") as out:
            # Standard input stays open: a worker ends when it closes.
            self.process = subprocess.Popen(
                [sys.executable, *words], cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1", **(environment or {})},
                stdin=subprocess.PIPE, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip

    def until(self, true: Callable[[], bool]) -> float:
        """Seconds from the start until `true()`; RuntimeError with the log's end when the program ends before."""
        while not true():
            if self.process.poll() is not None or time.time() - self.started > PATIENCE_SECONDS:
                self.kill()
                raise RuntimeError(f"{self.process.args} did not get there:\n{self.log.read_text()[-3000:]}")
            time.sleep(POLL_SECONDS)
        return time.time() - self.started

    def finish(self) -> tuple[int, float]:
        """Wait for its end: the peak of its resident memory in bytes, and seconds of processor time on all cores.

        RuntimeError when it failed.
        """
        try:
            _, status, usage = os.wait4(self.process.pid, 0)
        except KeyboardInterrupt:
            self.kill()  # it leads a group of its own, so Ctrl-C did not reach it
            raise
        self.process.returncode = os.waitstatus_to_exitcode(status)
        if self.process.returncode != 0:
            raise RuntimeError(f"{self.process.args} failed:\n{self.log.read_text()[-3000:]}")
        return usage.ru_maxrss * 1024, usage.ru_utime + usage.ru_stime

    def memory(self) -> int:
        """Resident bytes now."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def processor_seconds(self) -> float:
        """What it has computed so far, on all cores; other programs on the machine disturb this least."""
        spent = psutil.Process(self.process.pid).cpu_times()
        return float(spent.user + spent.system)

    def has_mapped(self, library: str) -> bool:
        """Whether the process has a file with this word in its name in its memory."""
        return library in Path(f"/proc/{self.process.pid}/maps").read_text()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def answers(address: str, paths: Iterable[str]) -> bool:
    """Whether all of these pages come with status 200."""
    try:
        for path in paths:
            with urllib.request.urlopen(address + path, timeout=30) as answer:
                if answer.status != 200 or not answer.read(1):
                    return False
    except (urllib.error.URLError, ConnectionError):
        return False
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
