"""Several processes as one worker: started by `accelerate launch`, watched, asked to stop, and reported as one.

The supervisor knows one process, this one. The ranks read from a pipe that is held open here: its end is the stop, as
it is between supervisor and worker. Each rank leaves one word about its end in a folder; what becomes of the run is
read from those words once all are dead, so the journals keep one writer at a time. Loads no model.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from engine.contract.args import TrainArgs
from engine.contract.errors import ResourceError
from engine.contract.launching import command
from engine.contract.machine import machine
from engine.contract.rundir import Run
from engine.devices.ranks import ENDS, Ending
from engine.report import Report, Stop, Stopped
from engine.supervise import FAILED, OUT_OF_MEMORY, STOPPED, oom_kills

TAIL = 40  # lines of a dead rank's log that are shown


def ranks(args: TrainArgs, run: Run, report: Report, stop: Stop) -> int:
    """Train in the processes that `args.launch` wants; the exit code that the supervisor understands."""
    launch = args.launch
    cpu = args.compute.device == "cpu" or machine().device == "cpu"
    many = "1 process" if launch.here == 1 else f"{launch.here} processes"
    where = f" on machine {launch.number} of {launch.machines}" if launch.machines > 1 else ""
    report.note(f"Starting {many}{where}, {launch.strategy}.", processes=launch.everywhere, strategy=launch.strategy)
    with tempfile.TemporaryDirectory(prefix="tuneboard-ranks-") as ends:
        environment = {**os.environ, ENDS: ends}
        environment.setdefault("OMP_NUM_THREADS", str(max(1, machine().cores // launch.here)))
        if launch.machines > 1:
            for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
                environment.setdefault(name, _interface(launch.address, launch.port))
        killed_before = oom_kills()
        program = [sys.executable, *command(launch, ["engine", "work", str(run.path)], cpu=cpu)]
        with stop.deferred():
            started = subprocess.Popen(program, stdin=subprocess.PIPE, env=environment)
            assert started.stdin is not None
            stop.on_ask(started.stdin.close)
            started.wait()
        said = [Ending.read(Path(ends), launch.number * launch.here + local) for local in range(launch.here)]
    return ended(said, run, report, stop, everywhere=launch.everywhere, struck=oom_kills() - killed_before)


def _interface(address: str, port: int) -> str:
    """The network interface that leads to machine 0. A machine's own name often leads to its loopback instead."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
            way.connect((address, port))  # nothing is sent
            own = way.getsockname()[0]
    except OSError as problem:
        raise ResourceError(
            f"Machine 0 is not reached at {address}: {problem.strerror or problem}.", "Set launch.address."
        ) from problem
    interfaces = psutil.net_if_addrs().items()
    return next((name for name, known in interfaces if any(one.address == own for one in known)), "")


def ended(said: list[Ending], run: Run, report: Report, stop: Stop, *, everywhere: int, struck: int) -> int:
    """What the endings of this machine's ranks come to; the first cause is what is told, not what followed from it.

    everywhere: the ranks of all machines.
    struck: how often the kernel ended a process for want of memory meanwhile. A rank that it ends leaves no word.
    """
    mute = [one for one in said if one.code is None]
    failed = sorted((one for one in said if one.code not in (None, 0, STOPPED)), key=lambda one: one.at)
    if not mute and not failed:
        if any(one.code == STOPPED for one in said) or stop.asked:
            raise Stopped
        return 0
    told = [one for one in failed if not one.bug] or ([] if mute else failed)
    stopped = [one.at for one in said if one.code == STOPPED]
    if stop.asked and stopped and not mute and all(one.bug and one.at > min(stopped) for one in failed):
        raise Stopped  # one that had not begun to train ended at once, and the others missed it in what they share
    if any(one.code == OUT_OF_MEMORY for one in failed) or (struck and not told):
        return OUT_OF_MEMORY
    if told:
        first = told[:1]
        report.failure(first[0].text, first[0].hint, bug=first[0].bug)
    else:
        first = [one for one in mute if not one.asked] or mute
        numbers = ", ".join(str(one.rank) for one in first)
        who = f"Process {numbers}" if len(first) == 1 else f"Processes {numbers}"
        report.failure(
            f"{who} of {everywhere} died without a word, and the others were ended with it.",
            "Most likely the system ended it for want of memory; its last lines are at the end of the log.",
        )
    for one in first:
        _show(run, one)
    return FAILED


def _show(run: Run, ending: Ending) -> None:
    """The end of a rank's own log, at the end of the run's."""
    path = run.rank_log_path(ending.rank)
    if ending.rank and path.is_file():
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]
        print(f"--- The last lines of process {ending.rank} ({path.name}):", *lines, sep="\n", flush=True)
