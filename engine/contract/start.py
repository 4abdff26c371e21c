"""Start and stop runs: the one place that starts supervisors and sends them signals.

Standard library only. The page and the command line both come here; neither waits for what it starts.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from engine.contract import rundir
from engine.contract.queue import Ticket

ROOT = Path(__file__).resolve().parents[2]
NAMING_SECONDS = 10.0
TRIES = 4
"""Attempts of a training run in all, where memory runs out."""


def start(
    workspace: Path, label: str, args_text: str, *, devices: Sequence[str] = ("cpu",), share: bool = False,
    tries: int = 1,
) -> rundir.Run:  # fmt: skip
    """Make a run folder and start its supervisor, which queues for `devices` (held alone, or shared with `share`).

    tries: how often its worker may be started in all, where memory runs out.
    Returns at once. The run goes on when this process ends: the supervisor leads a session of its own.
    """
    run, lock = rundir.make_locked(workspace, label, args_text)
    queued_at = time.time_ns()
    # Drawn here and not by the supervisor: two runs start in the order in which they were asked for.
    tickets = [Ticket.draw(device, queued_at) for device in devices]
    command = [sys.executable, "-m", "engine.supervise", str(run.path.resolve())]
    command += ["--lock", str(lock), "--queued-at", str(queued_at), "--devices", ",".join(devices)]
    command += ["--tickets", *(f"{ticket.descriptor}:{ticket.path}" for ticket in tickets)]
    command += ["--tries", str(tries)]
    if share:
        command.append("--share")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    log = os.open(run.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            pass_fds=(lock, *(ticket.descriptor for ticket in tickets)), env=environment,
        )  # fmt: skip
    finally:
        for descriptor in (log, lock, *(ticket.descriptor for ticket in tickets)):
            os.close(descriptor)
    _CHILDREN.append(process)
    reap()
    return run


_CHILDREN: list[subprocess.Popen[bytes]] = []


def reap() -> None:
    """Collect supervisors of ours that have ended, so that none stays a zombie while the page lives."""
    _CHILDREN[:] = [child for child in _CHILDREN if child.poll() is None]


def stop(run: rundir.Run) -> bool:
    """Ask a run to save and end; asked again, it is killed. False when there was nothing to stop.

    The signal goes to the supervisor. When that is dead and the worker lives, it goes to the worker's group. Nothing is
    sent unless the run's lock is held and the process is the one that the status names: pids are reused.
    """
    # A supervisor that has just been started has not said its name yet.
    deadline = time.monotonic() + NAMING_SECONDS
    while run.alive() and not run.status() and time.monotonic() < deadline:
        time.sleep(0.02)
    if not run.alive():
        return False
    status = run.status()
    if _is(status.get("supervisor")):
        os.kill(status["supervisor"]["pid"], signal.SIGTERM)
        return True
    if _is(status.get("worker")):
        os.killpg(status["worker"]["pid"], signal.SIGKILL)
        return True
    return False


def identity(pid: int) -> dict[str, int | str]:
    """A process by pid and start time, which together are never reused."""
    return {"pid": pid, "started": _started(pid)}


def _is(process: object) -> bool:
    return isinstance(process, dict) and _started(int(process["pid"])) == process["started"] != ""


def _started(pid: int) -> str:
    """The kernel's own stamp of when `pid` began; empty when there is no such process, or only its zombie."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if facts[0] in "ZX" else facts[19]
    except OSError:
        pass  # no /proc on macOS, or no such process: ask ps
    if Path("/proc/self").exists():
        return ""
    asked = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, began = asked.stdout.strip().partition(" ")
    return "" if state.startswith("Z") else began.strip()
