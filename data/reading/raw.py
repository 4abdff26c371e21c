"""Bytes and characters out of a file or a member of an archive, within limits that no input can talk its way around.

What is wrong with the bytes is said in a DataError without a place; whoever reads rows out of them knows it. Refuses to
know what a row is, beyond that none is longer than `ROW_LIMIT`.
"""

from __future__ import annotations

import codecs
import io
import lzma
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from data.reading.encodings import SAMPLE, guess, title
from engine.contract.errors import DataError

Record = dict[str, Any]
Rows = Iterator[tuple[int, Record]]

ROW_LIMIT = 64 << 20  # characters in a row
MOST_EMPTY = 2_000_000  # lines; a spreadsheet has half as many rows, and may write all that are empty
MOST_SKIPPED = 10_000  # bad rows with consent; beyond it the file is not what it says it is
HEAD = 1 << 20  # characters that tell how a text is laid out
LOOK_AHEAD = 64 << 20  # bytes of plain ASCII after which a file is taken for ASCII throughout
RATIO, FLOOR = 200, 256 << 20  # unpacked bytes: at most 200 for each packed one, once past 256 MB

BROKEN = (OSError, EOFError, ValueError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError)
SAVE_AS_UTF8 = "Save the file as UTF-8 (in a spreadsheet: 'CSV UTF-8') and choose it again, or choose its encoding."


class Characters(io.TextIOWrapper):
    """Text whose undecodable bytes come as lone surrogates (see `damage`), in pieces that fit into memory."""

    def lines(self) -> Iterator[str]:
        """Lines with their ends; one that is too long comes cut to just above `ROW_LIMIT`, which `damage` names.

        Raises DataError where nothing but line ends follow one another for too long: a little archive holds very many.
        """
        empty = 0
        while line := self.readline(ROW_LIMIT + 1):
            empty = empty + 1 if line.isspace() else 0
            if empty > MOST_EMPTY:
                raise DataError(f"more than {MOST_EMPTY:,} lines in a row are empty.", "Take them out of the file.")
            yield line
            while len(line) > ROW_LIMIT and not line.endswith("\n"):
                line = self.readline(ROW_LIMIT + 1)


