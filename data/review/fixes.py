"""The ways to mend a row, each by the word that a finding offers it with.

Only what can be mended in one way is; the rest is left as it is, for a person to see to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from data.datasets.patch import Record
from data.review import order, secrets, wording
from data.rows import formats
from data.rows.conversation import Row
from engine.contract.errors import DataError


def edits(rows: Iterable[Row], fix: Callable[[Row], Record]) -> Iterator[tuple[Row, Record]]:
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
        if not isinstance(value, (list, tuple)):
            return value
        if value and all(isinstance(part, dict) and set(part) == {"type", "text"} for part in value):
            return changed("".join(part["text"] for part in value))  # a text in parts is read as one
        return [changed(part) for part in value]

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
