"""The dataset that is open in the Data tab: a window of its rows in memory, never all of a large file.

Reads and patches as training does, but shows excluded rows too, and goes on past those that cannot be read. It knows no
widget.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, get_args

from app.datasets.table import Line
from data.datasets import registry
from data.datasets.patch import Patch
from data.datasets.registry import Entry
from data.reading import files
from data.review import findings
from data.review.finding import Finding, LookedThrough
from data.rows import formats
from data.rows.conversation import Row
from data.rows.formats import LOOKED_AT, Field, Mapping
from data.rows.mapping import Role
from engine.contract.errors import DataError

ROWS = 20_000  # rows in one window
CHARACTERS = 64_000_000  # of text in one window, whichever is reached first
WINDOWS = 4  # in memory at once, of all that look at the page
NAMED = 1000  # rows of a finding that are shown together, from wherever they are
KEPT = 200  # rows that cannot be read, of which the sentence is kept

Stamp = tuple[int, int]


class Skipped(list[DataError]):
    """The first problems of many, and how many there are."""

    total = 0

    def append(self, problem: DataError) -> None:
        self.total += 1
        if len(self) < KEPT:
            super().append(problem)


class Unrecognised(DataError):
    """The file can be read, and nobody knows yet what its columns mean."""


@dataclass(frozen=True)
class Window:
    """Rows that are held in memory. `start` rows of the dataset come before them; `more` says whether any come after.

    skipped: what cannot be read up to the window's end.
    """

    lines: tuple[Line, ...]
    start: int
    more: bool
    skipped: Skipped

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


@dataclass(frozen=True)
class Head:
    """The first records as the file has them, and how they are read: what was stated, and what was recognised."""

    records: tuple[files.Read, ...]
    mapping: Mapping


def entry(draft: str) -> Entry:
    """The entry that a page keeps as JSON."""
    return Entry.model_validate_json(draft)


def patch(entry: Entry) -> Patch:
    """What a person has changed in the dataset. Raises DataError where nothing can be kept."""
    if entry.patch is None:
        raise DataError("changes to this dataset cannot be kept.", "Save it to the list of datasets first.")
    return Patch.of(entry.patch)


def head(entry: Entry) -> Head:
    """The first records. Raises DataError when the dataset cannot be read, Unrecognised when it follows no format."""
    found = records(entry)
    said = [one.record for one in found]
    try:
        return Head(found, formats.settled(entry.mapping, said, entry.path))
    except DataError as problem:
        if entry.format != formats.AUTO:
            raise
        raise Unrecognised(problem.text.partition(":\n")[0] + ".", "Say under Columns how it is laid out.") from None


def records(entry: Entry) -> tuple[files.Read, ...]:
    """The first records, whatever they mean."""
    return _records(entry.path, entry.reading, stamp(entry.path))


@lru_cache(maxsize=8)
def _records(path: Path, options: files.Options, changed: Stamp) -> tuple[files.Read, ...]:
    skipped: list[DataError] = []
    found = tuple(islice(files.read(path, skipped, options), LOOKED_AT))
    if not found and skipped:
        raise skipped[0]
    return found


def total(entry: Entry) -> int | None:
    """How many rows the dataset has, where that is known without parsing all of them."""
    return registry.count(entry).rows if entry.limit is None and entry.path.suffix.lower() in files.QUICK else None


def window(entry: Entry, start: int = 0, only: tuple[int, ...] = ()) -> Window:
    """Up to `ROWS` rows after the first `start`, or those alone that have the numbers `only`, wherever they are.

    Raises DataError when the dataset cannot be read as described.
    """
    first = head(entry)  # says in fewer words what is wrong with a file that follows no format
    read = entry.model_copy(update={"patch": None})
    patched = stamp(entry.patch) if entry.patch and entry.patch.exists() else None
    try:
        return _patched(read.model_dump_json(), start, only[:NAMED], stamp(entry.path), entry.patch, patched)
    except DataError as problem:
        raise unsaid(first) or problem from None


@lru_cache(maxsize=WINDOWS)
def _patched(
    said: str, start: int, only: tuple[int, ...], changed: Stamp, patch: Path | None, patched: Stamp | None
) -> Window:
    read, more, skipped = _read(said, start, only, changed)
    if patch is None:
        return Window(tuple(map(Line, read)), start, more, skipped)
    marked = Patch.of(patch).marked(read)
    lines = tuple(Line(row, state == "edited", state == "excluded") for row, state in marked)
    return Window(lines, start, more, skipped)


@lru_cache(maxsize=3)
def _read(said: str, start: int, only: tuple[int, ...], changed: Stamp) -> tuple[list[Row], bool, Skipped]:
    described = entry(said)
    skipped = Skipped()
    rows = registry.original(described, skipped)
    kept: list[Row] = []
    characters, wanted = 0, set(only)
    for row in islice(rows, start, None):
        if only and row.number not in wanted:
            continue
        kept.append(row)
        characters += Line(row).characters
        if len(kept) in (ROWS, len(wanted)) or characters > CHARACTERS:
            break
    return kept, not only and next(rows, None) is not None, skipped


def look(entry: Entry, start: int = 0) -> dict[str, Finding]:
    """What is wrong or odd in the window, and the changes that are not made because the file is another now."""
    shown = window(entry, start)
    with _looking:  # who asks meanwhile waits for the same answer
        if (id(shown), False) not in _looked:
            found = findings.look(row.filled(entry.fill) for row in shown.rows)
            if entry.patch and entry.patch.exists() and not start and not shown.more:
                said = entry.model_copy(update={"patch": None}).model_dump_json()
                found = [*Patch.of(entry.patch).stale(_read(said, 0, (), stamp(entry.path))[0]), *found]
            _remember(shown, found, through=False)
    return known(shown)


def looked_through(shown: Window, answer: LookedThrough) -> dict[str, Finding]:
    """What was found in all rows of the dataset, to mark those of the window."""
    with _looking:
        _remember(shown, answer.findings, through=True)
    return known(shown, through=True)


def known(shown: Window, through: bool = False) -> dict[str, Finding]:
    """What has been found in the window, by the word that marks its rows; nothing when nobody has looked yet.

    through: in all rows of the dataset, where somebody has looked at them.
    """
    mine = _looked.get((id(shown), False), (shown, {}))
    return (_looked.get((id(shown), True), mine) if through else mine)[1]


# Holds the window, so that its id stays its own. The second key: whether all rows of the dataset were looked at.
_looked: dict[tuple[int, bool], tuple[Window, dict[str, Finding]]] = {}
_looking = Lock()


def _remember(shown: Window, found: Sequence[Finding], *, through: bool) -> None:
    _looked[id(shown), through] = (shown, _marks(found))
    while len(_looked) > 2 * WINDOWS:
        del _looked[next(iter(_looked))]


def marks(answer: LookedThrough) -> dict[str, Finding]:
    """The findings by the words that mark their rows."""
    return _marks(answer.findings)


def _marks(found: Sequence[Finding]) -> dict[str, Finding]:
    """Findings by their kind in words; of a kind that comes twice, the second has a number."""
    marks: dict[str, Finding] = {}
    for one in found:
        word, more = one.kind.replace("_", " "), 2
        while (mark := word if word not in marks else f"{word} {more}") in marks:
            more += 1
        marks[mark] = one
    return marks


def mended(entry: Entry, start: int, mark: str, through: LookedThrough | None = None) -> None:
    """Makes the change that the finding called `mark` offers, in the window or in all rows. Raises BoardError."""
    shown = window(entry, start)
    found = (marks(through) if through else known(shown)).get(mark)
    if found is None or not found.fix:
        raise DataError("this finding is not there any more.", "Look at the list again.")
    findings.mend(found, patch(entry), _Everything(entry) if through else list(shown.rows))


@dataclass(frozen=True)
class _Everything:
    """All rows of a dataset that are not excluded, read each time that they are gone through."""

    entry: Entry

    def __iter__(self) -> Iterator[Row]:
        return registry.rows(self.entry.model_copy(update={"fill": {}}), Skipped())


def unsaid(found: Head) -> DataError | None:
    """That a field without which no row can be read has no column yet, which is why none can."""
    fields = [field for field in formats.known(found.mapping.format).fields if field.required and not field.inside]
    names = [label(field) for field in fields if not found.mapping.columns.get(field.name)]
    if not names:
        return None
    return DataError(f"No column is chosen for {' and '.join(names)}.", "Choose it under Columns.")


def label(field: Field) -> str:
    return field.name.replace("_", " ").capitalize()


def columns(found: Head) -> list[str]:
    """Every column of the first records, in their order."""
    return list(dict.fromkeys(str(name) for one in found.records for name in one.record))


def speakers(found: Head) -> list[str]:
    """The names of those who speak in the first records, where they are not the usual ones."""
    form = formats.known(found.mapping.format)
    named: dict[str, None] = {}
    for field in form.fields:
        if field.name != "role":
            continue
        for one in found.records:
            values: Any = formats.Values(one.record, found.mapping, form.fields)
            for turn in formats.objects(values(field.inside)) or []:
                if (said := turn.get(values.key("role", turn))) is not None:
                    named[str(said)] = None
    return [name for name in named if name not in get_args(Role)]


def keys(found: Head) -> list[str]:
    """The names in the turns of the first records, for the fields that lie inside a conversation."""
    form = formats.known(found.mapping.format)
    inside = {field.inside for field in form.fields if field.inside}
    values = [formats.Values(one.record, found.mapping, form.fields) for one in found.records]
    turns = [turn for one in values for name in inside for turn in formats.objects(one(name)) or []]
    return list(dict.fromkeys(str(name) for turn in turns for name in turn))


def stamp(path: Path) -> Stamp:
    """Changes whenever the files do. Raises DataError when they are gone."""
    try:
        return files.stamp(path)
    except OSError:
        raise DataError("the file does not exist.", "Put it back, or choose another dataset.", file=path) from None
