"""The queue for devices: a lock file per device and, before it, a line of tickets. No server.

Shared by all workspaces of a user. A device's lock is a `flock`, inherited by whoever works on the device, so it is
free only when all of them are dead. A ticket is a file that stays locked while its owner waits, named by the time it
queued at; only the oldest live ticket may take the device, so runs start in order even if whoever started them is gone.
Standard library only.
"""

from __future__ import annotations

import fcntl
import os
import platform
from collections.abc import Iterable
from pathlib import Path


def state_folder() -> Path:
    """Where device locks lie: the one place outside the workspace."""
    if chosen := os.environ.get("TUNEBOARD_STATE"):
        return Path(chosen)
    # By machine, as the machines of a cluster often share their users' homes, and not their devices.
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "tuneboard" / platform.node()


class Ticket:
    """A place in one device's line. Made by the starter, handed down by descriptor to the supervisor."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor

    @classmethod
    def draw(cls, device: str, queued_at: int) -> Ticket:
        folder = state_folder() / f"device-{device}.queue"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{queued_at:020d}-{os.getpid()}"
        # Locked before it gets its name, so that nobody takes it for a dead one.
        hidden = folder / f".{path.name}"
        descriptor = os.open(hidden, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        hidden.rename(path)
        return cls(path, descriptor)

    def is_first(self) -> bool:
        """Whether no older ticket is alive; the dead ones before it are removed."""
        for name in sorted(entry for entry in os.listdir(self.path.parent) if not entry.startswith(".")):
            if name == self.path.name:
                return True
            if held(self.path.parent / name):
                return False
            (self.path.parent / name).unlink(missing_ok=True)
        return True  # somebody removed our ticket by hand: do not wait for ever

    def give_back(self) -> None:
        self.path.unlink(missing_ok=True)
        os.close(self.descriptor)


def device_lock(device: str) -> Path:
    return state_folder() / f"device-{device}.lock"


def open_locks(devices: Iterable[str]) -> list[int]:
    """Descriptors of the devices' lock files, not yet locked."""
    state_folder().mkdir(parents=True, exist_ok=True)
    return [os.open(device_lock(device), os.O_RDWR | os.O_CREAT, 0o600) for device in devices]


def take_all(locks: list[int], *, share: bool) -> bool:
    """Lock all or none, at once: a run that waits for one device holds no other."""
    mode = (fcntl.LOCK_SH if share else fcntl.LOCK_EX) | fcntl.LOCK_NB
    for place, lock in enumerate(locks):
        try:
            fcntl.flock(lock, mode)
        except BlockingIOError:
            for taken in locks[:place]:
                fcntl.flock(taken, fcntl.LOCK_UN)
            return False
    return True


def held(path: Path) -> bool:
    """Whether anybody holds the lock of `path` alone."""
    try:
        probe = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        # Shared, because two exclusive probes would see each other.
        fcntl.flock(probe, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(probe)
    return False
