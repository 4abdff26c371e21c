"""Records out of tables: text (.csv, .tsv) and workbooks (.xlsx).

The cells of a text are text, whatever they look like: a leading = + - @ is never a formula. A workbook's formulas are
never evaluated either; their values are those that the spreadsheet stored.
"""

from __future__ import annotations

import csv
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from typing import Any, BinaryIO

from data.reading.columnar import plain
from data.reading.raw import ROW_LIMIT, Allowance, Record, Rows, Source, damage, head_of
from engine.contract.errors import DataError

DELIMITERS = ",;\t|"
LOOKED_AT = 100  # lines that tell the delimiter and the header
LONGEST_NAME, MOST_WORDS = 60, 8  # a longer cell is no column's name
EXCEL_SAYS = re.compile(r"sep=(.)\s*$")  # the line with which Excel states a delimiter
WORKBOOK_LIMIT, TEXTS_LIMIT = 4 << 30, 256 << 20  # bytes unpacked: of all, and of the texts, which are held as a whole
LAST_ROW = 1 << 20  # of a sheet
AGAIN = "Save it again from a spreadsheet."


def delimited(source: Source, usual: str) -> Rows:
    """The rows of a table as text; `usual` is the delimiter where the text leaves it open.

    Rows are counted without the header and without blank lines. A row may be shorter than the header, and longer by
    cells that are empty.
    """
    csv.field_size_limit(ROW_LIMIT)
    with source.characters(newline="") as text:
        physical = text.lines()
        head = head_of(physical, LOOKED_AT)
        stated = EXCEL_SAYS.match(head[0]) if head else None
        if stated:
            del head[0]
        delimiter = source.options.delimiter or (stated[1] if stated else _delimiter(head, usual))
        lines = Lines(chain(head, physical), text.encoding)
        rows = csv.reader(lines, delimiter=delimiter, strict=True)
        first = next(_until_the_end(csv.reader(head, delimiter=delimiter)), [])
        if isinstance(first, csv.Error):
            raise DataError(*_broken(first))
        header = _header(first, source.options.header)
        row = -1 if header.stated else 0
        for cells in _until_the_end(rows):
            wrong = lines.taken()
            if isinstance(cells, csv.Error):
                wrong = wrong or _broken(cells)
            elif not any(cells) and not wrong:
                continue
            row += 1
            if row == 0:
                if wrong:
                    raise DataError(*wrong)
                continue
            if wrong or isinstance(cells, csv.Error):
                source.bad(row, *(wrong or ()))
            elif any(cells[len(header.names) :]):
                source.bad(row, *_ragged(len(cells), len(header.names)))
            else:
                yield row, dict(zip(header.names, cells, strict=False))


class Lines:
    """Lines for csv, which remembers what is wrong with those that it has taken for one row."""

    def __init__(self, lines: Iterable[str], encoding: str) -> None:
        self.lines, self.encoding = lines, encoding
        self.wrong: tuple[str, str] | None = None
        self.length = 0

    def __iter__(self) -> Iterator[str]:
        for line in self.lines:
            self.length += len(line)
            if self.length > ROW_LIMIT or "\0" in line or not line.isascii():
                if self.length > ROW_LIMIT and self.length > len(line):
                    raise DataError(
                        f"a row is longer than {ROW_LIMIT >> 20} MB; a quotation mark is not closed.", AGAIN
                    )
                self.wrong = self.wrong or damage(line, self.encoding)
                if len(line) > ROW_LIMIT:
                    line = "\n"
            yield line

    def taken(self) -> tuple[str, str] | None:
        wrong, self.wrong, self.length = self.wrong, None, 0
        return wrong


class Header:
    """The names of the columns, and whether the file states them."""

    def __init__(self, names: list[str], stated: bool) -> None:
        self.names, self.stated = names, stated


def _header(first: Sequence[str], stated: bool | None) -> Header:
    while first and not first[-1].strip():
        first = first[:-1]
    if stated is False or (stated is None and _looks_like_data(first)):
        return Header([f"column_{place}" for place, _ in enumerate(first, start=1)], False)
    names = [name.strip() or f"column_{place}" for place, name in enumerate(first, start=1)]
    if len(set(names)) < len(names):
        raise DataError("two columns have the same name.", "Give every column a name of its own.")
    return Header(names, True)


