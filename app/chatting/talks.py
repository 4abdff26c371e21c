"""Conversations, one for each column: what was said, how it is shown, and how it is saved. Knows no widget."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from typing import Any

from engine.contract.client import Said
from engine.contract.errors import ArgsError, DataError
from engine.contract.talk import Talk
from engine.contract.text import checked

KIND = "tuneboard conversation"
EMBEDDED = re.compile(r"data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]+")
THINK, THOUGHT = "<think>", "</think>"


@dataclass(frozen=True)
class Turn:
    """One message. `note` says which weights gave an answer and at what cost; `used` and `context` are tokens.

    pictures: data URLs of what is asked about.
    """

    role: str
    text: str
    note: str = ""
    used: int = 0
    context: int = 0
    pictures: tuple[str, ...] = ()


Talks = tuple[tuple[Turn, ...], ...]
"""The turns of each column."""


def asked(turns: Sequence[Turn], question: str, pictures: Sequence[str] = ()) -> tuple[Turn, ...]:
    return (*turns, Turn("user", question, pictures=tuple(pictures)))


def answered(turns: Sequence[Turn], text: str, said: Said | None = None, note: str = "") -> tuple[Turn, ...]:
    """`turns` with the last answer as far as it has come; `said` is how it ended."""
    kept = turns[:-1] if turns and turns[-1].role == "assistant" else turns
    turn = Turn("assistant", text, note)
    if said:
        used, context = said.usage.get("context_used") or 0, said.usage.get("context") or 0
        turn = replace(turn, note=said.line, used=used, context=context)
    return (*kept, turn)


def unanswered(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """`turns` up to the last question; empty when there is none."""
    last = max((place for place, turn in enumerate(turns) if turn.role == "user"), default=-1)
    return tuple(turns[: last + 1])


def messages(talk: Talk, turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """What a server is asked."""
    return [*talk.opening(), *({"role": turn.role, "content": _content(turn)} for turn in turns)]


def _content(turn: Turn) -> str | list[dict[str, Any]]:
    """What is said, in OpenAI's words: text, or pictures and text as parts."""
    if not turn.pictures:
        return turn.text
    seen = [{"type": "image_url", "image_url": {"url": picture}} for picture in turn.pictures]
    return [*seen, {"type": "text", "text": turn.text}]


def shown(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """The turns as messages of a chatbot: a thought is folded, and under each answer stands its note."""
    return [message for turn in turns for message in _shown(turn)]


def _shown(turn: Turn) -> list[dict[str, Any]]:
    if turn.role == "user":
        seen = "".join(f'<img src="{escape(picture)}" alt="picture">' for picture in turn.pictures)
        return [*([{"role": "user", "content": seen}] if seen else []), {"role": "user", "content": turn.text}]
    parts: list[dict[str, Any]] = []
    text = turn.text
    if text.lstrip().startswith(THINK):
        thought, closed, text = text.lstrip().removeprefix(THINK).partition(THOUGHT)
        doing = not closed and not turn.note
        metadata = {"title": "Thinking" if doing else "Thought", "status": "pending" if doing else "done"}
        parts.append({"role": "assistant", "content": thought.strip(), "metadata": metadata})
    if text.strip() or not parts:
        parts.append({"role": "assistant", "content": text.strip("\n") or "\u2026"})
    if turn.note:
        parts.append({"role": "assistant", "content": f'<div class="tb-said">{escape(turn.note)}</div>'})
    return parts


def place(turns: Sequence[Turn], index: int) -> int:
    """The turn to which message `index` of `shown(turns)` belongs."""
    for number, turn in enumerate(turns):
        index -= len(_shown(turn))
        if index < 0:
            return number
    return len(turns) - 1


def context_of(turns: Sequence[Turn]) -> tuple[int, int]:
    """Tokens used, and available, as of the last answer; zeros while unknown."""
    return next(((turn.used, turn.context) for turn in reversed(turns) if turn.used), (0, 0))


def saved(talks: Talks, who: Sequence[str], talk: Talk) -> str:
    """The conversation as JSON, in OpenAI's words where they exist."""
    columns = [
        {"model": name, "messages": [{"role": t.role, "content": _content(t), **_facts(t)} for t in turns]}
        for turns, name in zip(talks, who, strict=False)
    ]
    content = {"kind": KIND, "settings": talk.model_dump(mode="json"), "columns": columns}
    return json.dumps(content, ensure_ascii=False, indent=1)


def _facts(turn: Turn) -> dict[str, Any]:
    return {key: value for key, value in asdict(turn).items() if key in ("note", "used", "context") and value}


def read(content: bytes) -> tuple[Talks, Talk | None]:
    """A saved conversation, or plain `messages` as other programs write them. Raises DataError with the reason."""
    try:
        given = json.loads(content)
    except (ValueError, RecursionError) as problem:
        raise DataError(f"This is not a conversation: it is not JSON ({problem}).") from None
    given = {"messages": given} if isinstance(given, list) else given
    if not isinstance(given, dict):
        raise DataError("This is not a conversation: it holds no messages.")
    talks, systems = [], []
    for column in given.get("columns", [given]):
        turns = []
        said = column.get("messages") if isinstance(column, dict) else None
        if not isinstance(said, list):
            raise DataError("This is not a conversation: it holds no messages.")
        for number, message in enumerate(said, 1):
            role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
            text, seen = _read(content)
            if role not in ("system", "user", "assistant") or not isinstance(text, str):
                raise DataError("a message needs a role (system, user or assistant) and text.", row=number)
            if role == "system":
                systems.append(text)
            else:
                facts = {key: message[key] for key in ("used", "context") if isinstance(message.get(key), int)}
                turns.append(Turn(role, text, str(message.get("note", "")), **facts, pictures=seen))
        talks.append(tuple(turns))
    return tuple(talks), _talk(given.get("settings"), systems)


def _read(content: Any) -> tuple[Any, tuple[str, ...]]:
    """The text of a message, and its pictures as far as they lie in it; what is no message is given back."""
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        return content, ()
    places = [part["image_url"].get("url") for part in content if isinstance(part.get("image_url"), dict)]
    text = "".join(part["text"] for part in content if isinstance(part.get("text"), str))
    return text, tuple(place for place in places if isinstance(place, str) and EMBEDDED.fullmatch(place))


def room(turns: Sequence[Turn]) -> str:
    """How full the context is, as HTML."""
    used, whole = context_of(turns)
    if not whole:
        return ""
    bar = f'<span class="tb-bar"><i style="width:{used / whole:.0%}"></i></span>'
    return f'<div class="tb-meter" title="Context used so far">{bar}<span>{used:,} of {whole:,} tokens</span></div>'


def _talk(settings: Any, systems: list[str]) -> Talk | None:
    if isinstance(settings, dict):
        talk, problems = checked(Talk, settings)  # type: ignore[arg-type]
        if talk is None:
            raise DataError(f"Its settings cannot be used: {ArgsError(problems).text}")
        return talk  # type: ignore[no-any-return]
    return Talk(system=systems[0]) if systems else None
