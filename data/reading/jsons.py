"""Records out of JSON and JSON lines, however large: no more than one row is held at a time.

Reads a list of objects, a list inside an object (`{"data": [...]}`), one object after another, and one object per line.
NaN and Infinity, which JSON does not have, are read as missing; of a key that is given twice the last counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any, NamedTuple

from data.reading.raw import ROW_LIMIT, Characters, Record, Rows, Source, damage, undecoded, undecoded_in
from engine.contract.errors import DataError

WRAPPERS = ("data", "rows", "examples", "train")  # {"data": [...]}: the rows are one level down
PIECE = 1 << 20  # characters read at a time
WHOLE = 16 << 20  # an object longer than this is taken for a wrapper around rows
DEEPEST = 128  # brackets within brackets; whatever handles a row later recurses too
LONGEST_MARK = 16  # characters of the longest piece that a cut can leave half of: -Infinity, \\u1234

DECODER = json.JSONDecoder(parse_constant=lambda _: None)
HALVES = re.compile(r"\\u[dD][89a-fA-F]")  # of characters beyond 16 bits, which come in pairs
BLANK = re.compile(r"[ \t\r\n]*")
MEND_LINE = "Mend the line, or remove it."
MEND_FILE = "Mend the file, or save it as one JSON object per line (.jsonl)."


def json_lines(source: Source) -> Rows:
    """One object per line, a row's number being its line; a list under the ending .jsonl is read as what it is."""
    with source.characters() as text:
        head = text.read(PIECE)
        if _is_document(head):
            yield from _document(Scanner(text, head), source)
        else:
            yield from _by_line(head, text, source)


def count_lines(source: Source) -> int:
    """How many rows a file of JSON lines seems to have, its lines being counted and not parsed."""
    with source.characters() as text:
        head = text.read(PIECE)
        if _is_document(head):
            return sum(1 for _ in _document(Scanner(text, head), source))
        return sum(1 for line in _lines(head, text) if not line.isspace())


def _is_document(head: str) -> bool:
    start = head.lstrip()
    return start.startswith("[") or start.partition("\n")[0].rstrip() == "{"


def json_file(source: Source) -> Rows:
    """Any JSON; rows are counted in their order, or by line where each line is one."""
    with source.characters() as text:
        head = text.read(PIECE)
        first, _, rest = head.lstrip().partition("\n")
        if first.startswith("{") and rest.strip() and is_json(first):  # JSON lines under the ending .json are common
            yield from _by_line(head, text, source)
        else:
            yield from _document(Scanner(text, head), source)


def _by_line(head: str, text: Characters, source: Source) -> Rows:
    for row, line in enumerate(_lines(head, text), start=1):
        if line.isspace():
            continue
        if wrong := damage(line, text.encoding):
            source.bad(row, *wrong)
            continue
        try:
            yield row, record(DECODER.decode(line), line)
        except json.JSONDecodeError as error:
            source.bad(row, f"this is not valid JSON: {_what(error)} at column {error.colno}.", MEND_LINE)
        except (RecursionError, ValueError):
            source.bad(row, *UNUSABLE)
        except DataError as error:
            source.bad(row, error.text, error.hint)


def _lines(head: str, text: Characters) -> Iterator[str]:
    """The lines of a text whose head has been read."""
    started = head.split("\n")
    last = started.pop()
    rest = text.lines()
    return chain((f"{line}\n" for line in started), filter(None, [last + next(rest, "")]), rest)


UNUSABLE = "the JSON is nested too deeply or holds a number that is too long.", "Remove the row."


def record(value: Any, raw: str, start: int = 0, end: int = 1 << 62) -> Record:
    """The value if it can be a row; `raw[start:end]` is the text that it was parsed from. Raises DataError."""
    if not isinstance(value, dict):
        shown = json.dumps(value, ensure_ascii=False)[:40]
        raise DataError(f"a row must be a JSON object, not {shown}.", 'Write each row as {"column": value, ...}.')
    end = min(end, len(raw))
    if raw.count("[", start, end) + raw.count("{", start, end) > DEEPEST and _depth(value) > DEEPEST:
        raise DataError(*UNUSABLE)
    if (
        raw.find("\\u", start, end) >= 0
        and HALVES.search(raw, start, end)
        and undecoded_in(json.dumps(value, ensure_ascii=False))
    ):
        raise DataError("the text holds half of a character (a lone surrogate).", "Remove the row.")
    return value


def _what(error: json.JSONDecodeError) -> str:
    return error.msg.removesuffix(" at").removesuffix(" starting")


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
    return depth


class Parsed(NamedTuple):
    """A value, and where in which text it stood."""

    value: Any
    text: str
    start: int
    end: int


