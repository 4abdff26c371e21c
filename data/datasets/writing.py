"""Writes rows to a file that any program can read, and this one gives back the same rows from.

Knows nothing of where the rows come from. What is written lands whole or not at all.
"""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

from data.rows.conversation import Message, Row
from engine.contract.errors import BoardError, DataError

Record = dict[str, Any]
Rows = Callable[[], Iterable[Row]]
BATCH = 1000
FORMS = ("canonical", "sharegpt")
SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


def write(rows: Rows, to: Path, ending: str, form: str = "canonical") -> int:
    """Writes what `rows` gives to the file `to` as jsonl, json, csv or parquet; how many rows there were.

    `rows` is called twice where the kind of file wants to know all columns beforehand. form: `canonical` is TRL's
    conversational form; `sharegpt` is for conversations alone. Raises DataError for another ending or form, and
    BoardError when the disk refuses.
    """
    writer = WRITERS.get(ending.lstrip(".").lower())
    if writer is None or form not in FORMS:
        wrong, those = (ending, WRITERS) if writer is None else (form, FORMS)
        raise DataError(f"rows cannot be written as {wrong!r}.", f"Use one of {', '.join(those)}.")
    made = _sharegpt if form == "sharegpt" else Row.record
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("wb", dir=to.parent, prefix=f".{to.name}-", delete=False) as file:
            try:
                count = writer(lambda: map(made, rows()), file)
                file.flush()
                os.fsync(file.fileno())
                os.chmod(file.name, 0o644)
                os.replace(file.name, to)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise BoardError(f"{to} cannot be written: {error.strerror or error}.", "Choose another place.") from None
    return count


def _sharegpt(row: Row) -> Record:
    if row.kind != "conversation":
        raise DataError(f"ShareGPT holds conversations, and this is a {row.kind} row.", "Write it in canonical form.")
    turns = [turn for message in row.messages for turn in _turns(message)]
    tools = {"tools": json.dumps(row.tools, ensure_ascii=False)} if row.tools else {}
    return {"conversations": turns, **tools, **row.extra}


def _turns(message: Message) -> Iterator[Record]:
    content, calls = message["content"], message.get("tool_calls", [])
    if not isinstance(content, str):
        raise DataError("ShareGPT holds text, and this row has pictures.", "Write it in canonical form.")
    thought = f"<think>\n{message['reasoning_content']}\n</think>\n\n" if message.get("reasoning_content") else ""
    if content or thought or not calls:
        yield {"from": SPEAKERS[message["role"]], "value": thought + content}
    if calls:
        said = [call["function"] for call in calls]
        yield {"from": "function_call", "value": json.dumps(said[0] if len(said) == 1 else said, ensure_ascii=False)}


def _json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _line(record: Record) -> bytes:
    return _json_text(record).encode("utf-8", "backslashreplace")  # half a surrogate stays the escape that it was


def _jsonl(records: Callable[[], Iterable[Record]], file: IO[bytes]) -> int:
    count = 0
    for record in records():
        count += 1
        file.write(_line(record) + b"\n")
    return count


def _json(records: Callable[[], Iterable[Record]], file: IO[bytes]) -> int:
    count = 0
    for count, record in enumerate(records(), start=1):
        file.write((b"[\n" if count == 1 else b",\n") + _line(record))
    file.write(b"\n]\n" if count else b"[]\n")
    return count


def _columns(records: Iterable[Record]) -> dict[str, set[type]]:
    """Every column and the types of what is in it, the columns in the order in which they appear."""
    found: dict[str, set[type]] = {}
    for record in records:
        for name, value in record.items():
            found.setdefault(name, set()).add(type(value))
    return found


def _cell(value: Any) -> Any:
    return _json_text(value) if isinstance(value, (list, dict)) else value


def _csv(records: Callable[[], Iterable[Record]], file: IO[bytes]) -> int:
    names = list(_columns(records()))
    count = 0
    with open(file.fileno(), "w", encoding="utf-8", errors="backslashreplace", newline="", closefd=False) as text:
        table = csv.DictWriter(text, names)
        table.writeheader()
        for record in records():
            count += 1
            table.writerow({name: _cell(value) for name, value in record.items()})
    return count


def _parquet(records: Callable[[], Iterable[Record]], file: IO[bytes]) -> int:
    """Lists and objects go in as JSON text: a table wants one shape for all rows, and tool calls have none."""
    import pyarrow  # half a second that only Parquet pays for
    from pyarrow import parquet

    plain = {str: pyarrow.string(), bool: pyarrow.bool_(), int: pyarrow.int64(), float: pyarrow.float64()}
    columns = {name: kinds - {type(None)} for name, kinds in _columns(records()).items()}
    numbers = {int, float}
    kinds = {
        name: pyarrow.float64() if found == numbers else plain.get(next(iter(found), str), pyarrow.string())
        if len(found) == 1 else pyarrow.string()
        for name, found in columns.items()
    }  # fmt: skip
    schema = pyarrow.schema(list(kinds.items()))
    count = 0
    with parquet.ParquetWriter(file, schema) as table:
        found = iter(records())
        while batch := list(islice(found, BATCH)):
            count += len(batch)
            cells = [{name: _fitting(value, kinds[name]) for name, value in record.items()} for record in batch]
            table.write_table(pyarrow.Table.from_pylist(cells, schema))
    return count


def _fitting(value: Any, kind: Any) -> Any:
    if value is None or str(kind) != "string":
        return value
    return value if isinstance(value, str) else _json_text(value)


WRITERS: dict[str, Callable[[Callable[[], Iterable[Record]], IO[bytes]], int]] = {
    "jsonl": _jsonl,
    "json": _json,
    "csv": _csv,
    "parquet": _parquet,
}
