"""The supervisor: waits in the queue, starts the worker, forwards a stop, records how it ended.

Standard library only: it must be tiny, start at once and survive everything. It knows nothing of training; a run is an
args file and a command. It writes `status.json` and nothing else; nobody else writes that.

    python -m engine.supervise RUN_DIR --lock FD --queued-at NS --devices cpu[,...] --tickets FD:PATH ... [--share]
                               [--tries N]
"""

from __future__ import annotations

import argparse
import os
import select
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from engine.contract.queue import Ticket, open_locks, take_all
from engine.contract.rundir import Run, write_json
from engine.contract.start import identity

STOPPED = 3
"""The worker's exit code for: I was asked to stop, and everything is saved."""
FAILED = 4
"""The worker's exit code for: an `error` event says why. Not 1: so Python ends when nobody catches an exception."""
MUTE = 120
"""The worker's exit code for: not even the `error` event could be written. Python's own code for a last flush that
failed, which comes of the same cause."""
LESS = "Lower the batch size or the maximum length, or choose a smaller model."
DISK_FULL = "The disk is full.", "Free some space or delete old runs; what was saved before is intact."
OUT_OF_MEMORY = 5
"""The worker's exit code for: memory ran out, and with smaller batches it may not."""
QUEUE_POLL_SECONDS = 0.2
GRACE_SECONDS = float(os.environ.get("TUNEBOARD_STOP_SECONDS", "600"))
"""How long a worker may take to save after a stop before it is killed."""


