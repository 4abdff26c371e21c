"""The dataset that is open in the Data tab: a window of its rows in memory, never all of a large file.

Reads through the registry, so that what is seen is what is trained; it knows no widget and writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

from app.table import Line
from data import registry
from data.conversation import Row
from data.registry import Entry
from engine.contract.errors import DataError

ROWS = 20_000  # rows in one window
CHARACTERS = 64_000_000  # of text in one window, whichever is reached first
SKIPPED = 1_000  # rows that cannot be read, of which the words are kept


@dataclass(frozen=True)
class Window:
    """Rows that are held in memory. `start` rows of the dataset come before them; `more` says whether any come after.

    skipped: the rows up to the window's end that cannot be read, each with its sentence.
    """

    lines: tuple[Line, ...]
    start: int
    more: bool
    skipped: tuple[DataError, ...] = ()

    @property
    def end(self) -> int:
        """How many rows of the dataset lie up to the window's end."""
        return self.start + len(self.lines)

    def line(self, number: int) -> Line | None:
        return next((line for line in self.lines if line.number == number), None)

    @property
    def rows(self) -> Iterator[Row]:
        """What would be trained: every row that is not excluded."""
        return (line.row for line in self.lines if not line.excluded)


def entry(draft: str) -> Entry:
    """The entry that a page keeps as JSON."""
    return Entry.model_validate_json(draft)


def window(entry: Entry, start: int = 0) -> Window:
    """Up to `ROWS` rows after the first `start`. Raises DataError when the dataset cannot be read as described."""
    return _window(entry.model_dump_json(), start, stamp(entry))


@lru_cache(maxsize=4)
def _window(said: str, start: int, changed: object) -> Window:
    entry = Entry.model_validate_json(said)
    lines: list[Line] = []
    characters = 0
    rows = iter(registry.load(entry))
    for row in islice(rows, start, None):
        lines.append(Line(row))
        characters += lines[-1].characters
        if len(lines) == ROWS or characters > CHARACTERS:
            break
    return Window(tuple(lines), start, next(rows, None) is not None)


def stamp(entry: Entry) -> tuple[tuple[str, int, int], ...]:
    """Changes whenever the files of the dataset do. Raises DataError when they are gone."""
    return tuple(_state(path) for path in _files(entry.path))


def _files(path: Path) -> Sequence[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _state(path: Path) -> tuple[str, int, int]:
    try:
        found = path.stat()
    except OSError:
        raise DataError("the file does not exist.", "Put it back, or choose another dataset.", file=path) from None
    return str(path), found.st_mtime_ns, found.st_size