def _looks_like_data(first: Sequence[str]) -> bool:
    """Whether the first row holds what no column is called: long text, a sentence, or numbers that count nothing."""
    for cell in first:
        words = cell.split()
        if len(cell) > LONGEST_NAME or len(words) > MOST_WORDS or "\n" in cell.strip():
            return True
        if len(words) > 2 and cell.rstrip().endswith((".", "。")):
            return True
    numbers = [float(cell) for cell in first if re.fullmatch(r"-?\d+(\.\d+)?", cell.strip())]
    return any(after != before + 1 for before, after in pairwise(numbers))


def names_columns(first: Sequence[str]) -> bool:
    """Whether every cell is such as columns are called; commas in prose divide it into other things."""
    return not _looks_like_data(first) and all(re.fullmatch(r"\w[\w .()/-]*", cell) for cell in first)


def _delimiter(head: list[str], usual: str) -> str:
    """The one that divides the most rows into as many cells as the header has, if that is more than one."""

    def share(delimiter: str) -> float:
        rows = _until_the_end(csv.reader(head, delimiter=delimiter))
        widths = [len(cells) for cells in rows if isinstance(cells, list) and cells]
        return widths.count(widths[0]) / len(widths) if widths and widths[0] > 1 else 0

    return max(usual + DELIMITERS, key=share)  # the first of equals


def _until_the_end(rows: Iterator[list[str]]) -> Iterator[list[str] | csv.Error]:
    while True:
        try:
            yield next(rows)
        except csv.Error as error:
            yield error
        except StopIteration:
            return


def _broken(error: csv.Error) -> tuple[str, str]:
    return f"the table is broken: {error}.", AGAIN


def _ragged(cells: int, columns: int) -> tuple[str, str]:
    return f"the row has {cells} cells, the header {columns}.", (
        "Put cells that hold a comma or a line break between double quotes."
    )


def workbook(source: Source) -> Rows:
    """The rows of a sheet; its first row that is not blank names the columns."""
    with source.seekable() as file:
        header: Header | None = None
        row = 0
        for cells in _sheet(file, source.options.sheet):
            if all(cell is None or cell == "" for cell in cells):
                continue
            if header is None:
                header = _header(["" if cell is None else str(plain(cell)) for cell in cells], source.options.header)
                if header.stated:
                    continue
            row += 1
            if any(cell not in (None, "") for cell in cells[len(header.names) :]):
                source.bad(row, "a cell lies outside the columns that the header names.", "Give its column a name.")
            else:
                yield row, _named(header.names, cells)


def sheets(source: Source) -> list[str]:
    """The names of a workbook's sheets."""
    with source.seekable() as file:
        return list(_open(file).sheetnames)


def _named(names: list[str], cells: Sequence[Any]) -> Record:
    return {name: plain(cell) for name, cell in zip(names, cells, strict=False)}


def _sheet(file: BinaryIO, name: str) -> Iterator[Sequence[Any]]:
    book = _open(file)
    if name and name not in book.sheetnames:
        raise DataError(f"there is no sheet {name!r}.", f"Choose one of {', '.join(book.sheetnames)}.")
    try:
        sheet = book[name] if name else book.worksheets[0]
        sheet.reset_dimensions()  # what a file says of its own size may be wrong
        for number, cells in enumerate(sheet.iter_rows(values_only=True), start=1):
            if number > LAST_ROW:
                raise DataError("the sheet has rows beyond the last that a sheet can have.", AGAIN)
            yield cells
    except DataError:
        raise
    except Exception as error:  # a damaged part ends in whatever the parser ran into
        raise DataError(f"the workbook is damaged ({type(error).__name__}).", AGAIN) from None
    finally:
        book.close()


def _open(file: BinaryIO) -> Any:
    if file.read(4) == b"\xd0\xcf\x11\xe0":
        raise DataError("the workbook has a password or is in the old .xls form.", "Save it as a plain .xlsx.")
    from openpyxl import load_workbook  # 200 ms that only workbooks pay for

    try:
        with zipfile.ZipFile(file) as parts:
            sizes = {part.filename: part.file_size for part in parts.infolist()}
        Allowance(file.seek(0, 2)).spend(sum(sizes.values()))
        if sum(sizes.values()) > WORKBOOK_LIMIT or sizes.get("xl/sharedStrings.xml", 0) > TEXTS_LIMIT:
            raise DataError("the workbook is too large to be read as one.", "Save the sheet as CSV (UTF-8).")
        return load_workbook(file, read_only=True, data_only=True, keep_links=False)
    except DataError:
        raise
    except Exception as error:  # likewise
        raise DataError(f"this is not a workbook, or it is damaged ({type(error).__name__}).", AGAIN) from None
