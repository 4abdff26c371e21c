"""What takes longer than a page may: questions that an engine process answers, kept in the workspace's cache.

    errands = Errands("rows", Answer)                        # answers are files of <workspace>/cache/rows
    errands.known(key, workspace)                            # the answer, if it was found earlier
    errands.ask(key, workspace, question, command)           # see to it, and say how far that is

The page polls. One process at a time for each question; one that nobody asks about any more is ended. Knows nothing of
what is asked.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from engine.contract.start import ROOT

FORGOTTEN_SECONDS = 10.0  # without a question, after which a process is ended
KEPT = 64  # answers in the cache
READ = 8  # answers in memory

A = TypeVar("A", bound=BaseModel)


@dataclass
class _Work:
    process: subprocess.Popen[bytes]
    asked: float = field(default_factory=time.monotonic)


class Errands(Generic[A]):
    """Questions of one kind. A key says all that the answer depends on."""

    def __init__(self, kind: str, answer: type[A]) -> None:
        self.kind, self.answer = kind, answer
        self._work: dict[Path, _Work] = {}
        self._failed: set[Path] = set()  # what ended without an answer is not tried again while this page lives
        self._read: dict[tuple[Path, int], A] = {}
        self._guard = threading.Lock()

    def known(self, key: str, workspace: Path) -> A | None:
        """The answer to an earlier question, if it was found."""
        file = self._file(key, workspace)
        try:
            at = file, file.stat().st_mtime_ns
            with self._guard:
                if at not in self._read:
                    self._read[at] = self.answer.model_validate_json(file.read_bytes())
                    while len(self._read) > READ:
                        del self._read[next(iter(self._read))]
                return self._read[at]
        except FileNotFoundError:
            return None
        except ValidationError:  # written by another version
            file.unlink(missing_ok=True)
            return None

    def ask(self, key: str, workspace: Path, question: str, command: Callable[[Path], list[str]]) -> str:
        """See to it that the question is being worked on, and say how far that is, by the last line of its process.

        command: the words after `python -m engine`, given the file that holds the question. It prints the answer.
        """
        file = self._file(key, workspace)
        with self._guard:
            for other, work in list(self._work.items()):
                if other != file and time.monotonic() - work.asked > FORGOTTEN_SECONDS:
                    _end(work.process)
                if work.process.poll() is not None:
                    self._finish(other, work.process)
            if file in self._work:
                self._work[file].asked = time.monotonic()
            elif not file.exists() and file not in self._failed:
                self._work[file] = _Work(_start(file, question, command, workspace))
        return _last_line(file.with_suffix(".log"))

    def leave(self, key: str, workspace: Path) -> None:
        """Nobody waits for this answer any more."""
        file = self._file(key, workspace)
        with self._guard:
            if file in self._work:
                _end(self._work[file].process)
                self._finish(file, self._work[file].process)

    def again(self, key: str, workspace: Path) -> None:
        """Forget an answer, or that there was none: it is to be found anew."""
        file = self._file(key, workspace)
        with self._guard:
            self._failed.discard(file)
            if file not in self._work:
                file.unlink(missing_ok=True)

    def last_word(self, key: str, workspace: Path) -> str:
        """What its process said in the end: the last line, and the sentences before it."""
        *before, last = _lines(self._file(key, workspace).with_suffix(".log")) or [""]
        sentences = list(takewhile(lambda line: line.endswith((".", "?")), reversed(before)))
        return "\n".join([*reversed(sentences), last])

    def failed(self, key: str, workspace: Path) -> bool:
        return self._file(key, workspace) in self._failed

    def _file(self, key: str, workspace: Path) -> Path:
        return workspace / "cache" / self.kind / f"{key}.json"

    def _finish(self, file: Path, process: subprocess.Popen[bytes]) -> None:
        """Take what an ended process has written; an answer appears whole or not at all."""
        del self._work[file]
        part = file.with_suffix(".part")
        try:
            self.answer.model_validate_json(part.read_bytes())
            part.replace(file)
            file.with_suffix(".log").unlink(missing_ok=True)
        except (FileNotFoundError, ValidationError):
            if process.returncode >= 0:  # else it was ended on purpose
                self._failed.add(file)
        part.unlink(missing_ok=True)
        file.with_suffix(".yaml").unlink(missing_ok=True)
        for old in sorted(file.parent.glob("*.json"), key=lambda one: one.stat().st_mtime)[:-KEPT]:
            old.unlink(missing_ok=True)


def _start(file: Path, question: str, command: Callable[[Path], list[str]], workspace: Path) -> subprocess.Popen[bytes]:
    file.parent.mkdir(parents=True, exist_ok=True)
    asked = file.with_suffix(".yaml")
    asked.write_text(question, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    with open(file.with_suffix(".part"), "wb") as out, open(file.with_suffix(".log"), "wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "engine", *command(asked), "--workspace", str(workspace)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=log,
            env=environment,
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait()


def _last_line(log: Path) -> str:
    return (_lines(log) or [""])[-1]


def _lines(log: Path) -> list[str]:
    try:
        return log.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
