"""SIGKILL at any moment, twenty times each: nothing recorded is lost, every state is right, and the queue goes on.

The moments are drawn from a seed; what each hits is up to the machine, so a failure names its moment.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.contract import rundir
from engine.contract.queue import state_folder
from engine.contract.rundir import ENDED, Run
from tests.processes import LEAN, ended, lean, pid, steps, until

KILLS = 20
FOR_EVER = 1_000_000
ROOT = Path(__file__).resolve().parents[3]


class Observer:
    """Looks at every run of a workspace again and again, as a board does; `wrong` is what it must never see."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self.seen: dict[str, int] = {}
        self.ends: dict[str, str] = {}
        self.wrong: list[str] = []
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Observer:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()
        assert not self.wrong, self.wrong
        assert self.seen

    def _watch(self) -> None:
        while not self.done.wait(0.002):
            try:
                for run in rundir.runs(self.workspace):
                    self._look(run)
            except Exception as problem:
                self.wrong.append(repr(problem))
                raise

    def _look(self, run: Run) -> None:
        state = run.state()
        if self.ends.setdefault(run.id, state if state in ENDED else "") not in ("", state):
            self.wrong.append(f"{run.id} was {self.ends[run.id]} and is {state}")
        self.ends[run.id] = state if state in ENDED else ""
        found = steps(run)
        if found != list(range(1, len(found) + 1)):
            self.wrong.append(f"{run.id} has holes in its steps: {found}")
        if len(found) < self.seen.get(run.id, 0):
            self.wrong.append(f"{run.id} had {self.seen[run.id]} steps and has {len(found)}")
        self.seen[run.id] = len(found)


@pytest.fixture(autouse=True)
def lean_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("TUNEBOARD_WORKER", LEAN)
    yield
    for run in rundir.runs(tmp_path):
        ended(run)


def said(run: Run) -> list[int]:
    """The steps that the worker said were on disk."""
    return [int(step) for step in re.findall(r"^step (\d+)\n", run.log_path.read_text(), re.MULTILINE)]


def at_random(chance: random.Random, run: Run | None) -> str:
    """Let a moment come: soon, or for one of two a while after the run has taken some steps."""
    wanted, delay = chance.choice((0, chance.randrange(1, 40))) if run else 0, chance.uniform(0, 0.1)
    if run and wanted:
        until(lambda: len(steps(run)) >= wanted, what=f"{run.id} to reach step {wanted}")
    time.sleep(delay)
    return f"{delay:.3f} s after step {wanted}"


def nobody_waits() -> bool:
    """Whether no ticket is left in line. One whose starter died too early is hidden and counts for none."""
    return not list((state_folder() / "device-cpu.queue").glob("[0-9]*"))


def test_workers_killed_at_any_moment_fail_for_lack_of_memory_and_lose_nothing(tmp_path: Path) -> None:
    chance = random.Random(1)
    line = [lean(tmp_path, steps=FOR_EVER) for _ in range(KILLS)]
    last = lean(tmp_path, steps=3)
    with Observer(tmp_path):
        for run in line:
            worker = pid(run, "worker")
            moment = at_random(chance, run)
            os.kill(worker, signal.SIGKILL)
            assert ended(run) == "failed", moment
            assert run.status()["why"] == "Killed by the system, most likely out of memory."
            assert set(said(run)) <= set(steps(run)), moment
        assert ended(last) == "done" and nobody_waits()


def test_supervisors_killed_at_any_moment_leave_lost_runs_that_were_saved(tmp_path: Path) -> None:
    chance = random.Random(2)
    line = [lean(tmp_path, steps=FOR_EVER) for _ in range(KILLS)]
    last = lean(tmp_path, steps=3)
    supervisors = {run.id: pid(run, "supervisor") for run in line}
    with Observer(tmp_path):
        while line:
            # one of four still waits in line; the others are about to begin, begin, or work
            waits = chance.random() < 0.25
            run = line.pop(chance.randrange(len(line)) if waits else 0)
            moment = at_random(chance, None if waits else run)
            os.kill(supervisors[run.id], signal.SIGKILL)
            assert ended(run) == "lost", moment
            assert (run.path / "saved").exists() is bool(steps(run)), moment
            assert set(said(run)) <= set(steps(run)), moment
        assert ended(last) == "done" and nobody_waits()


def test_starters_killed_at_any_moment_leave_runs_that_end_by_themselves(tmp_path: Path) -> None:
    chance = random.Random(3)
    program = (
        "import sys; from pathlib import Path; from tests.processes import lean; print(flush=True);"
        "[lean(Path(sys.argv[1]), steps=3) for _ in range(3)]"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    starters = []
    with Observer(tmp_path):
        for _ in range(KILLS):
            starter = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
            assert starter.stdout is not None and starter.stdout.readline()
            time.sleep(chance.uniform(0, 0.02))
            starter.kill()
            starter.wait()
            starter.stdout.close()
            starters.append(starter.returncode)
        made = rundir.runs(tmp_path)
        states = [ended(run) for run in made]
        assert ended(lean(tmp_path, steps=3)) == "done"
        until(nobody_waits)
    assert set(states) <= {"done", "lost"} and "done" in states and -signal.SIGKILL in starters
    for run, state in zip(made, states, strict=True):
        assert state == "done" or not steps(run), f"{run.id} worked and is {state}"
