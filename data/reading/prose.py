"""Rows of raw text out of .txt and .md files: each is `{"text": ...}`.

What becomes a row is `options.unit`. `auto` makes a row of every line of a .txt whose lines are whole (articles,
sentences), and of every paragraph, which blank lines divide, of one whose lines are broken in mid-sentence, as in a
book; a .md is one row. `section` begins a row at every heading of the highest level that the file has; `file` is one
row for all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain

from data.reading.raw import ROW_LIMIT, Rows, Source, damage, head_of
from engine.contract.errors import DataError

LOOKED_AT = 2000  # lines that decide
SENTENCE_ENDS = re.compile(r"[.!?:;…。！？：；\"'”’»)\]}]\s*$")
FENCE = re.compile(r"\s*(```|~~~)")
HEADING = re.compile(r"(#{1,6})\s")


def prose(source: Source, usual: str) -> Rows:
    with source.characters() as text:
        lines = text.lines()
        head = head_of(lines, LOOKED_AT)
        unit = source.options.unit if source.options.unit != "auto" else usual
        if unit == "auto":
            unit = "paragraph" if _is_broken_in_mid_sentence(head) else "line"
        blocks: dict[str, Callable[[Iterable[str]], Iterator[str]]] = {
            "line": _by_line,
            "paragraph": _by_paragraph,
            "section": partial(_by_section, head),
            "file": _whole,
        }
        found = blocks[unit](chain(head, lines))
        for row, block in enumerate((block for block in found if block.strip()), start=1):
            if wrong := damage(block, text.encoding):
                source.bad(row, *wrong)
            else:
                yield row, {"text": block.strip("\n")}


def _is_broken_in_mid_sentence(lines: list[str]) -> bool:
    """Whether there are paragraphs, and most lines of them end where no sentence does."""
    written = [line for line in lines if line.strip()]
    ended = sum(bool(SENTENCE_ENDS.search(line)) for line in written)
    return len(written) < len(lines) and ended * 2 < len(written)


def _by_line(lines: Iterable[str]) -> Iterator[str]:
    yield from lines


def _by_paragraph(lines: Iterable[str]) -> Iterator[str]:
    return _joined((line, not line.strip()) for line in lines)


def _by_section(head: list[str], lines: Iterable[str]) -> Iterator[str]:
    levels = [level for _, level in _levels(head) if level]
    highest = min(levels, default=1)
    return _joined((line, level == highest) for line, level in _levels(lines))


def _whole(lines: Iterable[str]) -> Iterator[str]:
    return _joined((line, False) for line in lines)


def _levels(lines: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Each line with the level of the heading that it is, or 0; a # in a block of code is none."""
    fenced = False
    for line in lines:
        fenced ^= bool(FENCE.match(line))
        heading = None if fenced else HEADING.match(line)
        yield line, len(heading[1]) if heading else 0


def _joined(lines: Iterable[tuple[str, bool]]) -> Iterator[str]:
    """Lines put together, anew from each that begins something."""
    held: list[str] = []
    length = 0
    for line, begins in lines:
        if begins and held:
            yield "".join(held)
            held, length = [], 0
        held.append(line)
        length += len(line)
        if length > ROW_LIMIT:
            raise DataError(f"a row would be longer than {ROW_LIMIT >> 20} MB.", "Make a row of every line instead.")
    yield "".join(held)
