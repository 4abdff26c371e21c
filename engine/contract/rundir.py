"""A run folder: every file name in it, how it is made, and how its state is read.

Standard library only, so that the supervisor stays tiny. This module knows files and locks; it knows no arguments and
starts no process. Each file has one writer; here are the readers (and the starter's own two acts: make and lock).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.contract.errors import ResourceError
from engine.contract.queue import held

State = Literal["queued", "running", "done", "failed", "stopped", "lost"]
ENDED: tuple[State, ...] = ("done", "failed", "stopped", "lost")


@dataclass(frozen=True)
class Run:
    """One run folder. Cheap: nothing is read before it is asked for."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def args_path(self) -> Path:
        return self.path / "args.yaml"

    @property
    def lock_path(self) -> Path:
        return self.path / "lock"

    @property
    def status_path(self) -> Path:
        return self.path / "status.json"

    @property
    def env_path(self) -> Path:
        return self.path / "env.json"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def events_path(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def log_path(self) -> Path:
        return self.path / "log.txt"

    def rank_log_path(self, rank: int) -> Path:
        """The log of one process among several; the first writes into the run's own."""
        return self.path / "logs" / f"process-{rank}.txt" if rank else self.log_path

    @property
    def picture_path(self) -> Path:
        return self.path / "loss.png"

    @property
    def checkpoints_path(self) -> Path:
        return self.path / "checkpoints"

    @property
    def start_path(self) -> Path:
        """The model that the run started from, where it made one with random weights."""
        return self.path / "start"

    @property
    def model_path(self) -> Path:
        """Present means that training succeeded."""
        return self.path / "model"

    @property
    def heldout_path(self) -> Path:
        """The rows that measure a training run and that it never trains on, one JSON object a line."""
        return self.path / "heldout.jsonl"

    @property
    def test_path(self) -> Path:
        """The rows that a training run never sees at all, if it kept any, one JSON object a line."""
        return self.path / "test.jsonl"

    @property
    def results_path(self) -> Path:
        return self.path / "results"

    @property
    def asked_path(self) -> Path:
        """Answers that a person is to judge."""
        return self.path / "asked.jsonl"

    @property
    def judged_path(self) -> Path:
        """What the person said of them."""
        return self.path / "judged.jsonl"

    @property
    def receipt_path(self) -> Path:
        return self.path / "receipt.json"

    @property
    def workspace(self) -> Path:
        return self.path.parent.parent

    def status(self) -> dict[str, Any]:
        """What the supervisor last wrote; empty before its first word."""
        try:
            return dict(json.loads(self.status_path.read_text()))
        except FileNotFoundError:
            return {}

    def state(self) -> State:
        """The state now. `lost` is never written: status says queued or running, and the lock is free."""
        said = self.status().get("state", "queued")
        if said in ENDED or self.alive():
            return said  # type: ignore[no-any-return]
        # The supervisor may have written its last word between the two looks.
        said = self.status().get("state", "queued")
        return said if said in ENDED else "lost"

    def alive(self) -> bool:
        """Whether the starter, the supervisor or the worker still holds the run's lock."""
        return held(self.lock_path)

    def checkpoints(self) -> list[tuple[int, Path]]:
        """Complete checkpoints as (step, folder), oldest first. A checkpoint gets its name by its last rename."""
        found = []
        if self.checkpoints_path.is_dir():
            for folder in self.checkpoints_path.iterdir():
                if match := re.fullmatch(r"step-(\d+)", folder.name):
                    found.append((int(match[1]), folder))
        return sorted(found)

    def delete(self) -> None:
        """Remove the folder. Refuses (RuntimeError) while anybody works in it."""
        if self.state() not in ENDED:
            raise RuntimeError(f"{self.id} is still {self.state()}; stop it first.")
        # Renamed first, so that no observer sees a half-deleted run.
        grave = self.path.with_name(f".deleted-{self.id}")
        self.path.rename(grave)
        shutil.rmtree(grave)


def runs(workspace: Path) -> list[Run]:
    """All runs of a workspace, newest first."""
    folder = workspace / "runs"
    if not folder.is_dir():
        return []
    names = [entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")]
    return [Run(folder / name) for name in sorted(names, key=_order, reverse=True)]


def _order(name: str) -> tuple[str, int, str]:
    """Runs that began in the same second: the one with the higher collision number is newer."""
    stamp, rest = name[:15], name[15:]
    number = re.search(r"-(\d+)$", rest)
    return stamp, int(number[1]) if number else 1, rest


def slug(text: str) -> str:
    """`text` as a part of a folder name: lower-case letters, digits and dashes; never empty, at most 40 characters."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-") or "run"


def make(workspace: Path, label: str, args_text: str) -> Run:
    """A new run folder `<stamp>-<label>` (`-2` on collision) that holds `args.yaml`, and that nobody works in."""
    run, lock = make_locked(workspace, label, args_text)
    os.close(lock)
    return run


def make_locked(workspace: Path, label: str, args_text: str) -> tuple[Run, int]:
    """A new run folder and its lock, as a descriptor to hand down.

    It gets its name last: an observer sees it whole and locked, or not at all, and never takes it for lost.
    """
    folder = workspace / "runs"
    hidden = Run(folder / f".new-{os.urandom(8).hex()}")
    try:
        hidden.path.mkdir(parents=True)
        hidden.args_path.write_text(args_text, encoding="utf-8")
        lock = take_lock(hidden)
    except OSError as problem:
        raise ResourceError(
            f"The workspace {workspace} cannot be written to: {problem.strerror}.",
            "Choose another (WORKSPACE=), or free some space.",
        ) from problem
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{slug(label)}"
    for number in range(1, 10_000):
        run = Run(folder / (stem if number == 1 else f"{stem}-{number}"))
        try:
            hidden.path.rename(run.path)
        except OSError as problem:
            if problem.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            continue
        return run, lock
    raise RuntimeError(f"{folder} holds too many runs named {stem}.")


def take_lock(run: Run) -> int:
    """The run's lock as a descriptor to hand down; it is free only when everyone who inherited it is dead."""
    descriptor = os.open(run.lock_path, os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def write_json(path: Path, content: Any) -> None:
    """Replace `path` by `content` at once: a reader sees the old file or the new one, never a part."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(partial, "w", encoding="utf-8") as file:
            json.dump(content, file, ensure_ascii=False, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def records(path: Path) -> Iterator[dict[str, Any]]:
    """The whole JSON lines of `path`, in order; a torn last line and lines that are no JSON object are left out."""
    try:
        file = open(path, "rb")
    except FileNotFoundError:
        return
    with file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                yield record
