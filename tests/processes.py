"""What tests of processes share: waiting for a condition, and runs of the lean worker."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from engine.contract import rundir, start
from engine.contract.rundir import ENDED, Run, records

Found = TypeVar("Found")
LEAN = f"{sys.executable} {Path(__file__).parent / 'lean_worker.py'}"


def until(condition: Callable[[], Found], seconds: float = 60.0, what: str = "") -> Found:
    """What `condition` returns once it is true. The deadline matters only when the test fails."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what or condition}"
        time.sleep(0.005)
    return found


def lean(
    workspace: Path, *, devices: tuple[str, ...] = ("cpu",), share: bool = False, tries: int = 1, **told: object
) -> Run:
    """A run of the lean worker, started; `told` is what it is to do. Needs TUNEBOARD_WORKER to be LEAN."""
    return start.start(workspace, "lean", json.dumps(told), devices=devices, share=share, tries=tries)


def ended(run: Run, seconds: float = 60.0) -> str:
    """The state of the run once it has ended and nobody holds its lock."""
    until(lambda: run.state() in ENDED and not run.alive(), seconds, f"{run.id} to end; it is {run.state()}")
    return run.state()


def steps(run: Run) -> list[int]:
    return [record["step"] for record in records(run.metrics_path)]


def phases(run: Run) -> list[str]:
    return [record["name"] for record in records(run.events_path) if record["kind"] == "phase"]


def pid(run: Run, who: str) -> int:
    """The process of the run's `supervisor` or `worker`, once it is known."""
    return int(until(lambda: run.status().get(who), what=f"the {who} of {run.id}")["pid"])


def gone(pid: int) -> bool:
    """Whether the process has ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def kill_runs(workspace: Path) -> None:
    """Kill whatever still works in a run of `workspace`, so that no run outlives its test."""
    for run in rundir.runs(workspace):
        for who in ("supervisor", "worker"):
            known = run.status().get(who)
            if run.alive() and known and start.identity(known["pid"]) == known:
                os.kill(known["pid"], signal.SIGKILL)