class Supervisor:
    """One run from queued to its end. Signals only set flags; one loop acts on them."""

    def __init__(
        self,
        run: Run,
        lock: int,
        queued_at: int,
        devices: list[str],
        tickets: list[Ticket],
        share: bool,
        tries: int = 1,
    ):
        self.run, self.lock, self.devices, self.tickets, self.share = run, lock, devices, tickets, share
        self.tries = tries
        self.stops = 0
        # Signals are told by this pipe: a handler that sets an Event waits for ever for the lock of a wait that it
        # interrupts, and a signal that comes just before a wait does not end it.
        self.wakes, self.waker = os.pipe()
        os.set_blocking(self.waker, False)
        self.status: dict[str, object] = {
            "state": "queued", "queued_at": queued_at, "devices": devices, "attempt": 1,
            "supervisor": identity(os.getpid()),
        }  # fmt: skip

    def record(self, **facts: object) -> None:
        """A full disk must not end the supervisor: it is tried again until the word is on disk."""
        self.status |= facts
        while True:
            try:
                return write_json(self.run.status_path, self.status)
            except OSError as problem:
                if not self.run.path.exists():
                    sys.exit("The run folder is gone.")
                print(f"supervisor: status.json could not be written ({problem}); trying again", flush=True)
                time.sleep(0.5)

    def asked_to_stop(self, *_: object) -> None:
        self.stops += 1

    def wait(self, seconds: float | None) -> None:
        """Until a signal comes or a worker ends, and no longer than that."""
        if select.select([self.wakes], [], [], seconds)[0]:
            os.read(self.wakes, 1024)

    def supervise(self) -> None:
        signal.set_wakeup_fd(self.waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self.asked_to_stop)
        signal.signal(signal.SIGINT, self.asked_to_stop)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self.record()
        held = self.wait_for_devices()
        if held is None:
            return self.record(state="stopped", ended_at=time.time(), why="Stopped while waiting in the queue.")
        self.work(held)

    def wait_for_devices(self) -> list[int] | None:
        """Descriptors of the devices' locks, once all are ours and it is our turn; None when stopped before."""
        locks = open_locks(self.devices)
        try:
            while not self.stops:
                if all(ticket.is_first() for ticket in self.tickets) and take_all(locks, share=self.share):
                    return locks
                self.wait(QUEUE_POLL_SECONDS)
            return None
        finally:
            for ticket in self.tickets:
                ticket.give_back()

    def work(self, held: list[int]) -> None:
        """Attempts, until one ends in another way than for lack of memory, or they are used up."""
        for attempt in range(1, self.tries + 1):
            self.record(attempt=attempt)  # the worker reads it
            end, again = self.attempt(held)
            if not again or self.stops:
                break
            print(f"supervisor: attempt {attempt} ran out of memory", flush=True)
        else:
            if self.tries > 1:
                end["why"] = f"Out of memory in {self.tries} attempts, each with smaller batches than the one before."
        self.record(ended_at=time.time(), **end)

    def attempt(self, held: list[int]) -> tuple[dict[str, object], bool]:
        """One worker from start to end: how it ended, and whether it is worth trying again with smaller batches."""
        killed_before = oom_kills()
        pipe_out, pipe_in = os.pipe()
        # The worker watches its standard input: at end of file its supervisor is dead, and it saves and exits.
        log = os.open(self.run.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        worker = subprocess.Popen(
            [*worker_command(), str(self.run.path)], stdin=pipe_out, stdout=log, stderr=log,
            start_new_session=True, pass_fds=(self.lock, *held),
        )  # fmt: skip
        os.close(pipe_out)
        os.close(log)
        began = self.status.get("started_at", time.time())
        self.record(state="running", started_at=began, worker=identity(worker.pid))
        threading.Thread(target=lambda: (worker.wait(), os.write(self.waker, b".")), daemon=True).start()
        killed_by_us = self.follow(worker)
        os.close(pipe_in)
        _kill_group(worker.pid)  # whatever the worker left behind must not hold the locks
        struck = oom_kills() - killed_before
        end = ending(worker.returncode, self.stops, killed_by_us, struck)
        lacked = worker.returncode == OUT_OF_MEMORY or (worker.returncode == -signal.SIGKILL and struck > 0)
        return end, lacked and not killed_by_us

    def follow(self, worker: subprocess.Popen[bytes]) -> bool:
        """Wait for the worker's end and forward stops; True when we had to kill it."""
        forwarded, deadline, killed = 0, None, False
        while worker.poll() is None:
            self.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if self.stops > forwarded:
                forwarded = self.stops
                if forwarded == 1:
                    deadline = time.monotonic() + GRACE_SECONDS
                    self.record(stopping=True)
                    _signal(worker.pid, signal.SIGTERM)
            if forwarded > 1 or (deadline is not None and time.monotonic() >= deadline):
                killed = killed or worker.poll() is None
                _kill_group(worker.pid)
                worker.wait()
        return killed


def ending(code: int, stops: int, killed_by_us: bool, oom_kills_since: int) -> dict[str, object]:
    """How a worker's return code reads: the facts for the last `status.json`.

    `code` is as subprocess has it: negative for a signal.
    """
    if code == 0:
        return {"state": "done", "exit_code": 0}
    if killed_by_us and code < 0:  # it may have ended by itself just before
        return {
            "state": "stopped",
            "signal": -code,
            "why": "Killed on request before it could save; the last checkpoint counts.",
        }
    if code == STOPPED or (stops and code == -signal.SIGTERM):
        return {"state": "stopped", "exit_code": code, "why": "Stopped on request."}
    if code == -signal.SIGKILL:
        certain = "" if oom_kills_since else "most likely "
        return {
            "state": "failed", "signal": 9, "out_of_memory": True,
            "why": f"Killed by the system, {certain}out of memory.", "hint": LESS,
        }  # fmt: skip
    if code < 0:
        name = signal.Signals(-code).name
        return {
            "state": "failed",
            "signal": -code,
            "why": f"The worker was ended by {name}.",
            "hint": "The log below says more.",
        }
    if code == OUT_OF_MEMORY:
        return {
            "state": "failed", "exit_code": code, "out_of_memory": True, "why": "Out of memory.", "hint": LESS,
        }  # fmt: skip
    if code == FAILED:
        return {"state": "failed", "exit_code": code}  # the error event has the sentence
    if code == MUTE:
        return {"state": "failed", "exit_code": code, "why": DISK_FULL[0], "hint": DISK_FULL[1]}
    return {
        "state": "failed",
        "exit_code": code,
        "why": f"The worker ended with exit code {code}.",
        "hint": "The log below says more.",
    }


def oom_kills() -> int:
    """How often the kernel's out-of-memory killer has struck in this machine or container; 0 where nobody counts."""
    for source in ("/sys/fs/cgroup/memory.events", "/proc/vmstat"):
        try:
            for line in Path(source).read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
        except OSError:
            continue
    return 0


def worker_command() -> list[str]:
    """The worker's command; tests put a fake worker without torch in its place."""
    if other := os.environ.get("TUNEBOARD_WORKER"):
        return shlex.split(other)
    return [sys.executable, "-m", "engine", "work"]


def _signal(pid: int, what: signal.Signals) -> None:
    try:
        os.kill(pid, what)
    except ProcessLookupError:
        return  # it ended by itself first


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # nobody is left in the group


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m engine.supervise")
    parser.add_argument("run", type=Path)
    parser.add_argument("--lock", type=int, required=True)
    parser.add_argument("--queued-at", type=int, required=True)
    parser.add_argument("--devices", required=True)
    parser.add_argument("--tickets", nargs="*", default=[], help="DESCRIPTOR:PATH of each device's ticket")
    parser.add_argument("--share", action="store_true")
    parser.add_argument("--tries", type=int, default=1, help="attempts in all, where a worker runs out of memory")
    given = parser.parse_args()
    tickets = [Ticket(Path(path), int(number)) for number, _, path in (text.partition(":") for text in given.tickets)]
    devices = [name for name in given.devices.split(",") if name]  # none for a run that only talks to a server
    supervisor = Supervisor(Run(given.run), given.lock, given.queued_at, devices, tickets, given.share, given.tries)
    supervisor.supervise()


if __name__ == "__main__":
    main()
