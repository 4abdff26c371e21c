"""Everything that can go wrong for a reason the user can mend.

    BoardError                 shown as text and hint, without a traceback
    ├── ArgsError              the arguments are not usable        (all problems, by path)
    ├── DataError              the dataset is not usable           (file and row, what was expected)
    ├── ModelError             the model cannot be loaded
    └── ResourceError          not enough memory, disk or devices  (what to lower, by path)

Anything else that is raised is a bug: its traceback goes to the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class BoardError(Exception):
    """A problem with a way out: `text` says what is wrong, `hint` what to do, in the words on screen."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(f"{text} {hint}".strip())
        self.text = text
        self.hint = hint


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the arguments; `path` is dotted (`optim.learning_rate`), or empty for the whole."""

    path: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}" if self.path else self.text


class ArgsError(BoardError):
    """The arguments are not usable; carries every problem at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class DataError(BoardError):
    """The dataset is not usable; `file` and `row` (counted from 1) say where, when one place is to blame.

    `reason` is the text without the place, which many rows may share.
    """

    def __init__(self, text: str, hint: str = "", *, file: Path | str | None = None, row: int | None = None) -> None:
        where = f"{Path(file).name}" if file else ""
        if row is not None:
            where = f"{where}, row {row}" if where else f"Row {row}"
        super().__init__(f"{where}: {text}" if where else text, hint)
        self.reason = text
        self.file = file
        self.row = row


class ModelError(BoardError):
    """The model cannot be loaded."""


class ResourceError(BoardError):
    """Not enough memory, disk or devices."""
