"""Reads records out of files: JSON, JSON lines, CSV, TSV and Parquet.

Yields every record as a dict with its row number and refuses to know what the columns mean; that is `data.formats`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from engine.contract.errors import DataError

Record = dict[str, Any]
Records = Iterator[tuple[int, Record]]


class Read(NamedTuple):
    """One record: its number, counted from 1 and unique in the dataset, and the file it came from, for people."""

    number: int
    record: Record
    file: str


UTF8_HINT = "Save the file as UTF-8 (in a spreadsheet: 'CSV UTF-8') and choose it again."
WRAPPERS = ("data", "rows", "examples", "train")  # {"data": [...]}: the rows are one level down
LONGEST_CELL = 1 << 27  # characters; Python's csv stops at 131,072 unless told otherwise


def read(path: str | Path, skipped: list[DataError] | None = None) -> Iterator[Read]:
    """Raw records with their row numbers, counted from 1.

    With a list for `skipped`, what cannot be read goes there and the reading goes on where it can.

    In JSON lines a row is a line, so that an editor jumps to it; in a table the header is not counted.
    Raises DataError, with the file and where possible the row, for whatever cannot be read.
    """
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if not path.exists():
        raise DataError(
            "the file does not exist.", "Check the spelling of the path, or choose another dataset.", file=path
        )
    if path.is_dir():
        raise DataError("this is a folder, not a file.", "Choose one of the files in it.", file=path)
    if reader is None:
        kind = f"{path.suffix!r} files are" if path.suffix else "a file without an ending is"
        raise DataError(f"{kind} not read.", f"Use one of {', '.join(READERS)}.", file=path)
    found = False
    try:
        for number, record in reader(path):
            found = True
            yield Read(number, record, str(path))
    except DataError as error:
        if skipped is None:
            raise
        skipped.append(error)
        return
    except OSError as error:
        raise DataError(f"cannot be opened: {error.strerror or error}.", "Check its permissions.", file=path) from None
    if not found:
        raise DataError("the file holds no rows.", "Choose a file with at least one row.", file=path)


def count(path: str | Path) -> int:
    """How many rows `read` would yield, without parsing where the kind of file allows."""
    path = Path(path)
    if path.suffix.lower() == ".parquet" and path.is_file():
        return _parquet_file(path).metadata.num_rows
    if path.suffix.lower() in (".jsonl", ".ndjson") and path.is_file() and not _starts_with(path, b"["):
        with path.open("rb") as lines:
            return sum(1 for line in lines if line.strip())
    return sum(1 for _ in read(path))


def _starts_with(path: Path, sign: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(sign)


def _text(line: bytes, path: Path, row: int | None) -> str:
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"the text is not UTF-8 (byte 0x{line[error.start]:02x} at position {error.start}).",
            UTF8_HINT,
            file=path,
            row=row,
        ) from None


def _parsed(text: str, path: Path, row: int | None) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}" if row is None else f"column {error.colno}"
        hint = (
            "Mend the line, or remove it." if row else "Mend the file, or save it as one JSON object per line (.jsonl)."
        )
        raise DataError(f"this is not valid JSON: {error.msg} at {where}.", hint, file=path, row=row) from None
    except (RecursionError, ValueError):  # nested thousands deep, or a number with thousands of digits
        raise DataError(
            "the JSON is nested too deeply or holds a number that is too long.", "Remove the row.", file=path, row=row
        ) from None


def _object(value: Any, path: Path, row: int) -> Record:
    if isinstance(value, dict):
        return value
    raise DataError(
        f"a row must be a JSON object, not {json.dumps(value, ensure_ascii=False)[:40]}.",
        'Write each row as {"column": value, ...}.',
        file=path,
        row=row,
    )


def _json_lines(path: Path) -> Records:
    if _starts_with(path, b"["):
        yield from _json(path)
        return
    with path.open("rb") as lines:
        for row, line in enumerate(lines, start=1):
            if line.strip():
                yield row, _object(_parsed(_text(line, path, row), path, row), path, row)


def _json(path: Path) -> Records:
    text = _text(path.read_bytes(), path, None).strip()
    if not text:
        return
    if text.startswith("{") and _is_json(text.partition("\n")[0]) and not _is_json(text):
        yield from _json_lines(path)  # JSON lines under the ending .json are common
        return
    value = _parsed(text, path, None)
    if isinstance(value, dict):
        value = next((value[name] for name in WRAPPERS if isinstance(value.get(name), list)), [value])
    if not isinstance(value, list):
        raise DataError("the file must hold a list of objects.", "Write [{...}, {...}].", file=path)
    for row, item in enumerate(value, start=1):
        yield row, _object(item, path, row)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _table(path: Path, delimiter: str) -> Records:
    csv.field_size_limit(LONGEST_CELL)
    header: list[str] = []
    row = 0  # the last row that is complete

    def lines() -> Iterator[str]:
        with path.open("rb") as file:
            for line in file:
                yield _text(line, path, row + 1 if header else None)

    rows = csv.reader(lines(), delimiter=delimiter)
    try:
        header = next(rows, [])
        if len(set(header)) < len(header):
            raise DataError("two columns have the same name.", "Give every column a name of its own.", file=path)
        for row, cells in enumerate((cells for cells in rows if cells), start=1):
            if len(cells) > len(header):
                raise DataError(
                    f"the row has {len(cells)} cells, the header {len(header)}.",
                    "Put cells that hold a comma or a line break between double quotes.",
                    file=path,
                    row=row,
                )
            yield row, dict(zip(header, cells, strict=False))
    except csv.Error as error:
        raise DataError(
            f"the table is broken: {error}.", "Save it again from a spreadsheet.", file=path, row=row + 1
        ) from None


def _parquet_file(path: Path) -> Any:
    from pyarrow import ArrowException, parquet  # half a second that only Parquet pays for

    try:
        return parquet.ParquetFile(path)
    except ArrowException as error:
        raise DataError(f"this is not a Parquet file: {error}.", "Choose another file.", file=path) from None


def _parquet(path: Path) -> Records:
    row = 0
    for batch in _parquet_file(path).iter_batches(batch_size=1000):
        for record in batch.to_pylist():
            row += 1
            yield row, record


READERS: dict[str, Callable[[Path], Records]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": partial(_table, delimiter=","),
    ".tsv": partial(_table, delimiter="\t"),
    ".parquet": _parquet,
}