class Scanner:
    """A position in a JSON text of any length, of which only the piece around it is held."""

    def __init__(self, text: Characters, head: str, at: int = 0) -> None:
        self.text, self.buffer, self.at = text, head, at
        self.margin: str | None = ""  # what stands before the position on its line; None: more than blanks

    def more(self) -> bool:
        """Reads on, as much again as is held, so that parsing anew costs no more than twice; False at the end."""
        piece = self.text.read(max(PIECE, len(self.buffer) - self.at))
        if piece:
            self.buffer, self.at = self.buffer[self.at :] + piece, 0
        return bool(piece)

    def peek(self) -> str:
        """The next character that is not blank, or nothing at the end."""
        while True:
            end = BLANK.match(self.buffer, self.at).end()
            blank = self.buffer[self.at : end]
            if "\n" in blank:
                self.margin = blank.rpartition("\n")[2]
            elif self.margin is not None:
                self.margin += blank
            self.at = end
            if end < len(self.buffer):
                return self.buffer[end]
            if not self.more():
                return ""

    def take(self, sign: str) -> bool:
        """Steps over the sign if it comes next."""
        if self.peek() != sign:
            return False
        self.at += 1
        self.margin = None
        return True

    def value(self, limit: int = 0) -> Parsed:
        """The value that comes next, if it is no longer than the limit. Raises DataError, and stays where it is."""
        limit = limit or ROW_LIMIT
        self.peek()
        while True:
            try:
                value, end = DECODER.raw_decode(self.buffer, self.at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos >= len(self.buffer) - LONGEST_MARK
                if len(self.buffer) - self.at > limit:
                    break
                if not cut or not self.more():
                    near = " ".join(self.buffer[max(self.at, error.pos - 20) : error.pos + 20].split())
                    where = f" near {near!r}" if near else ", where the file ends"
                    raise DataError(f"this is not valid JSON: {_what(error)}{where}.", MEND_FILE) from None
            except (RecursionError, ValueError):
                raise DataError(*UNUSABLE) from None
            else:
                if end - self.at > limit:
                    break
                if end < len(self.buffer) or not self.more():  # a number at the edge may go on
                    start, self.at, self.margin = self.at, end, None
                    return Parsed(value, self.buffer, start, end)
        raise DataError(f"the row is longer than {limit >> 20} MB.", "Remove it, or divide it.")

    def resume(self, margin: str | None) -> bool:
        """Steps to the next line that opens an object just as far in as the last row did; False where none does."""
        if margin is None:
            return False
        opening = f"\n{margin}{{"
        while (found := self.buffer.find(opening, self.at + 1)) < 0:
            self.at = max(self.at, len(self.buffer) - len(opening))
            if not self.more():
                return False
        self.at, self.margin = found + len(opening) - 1, margin
        return True


def _document(scan: Scanner, source: Source) -> Rows:
    first = scan.peek()
    if first == "[":
        scan.take("[")
        yield from _items(scan, source)
        if scan.peek():
            source.bad(None, "something follows the list of rows, and is not read.", MEND_FILE)
    elif first == "{":
        yield from _objects(scan, source)
    elif first:
        if undecoded_in(first):
            raise DataError(*undecoded(first, scan.text.encoding))
        raise DataError("the file must hold a list of objects.", "Write [{...}, {...}].")


def _items(scan: Scanner, source: Source) -> Rows:
    """The rows of a list whose bracket has been read, up to the one that closes it."""
    if scan.take("]"):
        return
    row = 0
    while True:
        row += 1
        scan.peek()
        margin = scan.margin
        try:
            parsed = scan.value()
        except DataError as error:
            source.bad(row, error.text, error.hint)
            if scan.resume(margin):
                continue
            return
        yield from _usable(row, parsed, scan.text.encoding, source)
        if scan.take("]"):
            return
        if not scan.take(","):
            what = "a comma is missing between rows" if scan.peek() else "the file ends before the list is closed"
            row += 1
            source.bad(row, f"this is not valid JSON: {what}.", MEND_FILE)
            if not scan.resume(margin):
                return


def _objects(scan: Scanner, source: Source) -> Rows:
    """One object, which may wrap the list of rows, or several one after the other."""
    try:
        parsed = scan.value(WHOLE)
    except DataError as problem:  # broken, or too long to be a row
        if _enter(scan):
            yield from _items(scan, source)
        else:
            source.bad(1, problem.text, problem.hint)
        return
    again = Scanner(scan.text, parsed.text, parsed.start)
    if not scan.peek() and _enter(again):
        yield from _items(again, source)
        return
    yield from _usable(1, parsed, scan.text.encoding, source)
    row = 1
    while scan.peek():
        row += 1
        try:
            parsed = scan.value()
        except DataError as error:
            source.bad(row, error.text, error.hint)
            return
        yield from _usable(row, parsed, scan.text.encoding, source)


def _usable(row: int, parsed: Parsed, encoding: str, source: Source) -> Rows:
    try:
        if not parsed.text.isascii() and (found := undecoded_in(parsed.text[parsed.start : parsed.end])):
            raise DataError(*undecoded(found, encoding))
        yield row, record(*parsed)
    except DataError as error:
        source.bad(row, error.text, error.hint)


def _enter(scan: Scanner) -> bool:
    """Steps into the list of rows of an object that is not parsed as a whole; False where it has none."""
    try:
        if not scan.take("{"):
            return False
        while True:
            name = scan.value().value
            if not scan.take(":"):
                return False
            if name in WRAPPERS and scan.take("["):
                return scan.peek() in ("{", "]", "")  # a list of anything else is a column of the one row
            scan.value()
            if not scan.take(","):
                return False
    except DataError:  # what is wrong has been said by whoever tried the object as a whole
        return False


def is_json(text: str) -> bool:
    """Whether the text is one whole JSON value."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
