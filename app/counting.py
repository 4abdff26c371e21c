"""The exact look at a run's rows: made by an engine process, kept in the workspace's cache, asked for by the page.

The page shows a sample at once and polls here. One process at a time for each question; one that nobody asks about any
more is ended. Knows nothing of rows or tokens.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from data.inspection import Inspection
from engine.contract import text
from engine.contract.args import TrainArgs
from engine.contract.errors import Problem
from engine.contract.start import ROOT

FORGOTTEN_SECONDS = 10.0  # without a question, after which a process is ended
KEPT = 64  # answers in the cache


class Answer(BaseModel):
    """What `python -m engine check ARGS --data --json` says."""

    model_config = ConfigDict(frozen=True)

    problems: tuple[Problem, ...] = ()
    inspection: Inspection | None = None


@dataclass
class _Work:
    process: subprocess.Popen[bytes]
    asked: float = field(default_factory=time.monotonic)


_work: dict[Path, _Work] = {}
_failed: set[Path] = set()  # what ended without an answer is not tried again while this page lives
_guard = threading.Lock()


def known(key: str, workspace: Path) -> Answer | None:
    """The answer to an earlier question, if it was found."""
    file = _file(key, workspace)
    try:
        return _read(file, file.stat().st_mtime_ns)
    except FileNotFoundError:
        return None
    except ValidationError:  # written by another version
        file.unlink(missing_ok=True)
        return None


def ask(key: str, args: TrainArgs, workspace: Path) -> str:
    """See to it that the question is being worked on, and say how far that is: `12,000 of 120,000 rows`, or nothing."""
    file = _file(key, workspace)
    with _guard:
        for other, work in list(_work.items()):
            if other != file and time.monotonic() - work.asked > FORGOTTEN_SECONDS:
                _end(work.process)
            if work.process.poll() is not None:
                _finish(other, work.process)
        if file in _work:
            _work[file].asked = time.monotonic()
        elif not file.exists() and file not in _failed:
            _work[file] = _Work(_start(file, args, workspace))
    return _last_line(file.with_suffix(".log"))


def failed(key: str, workspace: Path) -> bool:
    return _file(key, workspace) in _failed


def _file(key: str, workspace: Path) -> Path:
    return workspace / "cache" / "rows" / f"{key}.json"


def _start(file: Path, args: TrainArgs, workspace: Path) -> subprocess.Popen[bytes]:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.with_suffix(".yaml").write_text(text.dump(args), encoding="utf-8")
    command = [sys.executable, "-m", "engine", "check", str(file.with_suffix(".yaml")), "--data", "--json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    with open(file.with_suffix(".part"), "wb") as out, open(file.with_suffix(".log"), "wb") as log:
        return subprocess.Popen(
            [*command, "--workspace", str(workspace)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=log,
            env=environment,
        )


def _finish(file: Path, process: subprocess.Popen[bytes]) -> None:
    """Take what an ended process has written; an answer appears whole or not at all."""
    del _work[file]
    part = file.with_suffix(".part")
    try:
        Answer.model_validate_json(part.read_bytes())
        part.replace(file)
        file.with_suffix(".log").unlink(missing_ok=True)
    except (FileNotFoundError, ValidationError):
        if process.returncode >= 0:  # else it was ended on purpose
            _failed.add(file)
    part.unlink(missing_ok=True)
    file.with_suffix(".yaml").unlink(missing_ok=True)
    for old in sorted(file.parent.glob("*.json"), key=lambda one: one.stat().st_mtime)[:-KEPT]:
        old.unlink(missing_ok=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait()


@lru_cache(maxsize=8)
def _read(file: Path, changed: int) -> Answer:
    return Answer.model_validate_json(file.read_bytes())


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return lines[-1] if lines else ""
