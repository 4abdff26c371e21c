"""What a person changed in a dataset, kept beside it: rows edited or excluded; the file itself is never touched.

A patch is a journal: one act a line, written at the end only. A crash costs at most the act that it fell into, and the
last act can be taken back. Each change holds a fingerprint of the row that it is about, so an old edit is never put on
another row when the file has changed meanwhile. Knows nothing of how datasets are listed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from data.review.finding import NAMED, Finding
from data.rows import formats
from data.rows.conversation import Row
from engine.contract.errors import BoardError

Record = dict[str, Any]
State = Literal["", "edited", "excluded"]
ROWS = ("edit", "exclude")  # acts that hold rows; the others are `restore` (numbers), `restore all`, `undo`


class Change(NamedTuple):
    """What holds for one row. of: the fingerprint of the row as the file had it.   record: the row in its place, None
    when it is left out.   kind: the kind of that row."""

    of: str
    record: Record | None = None
    kind: str = ""


class Changes(NamedTuple):
    """How many rows are edited, and how many excluded."""

    edited: int
    excluded: int


def fingerprint(row: Row) -> str:
    """The same for rows that say the same, wherever they stand."""
    said = json.dumps([row.kind, row.record()], ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.blake2b(said.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


class Patch:
    """The changes to one dataset, in the file at `path`, which need not exist. Every method reads what other pages
    wrote meanwhile, and one alone writes at a time. All raise BoardError when the file is not a patch."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, path: Path) -> Patch:
        return cls(path)

    def edit(self, row: Row, record: Record) -> None:
        """Puts `record`, as `Row.record()` gives it, in the place of a row, be it the file's or one edited before.

        Raises DataError when it is no row of that kind.
        """
        self.edit_all([(row, record)])

    def edit_all(self, pairs: Iterable[tuple[Row, Record]]) -> int:
        """As `edit` for many rows, in one act that one `undo` takes back; how many there were."""
        pairs = list(pairs)
        for row, record in pairs:
            formats.restored(record, row.kind, row.file, row.number)
        return self._write("edit", [(row, Change("", record, row.kind)) for row, record in pairs])

    def exclude(self, rows: Iterable[Row]) -> int:
        """Leaves rows out; how many there were."""
        return self._write("exclude", [(row, Change("")) for row in rows])

    def restore(self, numbers: Iterable[int]) -> int:
        """Rows of these numbers as the file has them; how many were changed."""
        with self._alone() as file:
            changed = sorted(set(numbers) & set(self._now()))
            if changed:
                _append(file, {"act": "restore", "rows": changed})
        return len(changed)

    def restore_all(self) -> int:
        """Every row as the file has it; how many were changed."""
        with self._alone() as file:
            if changed := len(self._now()):
                _append(file, {"act": "restore all"})
        return changed

    def undo(self) -> str:
        """Takes the last act back, and says which it was; empty when there is none."""
        with self._alone() as file:
            if last := self.last():
                _append(file, {"act": "undo"})
        return last

    def last(self) -> str:
        """The last act in words, for the button that takes it back: `3 rows excluded`; empty when there is none."""
        if not (acts := _acts(self.path)):
            return ""
        act = acts[-1]
        if act["act"] == "restore all":
            return "all rows restored"
        count = len(act["rows"])
        done = {"edit": "edited", "exclude": "excluded", "restore": "restored"}[act["act"]]
        return f"{count:,} row{'' if count == 1 else 's'} {done}"

    def changes(self) -> Changes:
        now = self._now().values()
        return Changes(sum(change.record is not None for change in now), sum(change.record is None for change in now))

    def apply(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows as they are to be used. A change whose row is another now is not made: `stale` names those."""
        return (row for row, state in self.marked(rows) if state != "excluded")

    def marked(self, rows: Iterable[Row]) -> Iterator[tuple[Row, State]]:
        """Every row of the file as it is to be used, or as it is in the file when it is excluded, and which it is."""
        now = self._now()
        for row in rows:
            change = now.get(row.number)
            if change is None or fingerprint(row) != change.of:
                yield row, ""
            elif change.record is None:
                yield row, "excluded"
            else:
                yield formats.restored(change.record, change.kind, row.file, row.number), "edited"

    def stale(self, rows: Iterable[Row]) -> list[Finding]:
        """A warning that names the changes which are not made, because the rows of the file are others by now."""
        left = dict(self._now())
        if not left:
            return []
        for row in rows:
            if row.number in left and fingerprint(row) == left[row.number].of:
                del left[row.number]
        if not left:
            return []
        said = "1 change is" if len(left) == 1 else f"{len(left):,} changes are"
        text = f"{said} not made: the rows that were mended or excluded are others now, for the file has changed."
        hint = "Look at these rows again, or restore them to forget the changes."
        return [Finding("stale", "warning", text, len(left), tuple(sorted(left))[:NAMED], hint, "restore")]

    def _now(self) -> Mapping[int, Change]:
        return _state(self.path)

    def _write(self, act: str, changes: Sequence[tuple[Row, Change]]) -> int:
        if not changes:
            return 0
        with self._alone() as file:
            now = self._now()
            rows = [[row.number, *change._replace(of=_origin(row, now.get(row.number)))] for row, change in changes]
            _append(file, {"act": act, "rows": rows})
        return len(changes)

    @contextmanager
    def _alone(self) -> Iterator[int]:
        """The open file, while nobody else writes; a last line that a crash tore is cut off."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            whole = self.path.read_bytes().rfind(b"\n") + 1
            if whole < os.fstat(file).st_size:
                os.ftruncate(file, whole)
            yield file
        finally:
            os.close(file)  # and frees the lock


def _origin(row: Row, change: Change | None) -> str:
    """The fingerprint of the file's row, given that row or what a change has made of it."""
    own = fingerprint(row)
    if change is None or change.record is None:
        return own
    edited = formats.restored(change.record, change.kind, row.file, row.number)
    return change.of if own == fingerprint(edited) else own


def _append(file: int, act: Mapping[str, Any]) -> None:
    """Writes one line, whole or not at all, so that it outlives a power cut."""
    line = json.dumps({"at": time.time(), **act}, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
    end = os.fstat(file).st_size
    try:
        written = 0
        while written < len(line):
            written += os.write(file, line[written:])
        os.fsync(file)
    except OSError:
        os.ftruncate(file, end)
        raise


def _acts(path: Path) -> list[dict[str, Any]]:
    """The acts that hold, the first first: those taken back are gone."""
    try:
        state = path.stat()
    except FileNotFoundError:
        return []
    return _read(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=8)
def _read(path: Path, changed: int, size: int) -> list[dict[str, Any]]:
    acts: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):  # what follows is empty or torn
        try:
            act = json.loads(line.decode("utf-8", "surrogatepass"))
            known = act["act"] in ("restore all", "undo") or (act["act"] in (*ROWS, "restore") and act["rows"])
        except (ValueError, KeyError, TypeError):
            known = False
        if not known:
            raise BoardError(
                f"{path.name}, line {number}: this is no change to a dataset.",
                f"Remove the line, or the whole of {path}, which forgets every change to the rows.",
            )
        if act["act"] != "undo":
            acts.append(act)
        elif acts:
            acts.pop()
    return acts


def _state(path: Path) -> Mapping[int, Change]:
    now: dict[int, Change] = {}
    for act in _acts(path):
        if act["act"] == "restore all":
            now.clear()
        elif act["act"] == "restore":
            for number in act["rows"]:
                now.pop(number, None)
        else:
            now.update((number, Change(*change)) for number, *change in act["rows"])
    return now
