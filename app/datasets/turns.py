"""One row as the conversation that it is: a bubble a message, tools and thoughts folded, two answers side by side.

Takes a row, gives HTML in which every text is escaped; a picture is shown where it lies in the row itself or in the
folder that the row was read from.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from app import gallery
from app.datasets import editor
from data.rows.conversation import Message, Row

NAMES = {"system": "System", "user": "User", "assistant": "Assistant", "tool": "Tool result"}
LONGEST = 50_000  # characters of one text that are shown; an editor has all of them


def conversation(row: Row) -> str:
    """The whole row."""
    parts = [_tools(row.tools)] if row.tools else []
    beside = (Path(row.file).parent,) if Path(row.file).is_absolute() else ()
    if row.text is not None:
        parts.append(f'<div class="tb-turn tb-text">{_text(row.text)}</div>')
    parts += [bubble(message, beside) for message in row.messages]
    if row.kind == "preference":
        sides = "".join(
            _side(title, f"tb-{title.lower()}", said or (), beside)
            for title, said in (("Chosen", row.chosen), ("Rejected", row.rejected))
        )
        parts.append(f'<div class="tb-answers">{sides}</div>')
    parts.append(_judged(row))
    if row.extra:
        parts.append(_folded(f"Other columns: {', '.join(map(str, row.extra))}", _json(dict(row.extra))))
    return f'<div class="tb-talk">{"".join(parts)}</div>'


def editable(row: Row) -> str:
    """The row with a box for each of its texts; `data-text` says where in its record the text stands."""
    parts = []
    record = row.record()
    for path, said in editor.texts(record).items():
        side, _, place = path.partition(".")
        turns = record[side]
        role = str(turns[int(place.partition(".")[0])]["role"]) if place else "text"
        known = role if role in NAMES else "text"
        title = " · ".join(filter(None, (
            NAMES.get(role, role.capitalize()),
            side if side in ("chosen", "rejected") else "",
            "thought" if path.endswith("reasoning_content") else "",
        )))  # fmt: skip
        rows = min(16, 1 + said.count("\n") + len(said) // 90)
        # The first line break after the opening tag is not part of a box's text.
        box = f'<textarea data-text="{escape(path)}" rows="{rows}">\n{escape(said)}</textarea>'
        parts.append(f'<label class="tb-turn tb-{known}"><h4>{escape(title)}</h4>{box}</label>')
    buttons = (
        '<div class="tb-edit-acts"><button type="button" data-save="texts" class="tb-first">Keep this</button>'
        '<button type="button" data-leave="it">Leave it as it was</button>'
        '<button type="button" data-whole="record">Edit the whole record</button></div>'
    )
    return f'<div class="tb-talk tb-editing">{"".join(parts)}{buttons}</div>'


def bubble(message: Message, beside: Sequence[Path] = ()) -> str:
    """One message, under the name of its role; pictures are read in the folders `beside` it alone."""
    role = str(message["role"])
    name = NAMES.get(role, role) + (f" · {message['name']}" if message.get("name") else "")
    thought = message.get("reasoning_content")
    parts = [_folded("Thought", _text(str(thought)), "tb-thought")] if thought else []
    parts += [_content(message.get("content"), beside)] if message.get("content") else []
    parts += [_call(call) for call in message.get("tool_calls") or ()]
    nothing = "" if parts else '<p class="tb-muted">Nothing is said.</p>'
    known = role if role in NAMES else "other"
    return f'<div class="tb-turn tb-{known}"><h4>{escape(name)}</h4>{"".join(parts)}{nothing}</div>'


def _content(content: Any, beside: Sequence[Path]) -> str:
    if isinstance(content, str):
        return _text(content)
    return "".join(_part(part, beside) for part in content)


def _part(part: Any, beside: Sequence[Path]) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        return _text(str(part.get("text", "")))
    if kind == "image":
        return gallery.strip([str(part.get("image"))], beside)
    if kind == "video":
        return f'<p class="tb-muted tb-where">Film: {escape(str(part.get("video"))[:300])}</p>'
    return f"<pre>{escape(str(part)[:LONGEST])}</pre>"


def _call(call: dict[str, Any]) -> str:
    function = call.get("function", {})
    return _folded(f"Calls {function.get('name', '?')}", _json(function.get("arguments")), "tb-call")


def _tools(tools: Sequence[dict[str, Any]]) -> str:
    names = ", ".join(str(tool.get("function", {}).get("name", "?")) for tool in tools)
    title = f"{len(tools)} tool{'s' if len(tools) != 1 else ''}: {names}"
    return _folded(title, _json(list(tools)), "tb-call")


def _side(title: str, style: str, turns: Sequence[Message], beside: Sequence[Path]) -> str:
    said = "".join(bubble(message, beside) for message in turns)
    return f'<section class="{style}"><h3>{title}</h3>{said}</section>'


def _judged(row: Row) -> str:
    if row.kind == "feedback":
        word = "This answer is good." if row.label else "This answer is bad."
        return f'<p class="tb-judgement {"tb-good" if row.label else "tb-bad"}">{word}</p>'
    if row.kind == "scored":
        return f'<p class="tb-judgement">Score {escape(f"{row.score:g}" if row.score is not None else "none")}</p>'
    return '<p class="tb-judgement">A question alone, to be answered and judged.</p>' if row.kind == "prompt" else ""


def _folded(title: str, inner: str, style: str = "") -> str:
    return f'<details class="{style}"><summary>{escape(title)}</summary>{inner}</details>'


def _text(text: str) -> str:
    rest = f"\n… and {len(text) - LONGEST:,} characters more" if len(text) > LONGEST else ""
    return f"<p>{escape(text[:LONGEST] + rest)}</p>"


def _json(value: Any) -> str:
    return f"<pre>{escape(json.dumps(value, ensure_ascii=False, indent=2, default=str)[:LONGEST])}</pre>"
