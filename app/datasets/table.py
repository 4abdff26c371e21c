"""The rows of a dataset as a table: searched, filtered, sorted, a page at a time, as escaped HTML.

Works on rows that are in memory; which ones those are is `app.datasets.dataset`'s to know. It knows no widget and no
file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Any

from app.theme import empty
from data.rows.conversation import Message, Row
from engine.contract.errors import DataError

PAGE = 50  # rows on one page
CLIPPED = 160  # characters of a cell; the conversation view has the rest
COLUMNS = {
    "number": "Row", "turns": "Turns", "question": "First question", "answer": "Last answer",
    "characters": "Characters", "flags": "Marks",
}  # fmt: skip
NUMBERS = ("number", "turns", "characters")
KINDS = {
    "conversation": "conversations", "text": "raw texts", "preference": "preferences", "feedback": "judged answers",
    "scored": "scored answers", "prompt": "questions alone",
}  # fmt: skip
EVERYTHING = "everything"


@dataclass(frozen=True)
class Line:
    """One row of the table; an excluded row stays in it, so that it can come back."""

    row: Row
    edited: bool = False
    excluded: bool = False
    marks: tuple[str, ...] = ()  # kinds of the findings that name it

    @property
    def number(self) -> int:
        return self.row.number

    @property
    def turns(self) -> int:
        return len(self.messages)

    @cached_property
    def messages(self) -> list[Message]:
        """Everything that is said; of a preference both answers."""
        return [*self.row.messages, *(self.row.chosen or ()), *(self.row.rejected or ())]

    @cached_property
    def question(self) -> str:
        first = next((said(turn) for turn in self.row.messages if turn["role"] == "user"), "")
        return clipped(first or (self.row.text or ""))

    @cached_property
    def answer(self) -> str:
        turns = self.row.chosen or self.row.messages
        return clipped(next((said(turn) for turn in reversed(turns) if turn["role"] == "assistant"), ""))

    @cached_property
    def characters(self) -> int:
        return len(self.row.text or "") + sum(len(said(turn)) for turn in self.messages)

    @property
    def flags(self) -> tuple[str, ...]:
        own = (("excluded",) if self.excluded else ()) + (("edited",) if self.edited else ())
        return own + self.marks

    def words(self) -> str:
        """All of the row's text, in small letters, for the search."""
        parts = [self.row.text or "", *(said(turn) for turn in self.messages)]
        if self.row.tools or self.row.extra:
            parts.append(json.dumps([self.row.tools, dict(self.row.extra)], ensure_ascii=False, default=str))
        return "\n".join(parts).lower()


@dataclass(frozen=True)
class Query:
    """What of the table is seen: words that a row must all hold, a filter, lengths in characters, the order."""

    words: str = ""
    keep: str = EVERYTHING
    shortest: int | None = None
    longest: int | None = None
    order: str = "number"
    down: bool = False


def lengths(text: str | None) -> tuple[int | None, int | None]:
    """(at least, at most) of `100-2000`, `100-`, `-2000` or `100`; an empty text limits nothing. Raises DataError."""
    numbers = re.fullmatch(r"(\d*)(?:\s*[-–]\s*(\d*))?", (text or "").replace(",", "").strip())
    if numbers is None:
        raise DataError(f"{text!r} is no range of lengths.", "Write it as 100-2000, 100- or -2000.")
    low, high = numbers.groups()
    return int(low) if low else None, int(high) if high else None


def said(message: Message) -> str:
    """All the text of a message: what is said, thought and called; a picture is not text."""
    content = message.get("content") or ""
    if not isinstance(content, str):
        content = "".join(str(part.get("text", "")) for part in content if part.get("type") == "text")
    calls = message.get("tool_calls")
    called = json.dumps([call["function"] for call in calls], ensure_ascii=False) if calls else ""
    return "\n".join(filter(None, (message.get("reasoning_content"), content, called)))


def clipped(text: str, length: int = CLIPPED) -> str:
    """The text in one line, cut to `length` characters."""
    line = " ".join(text[: 4 * length].split())
    return line if len(line) <= length and len(text) <= 4 * length else line[:length].rstrip() + "…"


def chosen(lines: Sequence[Line], query: Query) -> list[Line]:
    """The lines that the query keeps, in its order."""
    wanted = query.words.lower().split()
    found = [
        line
        for line in lines
        if _kept(line, query.keep)
        and (query.shortest is None or line.characters >= query.shortest)
        and (query.longest is None or line.characters <= query.longest)
        and (not wanted or all(word in text for text in [line.words()] for word in wanted))
    ]
    if (query.order, query.down) != ("number", False):
        found.sort(key=lambda line: _sorted_by(line, query.order), reverse=query.down)
    return found


