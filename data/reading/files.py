"""Reads records out of files of every kind, out of compressed ones, archives and folders of them.

Yields every record as a dict with its number, holding no more than a batch of them at a time, and refuses to know what
the columns mean; that is `data.rows.formats`. A file is never changed, and whatever is wrong with it is a DataError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from data.reading import columnar, encodings, members, packed
from data.reading.jsons import count_lines, json_file, json_lines
from data.reading.prose import prose
from data.reading.raw import Options, Record, Rows, Source
from data.reading.tables import delimited, sheets, workbook
from engine.contract.errors import DataError

__all__ = ["READERS", "Options", "Read", "Record", "count", "encoding_of", "is_readable", "parts_of",
           "read", "sheets_of", "stamp"]  # fmt: skip


class Read(NamedTuple):
    """One record: its number, counted from 1 and unique in the dataset, and the file it came from, for people."""

    number: int
    record: Record
    file: str


READERS: dict[str, Callable[[Source], Rows]] = {
    ".jsonl": json_lines,
    ".ndjson": json_lines,
    ".json": json_file,
    ".csv": partial(delimited, usual=","),
    ".tsv": partial(delimited, usual="\t"),
    ".parquet": columnar.parquet,
    ".arrow": columnar.arrow,
    ".xlsx": workbook,
    ".txt": partial(prose, usual="auto"),
    ".md": partial(prose, usual="file"),
}
QUICK: dict[str, Callable[[Source], int]] = {
    ".jsonl": count_lines,
    ".ndjson": count_lines,
    ".parquet": columnar.parquet_rows,
    ".arrow": columnar.arrow_rows,
}
MEMBERS = {".zip": packed.zip_members, ".tar": packed.tar_members}


def read(path: str | Path, skipped: list[DataError] | None = None, options: Options | None = None) -> Iterator[Read]:
    """Raw records with their numbers, counted from 1.

    In JSON lines a row's number is its line, so that an editor jumps to it; in a table the header is not counted. In a
    folder or archive the numbers run on from member to member, in the order in which people sort them.
    With a list for `skipped`, what cannot be read goes there and the reading goes on where it can.
    Raises DataError with the file and where possible the row, which in a folder or archive is that of the member.
    """
    source = _source(Path(path), skipped, options)
    any_row = False
    for found in _placed(source, _everything(source)):
        any_row = True
        yield found
    if not any_row:
        raise _nothing(source)


def count(path: str | Path, options: Options | None = None) -> int:
    """How many rows `read` would find with consent, without parsing where the kind of file allows.

    Then rows that cannot be read are counted too. Raises DataError where there is nothing at all.
    """
    source = _source(Path(path), [], options)
    total = sum(int(rows) for _, rows in _placed(source, ((0, _counted(single)) for single in _singles(source))))
    if not total:
        raise _nothing(source)
    return total


def is_readable(path: Path) -> bool:
    """Whether the path may hold rows: a folder, or a file whose ending is known."""
    return path.is_dir() or members.ending(path.name) in (*READERS, *MEMBERS)


def encoding_of(path: str | Path) -> str:
    """The encoding of a text as people call it (`UTF-8`, `GB18030`); empty for what is no text, or holds several."""
    source = _source(Path(path), None, None)
    if _kind(Path(path)) in (".parquet", ".arrow", ".xlsx", "folder", *MEMBERS):
        return ""
    with _unpacked(source).characters() as text:
        return encodings.title(text.encoding)


def sheets_of(path: str | Path) -> list[str]:
    """The sheets of a workbook, to choose one in the options."""
    return sheets(_source(Path(path), None, None))


def parts_of(folder: Path) -> dict[members.Part, list[str]]:
    """The subsets and splits that a folder holds, with the files of each; the options choose one."""
    names = members.with_rows(name for name, _ in members.folder(folder))
    return members.parts(names, members.card(folder))


def stamp(path: Path) -> tuple[int, int]:
    """Changes when what is read from the path may have changed: the newest change (ns) and the size in bytes."""
    files = [file for _, file in members.folder(path)] if path.is_dir() else [path]
    states = [file.lstat() if path.is_dir() and not file.exists() else file.stat() for file in files]
    return max((state.st_mtime_ns for state in states), default=0), sum(state.st_size for state in states)


def _kind(path: Path) -> str:
    return "folder" if path.is_dir() else members.ending(path.name)


def _source(path: Path, skipped: list[DataError] | None, options: Options | None) -> Source:
    """Refuses what cannot be read before any of it is."""
    if not path.exists():
        raise DataError(
            "the file does not exist.", "Check the spelling of the path, or choose another dataset.", file=path
        )
    if not (path.is_file() or path.is_dir()):
        raise DataError(
            "this is neither a file nor a folder.", "Choose a file.", file=path
        )  # a pipe would wait for ever
    if not is_readable(path):
        kind = f"{path.suffix!r} files are" if path.suffix else "a file without an ending is"
        raise DataError(f"{kind} not read.", f"Use one of {', '.join((*READERS, *MEMBERS))}, or .gz of it.", file=path)
    return _of_file(str(path), path, options or Options(), skipped)


def _of_file(name: str, path: Path, options: Options, skipped: list[DataError] | None) -> Source:
    return Source(name, partial(path.open, "rb"), path, path.stat().st_size, options, skipped)


def _everything(source: Source) -> Iterator[Read]:
    offset = 0
    for single in _singles(source):
        last = 0
        for number, record in _rows(single):
            last = number
            yield Read(offset + number, record, single.name)
        offset += last


def _singles(source: Source) -> Iterator[Source]:
    """The files and members that rows are read from, each to be read before the next."""
    kind = _kind(source.path) if source.path else ""
    if kind in MEMBERS:
        yield from MEMBERS[kind](source)
    elif kind == "folder" and source.path:
        files = dict(members.folder(source.path))
        options = source.options
        for name in members.chosen(files, options.subset, options.split, members.card(source.path)):
            yield from _singles(_of_file(str(source.path / name), files[name], options, source.skipped))
    else:
        yield source


def _rows(source: Source) -> Rows:
    return _placed(source, READERS[members.ending(source.name)](_unpacked(source)))


def _counted(source: Source) -> int:
    if quick := QUICK.get(members.ending(source.name)):
        return quick(_unpacked(source))
    return sum(1 for _ in _rows(source))


def _unpacked(source: Source) -> Source:
    return packed.decompressed(source) if members.compression(source.name) else source


def _nothing(source: Source) -> DataError:
    if source.skipped:
        return source.skipped[0]
    what = "folder holds no file with rows" if source.path and source.path.is_dir() else "file holds no rows"
    return DataError(f"the {what}.", "Choose a file with at least one row.", file=source.name)


def _placed(source: Source, rows: Iterator[Any]) -> Iterator[Any]:
    """The rows, and after them what ended the reading early, with its file and the row that was next."""
    last = None
    try:
        for found in rows:
            last = found[0]
            yield found
    except DataError as error:
        if error.file is not None:  # whoever raised it knew the place
            raise
        source.bad(None if last is None else last + 1, error.text, error.hint)
    except UnicodeError as error:  # an encoding that people chose and that is none of texts
        raise DataError(f"cannot be decoded: {error}.", "Choose another encoding.", file=source.name) from None
    except OSError as error:
        raise DataError(
            f"cannot be opened: {error.strerror or error}.", "Check its permissions.", file=source.name
        ) from None
