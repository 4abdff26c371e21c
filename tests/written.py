"""Records written as files of some kind, and read back: what the tests of reading share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from openpyxl import Workbook

from data.reading.files import Options, read

Records = list[dict[str, Any]]


def records(path: Path, **options: Any) -> Records:
    """What the file holds, read with these options."""
    return [found.record for found in read(path, options=Options(**options))]


def as_lines(rows: Records) -> bytes:
    """The rows as JSON lines."""
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


def workbook(path: Path, *rows: list[Any]) -> Path:
    """A workbook of one sheet."""
    book = Workbook()
    for row in rows:
        book.active.append(row)
    book.save(path)
    return path