def head_of(lines: Iterator[str], most: int) -> list[str]:
    """The first lines, taken from the iterator: no more than so many, nor many more than `HEAD` characters."""
    head: list[str] = []
    length = 0
    while len(head) < most and length < HEAD and (line := next(lines, "")):
        head.append(line.removeprefix("\ufeff") if not head else line)
        length += len(line)
    return head


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """Like Python's `surrogateescape`, for bytes below 128 too, such as half a character of UTF-16."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error("escaped", _escaped)


@dataclass(frozen=True)
class Options:
    """How to read, where the file does not say; every default finds out by itself.

    encoding: as Python names it. delimiter: of a table as text. header: whether a table's first row names the columns.
    sheet: of a workbook; the first otherwise. unit: what becomes a row of a .txt or .md file; see `data.reading.prose`.
    subset, split: which part of a folder or archive that holds several; all of it otherwise. See
    `data.reading.members`.
    """

    encoding: str = ""
    delimiter: str = ""
    header: bool | None = None
    sheet: str = ""
    unit: Literal["auto", "line", "paragraph", "section", "file"] = "auto"
    subset: str = ""
    split: str = ""


@dataclass(frozen=True)
class Source:
    """One thing that rows are read from.

    name: what people call it; in a folder or archive the path of the member. open: its bytes from the start, once where
    it is a member. path: where it is a file that nothing is wrapped around. size: in bytes, as it lies there.
    skipped: where bad rows go; None where nobody has consented to go on without them.
    """

    name: str
    open: Callable[[], Any]
    path: Path | None = None
    size: int = 0
    options: Options = field(default_factory=Options)
    skipped: list[DataError] | None = None

    def bad(self, row: int | None, text: str, hint: str = "") -> None:
        """Notes a row that cannot be read, or raises DataError where nobody has consented to go on without it."""
        error = DataError(text, hint, file=self.name, row=row)
        if self.skipped is None:
            raise error from None
        if len(self.skipped) >= MOST_SKIPPED:
            raise DataError(
                f"more than {MOST_SKIPPED:,} rows cannot be read.", "Choose another file.", file=self.name
            ) from None
        self.skipped.append(error)

    def characters(self, newline: str | None = None) -> Characters:
        """The text, whatever its encoding."""
        if self.path is not None:
            stream = self.path.open("rb")
            encoding = self.options.encoding or guess(_sample(stream))
        else:
            stream = io.BufferedReader(self.open(), SAMPLE)
            encoding = self.options.encoding or guess(stream.peek(SAMPLE))
        try:
            return Characters(stream, encoding, errors="escaped", newline=newline)
        except LookupError:
            raise DataError(f"the encoding {encoding!r} is not known.", "Choose utf-8, gb18030, ...") from None

    def seekable(self) -> BinaryIO:
        """The bytes where a reader jumps about in them: the file itself, or a copy that is gone when it is closed."""
        if self.path is not None:
            return self.path.open("rb")
        copy = tempfile.TemporaryFile()
        with self.open() as packed:
            shutil.copyfileobj(packed, copy, 1 << 20)
        copy.seek(0)
        return copy


def damage(text: str, encoding: str) -> tuple[str, str] | None:
    """What is wrong with the characters of a row, and what to do; None for a sound one."""
    if len(text) > ROW_LIMIT:
        return f"the row is longer than {ROW_LIMIT >> 20} MB.", "Remove it, or divide it."
    if not text.isascii() and (found := undecoded_in(text)):
        return undecoded(found, encoding)
    if "\0" in text:
        return "the text holds a zero byte, which no text has.", "Remove the row, or save the file again as UTF-8."
    return None


def undecoded_in(text: str) -> str:
    """The first lone surrogate; empty where there is none."""
    try:
        text.encode()  # three times as fast as a search for the signs
    except UnicodeEncodeError as error:
        return text[error.start]
    return ""


def undecoded(sign: str, encoding: str) -> tuple[str, str]:
    """What to say of a byte that came as a lone surrogate."""
    return f"the text is not {title(encoding)} (byte 0x{ord(sign) - 0xDC00:02x}).", SAVE_AS_UTF8


class Allowance:
    """How much an archive or compressed file of so many bytes may unpack to, all its members together."""

    def __init__(self, packed: int) -> None:
        self.left = max(FLOOR, RATIO * packed)

    def spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise DataError(
                f"the file unpacks to more than {RATIO} times its size.",
                "Such a file may be made to fill a disk. If you trust it, unpack it yourself and choose what is in it.",
            )


class Unpacked(io.RawIOBase):
    """The bytes of a compressed stream, counted against an allowance; whatever is wrong with it is a DataError.

    `limit` is the position beyond which nothing may be read, for a while, if it is set.
    """

    def __init__(self, opened: Callable[[], Any], allowance: Allowance) -> None:
        self.opened, self.allowance = opened, allowance
        self.stream: Any = None
        self.position = 0
        self.limit: int | None = None
        self.failure: DataError | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        filled = 0
        while filled < len(buffer) and self.failure is None:  # filled, so that a peek sees all that it asked for
            try:
                self.stream = self.stream or self.opened()
                piece = self.stream.read(len(buffer) - filled)
                self.allowance.spend(len(piece))
                self.position += len(piece)
                if self.limit is not None and self.position > self.limit:
                    raise DataError("what stands between two members is too long.", "Pack the files again.")
            except DataError as error:
                self.failure = error
            except BROKEN as error:
                self.failure = DataError(
                    f"the compressed data is broken or cut off ({error or type(error).__name__}).",
                    "Fetch or pack the file again.",
                )
            else:
                if not piece:
                    break
                buffer[filled : filled + len(piece)] = piece
                filled += len(piece)
        if not filled and self.failure:  # what came before it has been handed out
            raise self.failure
        return filled

    def close(self) -> None:
        if self.stream:
            self.stream.close()
        super().close()


def _sample(stream: BinaryIO) -> bytes:
    """The first bytes, or those from the first that is not ASCII; the stream is back at its start after it."""
    sample = head = stream.read(SAMPLE)
    seen = len(head)
    while sample and sample.isascii() and b"\0" not in sample and seen < LOOK_AHEAD:
        sample = stream.read(SAMPLE)
        seen += len(sample)
    stream.seek(0)
    return sample.lstrip(bytes(range(128))) if head.isascii() and b"\0" not in head else head