def _kept(line: Line, keep: str) -> bool:
    name, _, value = keep.partition(":")
    match name:
        case "everything":
            return True
        case "edited" | "excluded":
            return bool(getattr(line, name))
        case "finding":
            return value in line.marks if value else bool(line.marks)
        case "kind":
            return line.row.kind == value
        case "role":
            return any(turn["role"] == value for turn in line.messages)
        case "tools":
            return bool(line.row.tools) or any(turn.get("tool_calls") for turn in line.messages)
        case "thoughts":
            return any(turn.get("reasoning_content") for turn in line.messages)
    raise ValueError(f"there is no filter {keep!r}")


def _sorted_by(line: Line, order: str) -> Any:
    value = getattr(line, order)
    return value.casefold() if isinstance(value, str) else len(value) if isinstance(value, tuple) else value


def filters(lines: Sequence[Line], findings: Mapping[str, str]) -> list[tuple[str, str]]:
    """The filters that would keep something of these lines: (what is shown, the word). `findings`: kind to title."""
    offered: list[tuple[str, str]] = [("All rows", EVERYTHING)]
    kinds = list(dict.fromkeys(line.row.kind for line in lines))
    if len(kinds) > 1:
        offered += [(f"Only {KINDS[kind]}", f"kind:{kind}") for kind in kinds]
    roles = {turn["role"] for line in lines for turn in line.messages}
    offered += [(f"With the role {role}", f"role:{role}") for role in ("system", "tool") if role in roles]
    for title, keep in (("With tools", "tools"), ("With thoughts", "thoughts"), ("Edited", "edited"),
                        ("Excluded", "excluded")):  # fmt: skip
        if any(_kept(line, keep) for line in lines):
            offered.append((title, keep))
    if findings:
        offered += [("With a finding", "finding:"), *((title, f"finding:{kind}") for kind, title in findings.items())]
    return offered


def pages(count: int) -> int:
    return max(1, -(-count // PAGE))


def html(found: Sequence[Line], query: Query, page: int, opened: int = 0) -> str:
    """Page `page` (from 0) of the lines; the row called `opened` is marked. Clicks are read by static/data.js."""
    if not found:
        return empty("No row is like that", "Change the words, the filter or the lengths above the table.")
    heads = "".join(_head(name, title, query) for name, title in COLUMNS.items())
    body = "".join(_line(line, opened) for line in found[page * PAGE : (page + 1) * PAGE])
    return f'<table class="tb-rows"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'


def _head(name: str, title: str, query: Query) -> str:
    sorting = ("descending" if query.down else "ascending") if query.order == name else "none"
    return (
        f'<th scope="col" aria-sort="{sorting}" class="tb-col-{name}">'
        f'<button type="button" data-sort="{name}">{title}</button></th>'
    )


def _line(line: Line, opened: int) -> str:
    classes = " ".join(["tb-excluded"] * line.excluded)
    current = ' aria-current="true"' if line.number == opened else ""
    return (
        f'<tr class="{classes}" data-row="{line.number}"{current}>'
        f'<td class="tb-col-number">'
        f'<button type="button" aria-label="Open row {line.number}">{line.number:,}</button></td>'
        f'<td class="tb-col-turns">{line.turns or "–"}</td>'
        f"<td><div>{escape(line.question)}</div></td><td><div>{escape(line.answer)}</div></td>"
        f'<td class="tb-col-characters">{line.characters:,}</td>'
        f'<td><div class="tb-flags">{marks(line)}</div></td></tr>'
    )


def marks(line: Line) -> str:
    """What is to be known about a row, each a small word."""
    return "".join(f'<span class="tb-flag tb-flag-{_style(flag)}">{escape(flag)}</span>' for flag in line.flags)


def _style(flag: str) -> str:
    return flag if flag in ("edited", "excluded") else "found"


def neighbours(found: Sequence[Line], number: int) -> tuple[int, int, int]:
    """(the row before, the place of this one counted from 1, the row after); 0 where there is none."""
    place = next((place for place, line in enumerate(found) if line.number == number), -1)
    if place < 0:
        return 0, 0, found[0].number if found else 0
    before = found[place - 1].number if place else 0
    after = found[place + 1].number if place + 1 < len(found) else 0
    return before, place + 1, after


def marked(lines: Sequence[Line], named: Mapping[str, Collection[int]]) -> Iterator[Line]:
    """The lines with the findings that name them: `named` is kind to row numbers."""
    by_row: dict[int, list[str]] = {}
    for kind, numbers in named.items():
        for number in numbers:
            by_row.setdefault(number, []).append(kind)
    for line in lines:
        kinds = tuple(by_row.get(line.number, ()))
        yield line if kinds == line.marks else Line(line.row, line.edited, line.excluded, kinds)
