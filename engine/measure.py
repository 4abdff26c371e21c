"""`measure`: two real steps on the longest rows, in a worker of their own, in place of an estimate.

It waits in the line for the device like a run, and leaves none behind: what it finds is kept in the workspace's cache,
by the arguments that it depends on. Running out of memory is a result too. Imports no torch; `engine.trial` does.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from data.planning import past
from data.planning.past import Measured
from engine.contract import queue, rundir, text
from engine.contract.args import TrainArgs
from engine.contract.errors import BoardError
from engine.contract.machine import device_ids
from engine.contract.rundir import Run
from engine.plan import made, said
from engine.supervise import OUT_OF_MEMORY, QUEUE_POLL_SECONDS

HIDDEN = ".measure-"
"""How the folder of a measurement begins; no list of runs shows what begins with a dot."""
STEPS = 2


def measure(args: text.AnyArgs, workspace: Path, *, as_json: bool = False) -> int:
    """Measure a training, keep what is found, and print the plan with it; 0 when it fits, 1 when not."""
    plan = made(args, workspace)
    if plan.args.launch.everywhere > 1:
        said_why = f"Two steps are measured in one process, and launch wants {plan.args.launch.everywhere}."
        raise BoardError(said_why, "Set launch.processes to 1: with ddp each of them needs as much.")
    signal.signal(signal.SIGTERM, _leave)
    with alone(device_ids(plan.args.compute.device, plan.args.launch.devices)):
        found = measured(plan.args, workspace)
    file = workspace / "cache" / past.KEPT / f"{past.key(plan.args)}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    rundir.write_json(file, found.model_dump())
    if as_json:
        print(found.model_dump_json())
        return 0
    plan = made(args, workspace)
    print("\n".join(said(plan)))
    return 0 if plan.fits else 1


@contextlib.contextmanager
def alone(devices: Sequence[str]) -> Iterator[None]:
    """Hold the devices alone, after whoever came before."""
    tickets = [queue.Ticket.draw(device, time.time_ns()) for device in devices]
    locks = queue.open_locks(devices)
    told = False
    try:
        try:
            while not (all(ticket.is_first() for ticket in tickets) and queue.take_all(locks, share=False)):
                if not told:
                    tell("waiting for the device")
                told = True
                time.sleep(QUEUE_POLL_SECONDS)
        finally:
            for ticket in tickets:
                ticket.give_back()
        yield
    finally:
        for lock in locks:
            os.close(lock)


def measured(args: TrainArgs, workspace: Path) -> Measured:
    """Two steps of `args` in a process of their own. Raises BoardError with its words where they cannot be taken."""
    for left in (workspace / "runs").glob(f"{HIDDEN}*"):  # by one that was killed
        if not Run(left).alive():
            shutil.rmtree(left, ignore_errors=True)
    run = Run(workspace / "runs" / f"{HIDDEN}{os.getpid()}")
    run.path.mkdir(parents=True)
    lock = rundir.take_lock(run)
    try:
        run.args_path.write_text(text.dump(trial(args)), encoding="utf-8")
        tell("two steps on the longest rows")
        worker = subprocess.Popen(
            [sys.executable, "-m", "engine.trial", str(run.path)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True, pass_fds=(lock,),
        )  # fmt: skip
        try:
            _follow(run, worker)
        finally:
            if worker.poll() is None:
                os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
        return _result(run, worker.returncode)
    finally:
        os.close(lock)
        shutil.rmtree(run.path, ignore_errors=True)


def trial(args: TrainArgs) -> TrainArgs:
    """The same training, two steps long: no rows are held out, nothing is resumed, nothing saved."""
    content: dict[str, Any] = args.model_dump()
    content["name"] = content["description"] = ""
    content["steps"] |= {"max_steps": STEPS}
    content["optim"]["warmup"] = 0  # so short a run has no room for one
    content["data"] |= {"split": "100/0/0", "validation": []}
    content["record"] = {"log_every": 1, "save_every": 1000, "evaluate_every": 1000}
    content["resume"] = {}
    return TrainArgs.model_validate(content)


def _follow(run: Run, worker: subprocess.Popen[bytes]) -> None:
    """Say where it is, until it ends."""
    phase = ""
    while worker.poll() is None:
        words = [record["name"] for record in rundir.records(run.events_path) if record["kind"] == "phase"]
        if words and words[-1] != phase:
            phase = words[-1]
            tell(phase)
        time.sleep(QUEUE_POLL_SECONDS)


def _result(run: Run, code: int) -> Measured:
    if code in (OUT_OF_MEMORY, -signal.SIGKILL):
        return Measured(out_of_memory=True)
    if code == 0:
        return Measured.model_validate_json((run.results_path).read_bytes())
    errors = [record for record in rundir.records(run.events_path) if record["kind"] == "error"]
    if errors:
        raise BoardError(errors[-1]["text"], errors[-1]["hint"])
    raise BoardError(f"The two steps ended with code {code}.", "Start the run itself: its log says more.")


def tell(word: str) -> None:
    """Progress, for whoever waits."""
    print(word, file=sys.stderr, flush=True)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
