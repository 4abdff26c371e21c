"""Start a run from the command line and follow it: its log as it grows, Ctrl-C is Stop, the exit code is the run's."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

from data import models
from data.checking import preflight, survey
from engine.contract import start, text
from engine.contract.args import AnyArgs, DownloadArgs, MakeArgs, TrainArgs
from engine.contract.auto import Facts, resolved
from engine.contract.errors import ArgsError, BoardError, Problem
from engine.contract.machine import device_ids, machine
from engine.contract.rundir import ENDED, Run, records
from engine.contract.start import stop

POLL_SECONDS = 0.2


def begin(args: AnyArgs, workspace: Path) -> Run:
    """A run of `args`, started; whatever `auto` can be decided now is decided, and written down.

    Raises ArgsError with everything that keeps it from running here, before a folder is made.
    """
    if problems := preflight.problems(args, workspace):
        raise ArgsError(problems)
    args = preflight.grounded(args, workspace)
    if isinstance(args, TrainArgs):
        look(args, workspace)
        args = resolved(args, Facts(machine(), parameters=_parameters(args, workspace)))
    tries = start.TRIES if isinstance(args, TrainArgs) else 1
    return start.start(
        workspace, label(args), text.dump(args), devices=devices(args), share=args.kind == "serve", tries=tries
    )


def look(args: TrainArgs, workspace: Path) -> None:
    """Say what a look at some of the rows finds: warnings are waved through, errors raise ArgsError."""
    folder = models.find(args.model.path, workspace, args.model.revision).folder
    if folder is None:
        return
    found = survey.sampled(args, folder, workspace)
    for finding in found.of("warning"):
        print(f"Warning: {finding.text} {finding.hint}".rstrip(), flush=True)
    if errors := found.of("error"):
        raise ArgsError([Problem("data.train", f"{finding.text} {finding.hint}".rstrip()) for finding in errors])


def devices(args: AnyArgs) -> list[str]:
    """The devices that a run queues for; none for one that only talks to a server."""
    if isinstance(args, MakeArgs | DownloadArgs):
        return []
    if isinstance(args, TrainArgs):
        return device_ids(args.compute.device, args.launch.devices)
    return device_ids(args.device)


def label(args: AnyArgs) -> str:
    """The part of a run's folder name that people recognise it by."""
    if args.name:
        return args.name
    if isinstance(args, TrainArgs):
        return f"{args.task.kind}-{Path(args.model.path).name}"
    return args.kind


def start_and_follow(args: AnyArgs, workspace: Path, *, detach: bool = False) -> int:
    run = begin(args, workspace)
    print(f"Run {run.id}\nFolder {run.path}", flush=True)
    if detach:
        return 0
    return follow(run)


def follow(run: Run) -> int:
    """Print the run's log until it ends. 0 done, 1 failed or lost, 3 stopped."""
    pressed = heeded = 0  # Ctrl-C: one that comes while another is heeded counts too
    with open(run.log_path, "rb") as log:
        while True:
            try:
                while heeded < pressed:
                    print("\nStopping; press Ctrl-C again to kill.", flush=True)
                    stop(run)
                    heeded += 1
                ended = run.state() in ENDED
                shutil.copyfileobj(log, sys.stdout.buffer)
                sys.stdout.flush()
                if ended:
                    break
                time.sleep(POLL_SECONDS)
            except KeyboardInterrupt:
                pressed += 1
    state, status = run.state(), run.status()
    print(f"{state}{': ' + str(status['why']) if status.get('why') else ''}", flush=True)
    return {"done": 0, "stopped": 3}.get(state, 1)


def result_of(run: Run) -> dict:
    """The facts of a finished run's result event. Raises BoardError with the run's own words when it did not finish."""
    found = list(records(run.events_path))
    for record in reversed(found):
        if record["kind"] == "result":
            return record
        if record["kind"] == "error":
            raise BoardError(record["text"], record["hint"])
    raise BoardError(f"{run.id} is {run.state()} and has no result.", f"See {os.path.relpath(run.log_path)}.")


def _parameters(args: TrainArgs, workspace: Path) -> int:
    place = models.find(args.model.path, workspace, args.model.revision)
    return models.card(place.folder).parameters if place.folder else 0
