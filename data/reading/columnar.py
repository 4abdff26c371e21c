"""Records out of Parquet and Arrow files, a batch of bounded size at a time.

Values come as JSON has them: dates and decimals as text, NaN as missing; embedded bytes (pictures) stay bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, time
from typing import Any, BinaryIO

from data.reading.raw import Rows, Source
from engine.contract.errors import DataError

BATCH_BYTES, BATCH_ROWS = 32 << 20, 1000
AGAIN = "Fetch or save the file again."


def parquet(source: Source) -> Rows:
    with source.seekable() as file, _told("Parquet"):
        from pyarrow.parquet import ParquetFile  # half a second that only these files pay for

        opened = ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)  # pages, not whole row groups
        groups = [opened.metadata.row_group(index) for index in range(opened.metadata.num_row_groups)]
        bytes_a_row = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=0)
        rows = max(1, min(BATCH_ROWS, BATCH_BYTES // max(bytes_a_row, 1)))
        yield from _records(opened.iter_batches(batch_size=rows))


def parquet_rows(source: Source) -> int:
    """How many rows the file states, without reading them."""
    with source.seekable() as file, _told("Parquet"):
        from pyarrow.parquet import ParquetFile

        return int(ParquetFile(file).metadata.num_rows)


def arrow(source: Source) -> Rows:
    """Both forms of Arrow's format: the file with a footer, and the stream that `save_to_disk` writes."""
    with source.seekable() as file, _told("Arrow"):
        yield from _records(piece for batch in _batches(file) for piece in _pieces(batch))


def arrow_rows(source: Source) -> int:
    """How many rows there are, without making records of them."""
    with source.seekable() as file, _told("Arrow"):
        return sum(batch.num_rows for batch in _batches(file))


def _batches(file: BinaryIO) -> Iterator[Any]:
    from pyarrow import ipc

    magic = file.read(6)
    file.seek(0)
    if magic == b"ARROW1":
        opened = ipc.open_file(file)
        for index in range(opened.num_record_batches):
            yield opened.get_batch(index)
    else:
        yield from ipc.open_stream(file)


def _pieces(batch: Any) -> Iterator[Any]:
    batch.validate(full=True)  # offsets out of bounds would end the process, not raise
    for start in range(0, batch.num_rows, BATCH_ROWS):
        yield batch.slice(start, BATCH_ROWS)


def _records(batches: Iterator[Any]) -> Rows:
    row = 0
    for batch in batches:
        foreign = _is_foreign(batch.schema)
        for record in batch.to_pylist(maps_as_pydicts="lossy"):
            row += 1
            yield row, plain(record) if foreign else record


def _is_foreign(schema: Any) -> bool:
    """Whether a column, or something inside one, is of a type that JSON does not have."""
    from pyarrow import types

    known = (types.is_string, types.is_large_string, types.is_integer, types.is_boolean, types.is_binary, types.is_null)

    def foreign(type: Any) -> bool:
        if type.num_fields:
            return any(foreign(type.field(index).type) for index in range(type.num_fields))
        return not any(is_known(type) for is_known in known)

    return any(foreign(column.type) for column in schema)


def plain(value: Any) -> Any:
    """The value as JSON has it."""
    if isinstance(value, dict):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if value is None or isinstance(value, (str, int, bytes)):
        return value
    return str(value)  # decimals, durations, identifiers


@contextmanager
def _told(kind: str) -> Iterator[None]:
    """Says in a sentence what the library finds wrong with a file."""
    from pyarrow import ArrowException

    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError(f"the {kind} file holds text that is not UTF-8: {error.reason}.", AGAIN) from None
    except (ArrowException, OSError, MemoryError, OverflowError, ValueError) as error:
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise DataError(
            f"this is not {'an' if kind == 'Arrow' else 'a'} {kind} file, or it is damaged: {reason}.", AGAIN
        ) from None
