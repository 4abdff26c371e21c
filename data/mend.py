"""Mends what a finding is about: rows are left out or edited, in a patch beside the dataset, as one act to undo.

Only what can be mended in one way is; the rest is left as it is, for a person to see to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from data import findings, formats, order, secrets, wording
from data.conversation import Row
from data.finding import Finding
from data.patch import Patch, Record
from engine.contract.errors import DataError

TITLES = {
    "exclude": "Exclude them",
    "keep_first": "Keep the first of each",
    "mask": "Mask them",
    "clean": "Set right",
    "untag": "Take the mark-up out",
    "repair": "Make them calls",
    "trim": "Trim",
    "restore": "Forget these changes",
}
"""What a fix does, for its button."""


def mend(finding: Finding, rows: Iterable[Row], patch: Patch) -> int:
    """Mends every row that the finding is about; how many were changed.

    `rows` are those that were looked through, as the patch leaves them, and can be gone through twice.
    """
    numbers = numbers_of(finding, rows)
    if finding.fix == "restore":
        return patch.restore(numbers)
    named = (row for row in rows if row.number in numbers)
    if finding.fix in ("exclude", "keep_first"):
        return patch.exclude(named)
    return patch.edit_all(_edits(named, FIXES[finding.fix]))


def numbers_of(finding: Finding, rows: Iterable[Row]) -> set[int]:
    """The numbers of all rows that a finding is about; it names the first of them, and the others are looked for."""
    if finding.count <= len(finding.rows):
        return set(finding.rows)
    same = (other for other in findings.look(rows, named=None) if other.kind == finding.kind)
    return {number for other in same if other.text == finding.text for number in other.rows}


def _edits(rows: Iterable[Row], fix: Callable[[Row], Record]) -> Iterator[tuple[Row, Record]]:
    """Rows that the fix changes, each with its new record; what would be no row afterwards is left as it is."""
    for row in rows:
        record = fix(row)
        if record == row.record():
            continue
        try:
            formats.restored(record, row.kind, row.file, row.number)
        except DataError:
            continue
        yield row, record


def _everywhere(change: Callable[[str], str]) -> Callable[[Row], Record]:
    """A change to every text of a row: of messages, thoughts, calls, and the columns beside them."""

    def changed(value: Any) -> Any:
        if isinstance(value, str):
            return change(value)
        if isinstance(value, dict):
            return {
                key: part if key in KEPT and isinstance(part, str) else changed(part) for key, part in value.items()
            }
        return [changed(part) for part in value] if isinstance(value, (list, tuple)) else value

    return lambda row: changed(row.record())


def _untagged(row: Row) -> Record:
    """Mark-up is taken out of answers only: what is asked may well be about it."""
    record = row.record()
    if row.kind == "text":
        return {**record, "text": wording.untagged(row.text or "")}

    def turned(turns: Any) -> Any:
        if not isinstance(turns, list):
            return turns
        return [
            {**turn, "content": wording.untagged(turn["content"])}
            if turn.get("role") == "assistant" and isinstance(turn["content"], str) else turn
            for turn in turns
        ]  # fmt: skip

    return {**record, **{name: turned(record[name]) for name in TURNS & set(record)}}


def _repaired(row: Row) -> Record:
    record = row.record()
    return {**record, **{name: list(map(order.lifted, record[name])) for name in TURNS & set(record)}}


def _trimmed(row: Row) -> Record:
    return {**row.record(), "messages": order.trimmed(row)} if row.kind == "conversation" else row.record()


KEPT = {"role", "type", "name", "id", "tool_call_id", "image", "video"}
TURNS = {"messages", "prompt", "completion", "chosen", "rejected"}
FIXES: dict[str, Callable[[Row], Record]] = {
    "mask": _everywhere(secrets.masked),
    "clean": _everywhere(wording.cleaned),
    "untag": _untagged,
    "repair": _repaired,
    "trim": _trimmed,
}
