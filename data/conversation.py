"""One conversation, and how its messages are made from the many things that files hold.

Knows nothing of files, formats, templates or tokens. What cannot be used raises a DataError without a place; whoever
knows the row adds it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from engine.contract.errors import DataError

Message = dict[str, Any]

ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
    "function_call": "call", "tool_call": "call",
    "tool": "tool", "observation": "tool", "function": "tool", "function_response": "tool", "tool_response": "tool",
}  # fmt: skip
REASONING = ("reasoning_content", "reasoning", "thinking")  # the names that a thought goes by
MEDIA = ("image", "images", "video", "videos", "audio", "audios")  # columns that would be lost without a word


Kind = Literal["conversation", "text", "preference", "feedback", "scored", "prompt"]
"""What a row can teach: a whole conversation; raw text; which of two answers is better (DPO); whether an answer is good
(KTO); how good it is (reward); or a question alone, to be answered and judged (GRPO)."""


@dataclass(frozen=True)
class Row:
    """One row of any format, in the one form that everything behind the readers knows.

    messages: the conversation. In a preference row it is what comes before the answers `chosen` and `rejected`, each
    a list of messages; in a feedback or scored row the last turns are the answer that `label` or `score` judges; in a
    prompt row nothing is answered yet; in a text row it is empty and `text` is all.
    A message's content is text, or a list of parts: `{"type": "text", "text": ...}`, `{"type": "image", "image": ...}`,
    `{"type": "video", "video": ...}`, where a picture is an absolute path, an https address or a data URL.
    extra: columns that the format does not use, which a task may (the right answer, a margin, a database schema).
    file, number: where it was read; the number is counted from 1 and is unique in its dataset.
    """

    messages: list[Message]
    tools: list[dict[str, Any]] | None
    file: str
    number: int
    kind: Kind = "conversation"
    chosen: list[Message] | None = None
    rejected: list[Message] | None = None
    label: bool | None = None
    score: float | None = None
    text: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def check(messages: list[Message], record: Mapping[str, Any]) -> None:
    """Refuses a conversation from which nothing can be learnt, or of which a part would be lost."""
    if media := [name for name in MEDIA if record.get(name)]:
        raise DataError(f"the column {media[0]} holds pictures, sound or film; only text can be trained.")
    answers = [message for message in messages if message["role"] == "assistant"]
    if not answers:
        raise DataError("nothing is said by the assistant, so nothing can be learnt.")
    if not all(answer["content"].strip() or answer.get("tool_calls") for answer in answers):
        raise DataError("an answer of the assistant is empty.")


def filled(message: Message, fill: Mapping[str, str]) -> Message:
    content = message["content"]
    for name, value in fill.items():
        content = content.replace("{{" + name + "}}", value)
    return {**message, "content": content}


def tools(record: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Tool definitions in OpenAI's form; they may be given as JSON text, or without the outer `function`."""
    tools = from_json(record.get("tools") or [], "tools")
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise DataError("tools must be a list of definitions.")
    found = [tool if "function" in tool else {"type": "function", "function": tool} for tool in tools]
    if not all(isinstance(tool["function"], dict) and isinstance(tool["function"].get("name"), str) for tool in found):
        raise DataError("every tool needs a name.")
    return found or None


def from_json(value: Any, what: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise DataError(f"{what} is not valid JSON: {value[:40]!r}.") from None


def as_text(value: Any, what: str) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)):
        return str(value)
    raise DataError(f"{what} must be text, not {type(value).__name__}.")


def _call(call: Any) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise DataError(f"a tool call needs a name and arguments, found {str(call)[:40]!r}.")
    arguments = from_json(function.get("arguments") or {}, "the arguments of a tool call")
    if not isinstance(arguments, dict):
        raise DataError(f"the arguments of the tool {function['name']!r} must be an object.")
    named = {"id": call["id"]} if call.get("id") else {}
    return {**named, "type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _calls(value: Any) -> list[dict[str, Any]]:
    value = from_json(value, "a tool call")
    return [_call(call) for call in (value if isinstance(value, list) else [value])]


def message(role: Any, content: Any, more: Mapping[str, Any] | None = None) -> Message:
    """One message from what a file holds: content is text, nothing, or a list of typed parts."""
    more = more or {}
    kind = ROLES.get(str(role).lower())
    if kind is None:
        raise DataError(f"the role {role!r} is not known; use one of {', '.join(ROLES)}.")
    if kind == "call":
        return {"role": "assistant", "content": "", "tool_calls": _calls(content)}
    calls = _calls(more["tool_calls"]) if more.get("tool_calls") else []
    reasoning = next((as_text(more[name], name) for name in REASONING if more.get(name)), "")
    if isinstance(content, list):
        texts = []
        for part in content:
            name, value = _part(part)
            if name == "text":
                texts.append(as_text(value, "a text part"))
            elif name in ("reasoning", "thinking"):
                reasoning += as_text(value, "a reasoning part")
            elif name == "tool_call":
                calls += _calls(value)
            else:
                raise DataError(f"a part of the type {name!r} cannot be used; only text is.")
        content = "".join(texts)
    message: Message = {"role": kind, "content": as_text(content, "the content of a message")}
    message |= {name: as_text(more[name], name) for name in ("name", "tool_call_id") if more.get(name)}
    return message | ({"reasoning_content": reasoning} if reasoning else {}) | ({"tool_calls": calls} if calls else {})


def _part(part: Any) -> tuple[str, Any]:
    if isinstance(part, str):
        return "text", part
    if not isinstance(part, dict):
        raise DataError(f"a part of a message must be an object with a type, not {type(part).__name__}.")
    kind = str(part.get("type", "text"))
    return kind, part.get(kind, part.get("value", part.get("text")))


def conversation(record: Mapping[str, Any], turns: Iterable[Message]) -> list[Message]:
    """The turns, after the system text and the earlier `history` that a record may carry beside them."""
    system = as_text(record.get("system"), "system")
    history = from_json(record.get("history") or [], "history")
    if not isinstance(history, list) or not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in history):
        raise DataError("history must be a list of [question, answer] pairs.")
    first = [message("system", system)] if system.strip() else []
    earlier = [message(role, text) for pair in history for role, text in zip(("user", "assistant"), pair, strict=True)]
    return [*first, *earlier, *turns]
