"""One process among several that train together: who it is, who goes first, and what they agree on.

In a run of one process everything here is a no-op. Knows of processes, not of how weights are shared out.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ENDS = "TUNEBOARD_RANKS"
"""The variable that names the folder of the ranks' last words; set in ranks alone."""
ORPHAN_SECONDS = 0.5


@dataclass(frozen=True)
class Ending:
    """A rank's last word. code: its exit code, None when it left no word.   at: when, as a timestamp.

    asked: whether its launcher told it to end, which that does once another rank has died. It is noted when the signal
    comes: a rank that waits for the dead one inside a device's library may never get to a word of its own.
    """

    rank: int
    code: int | None = None
    text: str = ""
    hint: str = ""
    bug: bool = False
    at: float = 0.0
    asked: bool = False

    def write(self, folder: Path) -> None:
        partial = folder / f".{self.rank}"
        partial.write_text(json.dumps(asdict(self)), encoding="utf-8")
        partial.rename(folder / f"{self.rank}.json")

    @classmethod
    def read(cls, folder: Path, rank: int) -> Ending:
        path, asked = folder / f"{rank}.json", (folder / f"{rank}.asked").exists()
        said = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"rank": rank}
        return cls(**{**said, "asked": asked})


def joined() -> bool:
    """Whether this process is one of several."""
    return ENDS in os.environ


def rank() -> int:
    """This process's number among all."""
    return int(os.environ["RANK"]) if joined() else 0


def leads() -> bool:
    """Whether this process writes what all share: journals, checkpoints, the model."""
    return rank() == 0


def leads_here() -> bool:
    """Whether this process writes what the processes of this machine share: its caches."""
    return not joined() or int(os.environ["LOCAL_RANK"]) == 0


def count() -> int:
    return int(os.environ["WORLD_SIZE"]) if joined() else 1


def settle(log: Path) -> None:
    """Begin as a rank: a log of its own for all but the first, and an end with whoever started it.

    The launcher gives each rank a session of its own, so a signal to the worker's group does not reach it.
    """
    if not leads():
        log.parent.mkdir(exist_ok=True)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(descriptor, stream.fileno())
    parent, signals = os.getppid(), _signals()

    def watch() -> None:
        while os.getppid() == parent:
            if select.select([signals], [], [], ORPHAN_SECONDS)[0] and signal.SIGTERM in os.read(signals, 1024):
                (Path(os.environ[ENDS]) / f"{rank()}.asked").touch()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _signals() -> int:
    """A descriptor to read the numbers of signals from as they come, even while the main thread is deep in a library.

    Processes that are forked off, to load batches, must not write there: their signals are not this process's.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    return reader


def leave(code: int, text: str = "", hint: str = "", bug: bool = False) -> None:
    """This rank's last word."""
    Ending(rank(), code, text, hint, bug, time.time()).write(Path(os.environ[ENDS]))


@contextlib.contextmanager
def one_first() -> Iterator[None]:
    """What is inside is done by one process of this machine, then by the others, who find it done."""
    if joined() and not leads_here():
        wait()
    yield
    if joined() and leads_here():
        wait()


def wait() -> None:
    """Until all processes are here."""
    if joined():
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def any_of(said: bool) -> bool:
    """Whether any process says so; all ask at the same time and all get the same answer."""
    return total(float(said)) > 0


def total(number: float) -> float:
    """The sum of a number over all processes."""
    return totals([number])[0]


def totals(numbers: list[float]) -> list[float]:
    if not joined():
        return numbers
    import torch
    from accelerate import PartialState

    state = PartialState()
    # Float64 on every device but Apple's, which has none.
    exact = torch.float32 if state.device.type == "mps" else torch.float64
    gathered = torch.tensor(numbers, dtype=exact, device=state.device)
    torch.distributed.all_reduce(gathered)
    return [float(number) for number in gathered]
