"""One conversation, and how its messages are made from the many things that files hold.

Knows nothing of files, formats, templates or tokens. What cannot be used raises a DataError without a place; whoever
knows the row adds it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from engine.contract.errors import DataError

Message = dict[str, Any]

ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user", "question": "user", "customer": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
    "ai": "assistant", "chatbot": "assistant", "agent": "assistant", "answer": "assistant", "bing": "assistant",
    "bard": "assistant",
    "function_call": "call", "tool_call": "call", "call": "call",
    "tool": "tool", "observation": "tool", "function": "tool", "function_response": "tool", "tool_response": "tool",
    "tool_result": "tool", "ipython": "tool",
}  # fmt: skip
REASONING = ("reasoning_content", "reasoning", "thinking")  # the names that a thought goes by
WEIGHTS = ("weight", "loss_weight", "loss", "train")  # ... and what says whether an answer is trained
PICTURES = {
    "image": "image", "image_url": "image", "input_image": "image",
    "video": "video", "video_url": "video", "input_video": "video",
}  # fmt: skip
CONTENT = "the content of a message"
TEXTS = ("text", "input_text", "output_text")


Kind = Literal["conversation", "text", "preference", "feedback", "scored", "prompt"]
"""What a row can teach: a whole conversation; raw text; which of two answers is better (DPO); whether an answer is good
(KTO); how good it is (reward); or a question alone, to be answered and judged (GRPO)."""


OWN: dict[Kind, frozenset[str]] = {
    kind: frozenset(names.split())
    for kind, names in {
        "conversation": "messages tools", "text": "text tools", "preference": "prompt chosen rejected tools",
        "feedback": "prompt completion label tools", "scored": "prompt completion score tools",
        "prompt": "prompt tools",
    }.items()
}  # fmt: skip
"""The names in a row's record that are not `extra`."""


@dataclass(frozen=True)
class Row:
    """One row of any format, in the one form that everything behind the readers knows.

    messages: the conversation. In a preference row it is what comes before the answers `chosen` and `rejected`, each
    a list of messages; in a feedback or scored row the last turns are the answer that `label` or `score` judges; in a
    prompt row nothing is answered yet; in a text row it is empty and `text` is all. An assistant's message may have a
    `weight`: it counts so much in the loss, and at 0 it is read and not trained.
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

    def record(self) -> dict[str, Any]:
        """The row as TRL's conversational form writes it, JSON-able; `data.rows.formats.restored` reads it back."""
        own: dict[str, Any]
        if self.kind == "text":
            own = {"text": self.text}
        elif self.kind == "preference":
            own = {"prompt": self.messages, "chosen": self.chosen, "rejected": self.rejected}
        elif self.kind in ("feedback", "scored"):
            split = answer_at(self.messages)
            own = {"prompt": self.messages[:split], "completion": self.messages[split:]}
            own |= {"label": self.label} if self.kind == "feedback" else {"score": self.score}
        else:
            own = {"prompt" if self.kind == "prompt" else "messages": self.messages}
        return {**own, **({"tools": self.tools} if self.tools else {}), **self.extra}

    def filled(self, fill: Mapping[str, str]) -> Row:
        """The row with every `{{name}}` in what is said replaced by its value."""
        sides = {
            name: [filled(message, fill) for message in said]
            for name in ("messages", "chosen", "rejected")
            if (said := getattr(self, name))
        }
        text = {"text": filled({"content": self.text}, fill)["content"]} if self.text else {}
        return replace(self, **sides, **text)


def check(row: Row) -> None:
    """Refuses a row from which nothing can be learnt."""
    if row.kind == "text":
        if not (row.text or "").strip():
            raise DataError("the text is empty.")
        return
    if row.kind == "prompt":
        if not row.messages or row.messages[-1]["role"] not in ("user", "tool"):
            raise DataError("a prompt must end with what is asked.")
        if not row.messages[-1]["content"]:
            raise DataError("the prompt is empty.")
        return
    if row.kind == "preference":
        for name, answer in (("chosen", row.chosen), ("rejected", row.rejected)):
            if not answer or not _answers(answer):
                raise DataError(f"the {name} answer is missing.")
            if not all(said(message).strip() or message.get("tool_calls") for message in _answers(answer)):
                raise DataError(f"the {name} answer is empty.")
        return
    answers = _answers(row.messages)
    if not answers:
        raise DataError("nothing is said by the assistant, so nothing can be learnt.")
    if not all(said(answer).strip() or answer.get("tool_calls") for answer in answers):
        raise DataError("an answer of the assistant is empty.")
    if row.kind in ("feedback", "scored") and row.messages[-1]["role"] != "assistant":
        raise DataError("the last word must be the assistant's, for it is what is judged.")


def _answers(messages: list[Message]) -> list[Message]:
    return [message for message in messages if message["role"] == "assistant"]


def said(message: Message) -> str:
    """The text of a message, without its pictures."""
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def answer_at(messages: Sequence[Message]) -> int:
    """Where the answer that is judged begins: with the first words of the assistant after the last question."""
    start = next((index + 1 for index in reversed(range(len(messages))) if messages[index]["role"] == "user"), 0)
    return next((index for index in range(start, len(messages)) if messages[index]["role"] == "assistant"), start)


def filled(message: Message, fill: Mapping[str, str]) -> Message:
    """The message with every `{{name}}` replaced by its value."""

    def replaced(text: str) -> str:
        for name, value in fill.items():
            text = text.replace("{{" + name + "}}", value)
        return text

    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": replaced(content)}
    parts = [{**part, "text": replaced(part["text"])} if part["type"] == "text" else part for part in content]
    return {**message, "content": parts}


def tools(given: Any) -> list[dict[str, Any]] | None:
    """Tool definitions in OpenAI's form; they may be given as JSON text, or without the outer `function`."""
    tools = from_json(given or [], "tools")
    if isinstance(tools, list):
        tools = [from_json(tool, "a tool") for tool in tools]  # each may be JSON text of its own
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
    arguments = from_json(function.get("arguments") or {}, "the argument object of a tool call")
    if not isinstance(arguments, dict):
        raise DataError(f"the arguments of the tool {function['name']!r} must be an object.")
    named = {"id": call["id"]} if call.get("id") else {}
    return {**named, "type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _calls(value: Any) -> list[dict[str, Any]]:
    value = from_json(value, "a tool call")
    return [_call(call) for call in (value if isinstance(value, list) else [value])]


def message(
    role: Any,
    content: Any,
    more: Mapping[str, Any] | None = None,
    roles: Mapping[str, str] | None = None,
    pictures: bool = False,
) -> Message:
    """One message from what a file holds: content is text, nothing, or a list of typed parts.

    more: what else the turn says (tool calls, a thought, a weight).   roles: names of speakers beyond `ROLES`.
    With `pictures`, the content of a message that has some is a list of parts, where a picture is still as the file
    says it; `data.rows.media` gives it its address. Without, a picture is refused.
    """
    more = more or {}
    kind = (roles or {}).get(str(role)) or ROLES.get(str(role).strip().lower())
    if kind is None:
        raise DataError(f"the role {str(role)[:40]!r} is not known; use one of {', '.join(ROLES)}.")
    if kind == "call":
        return {"role": "assistant", "content": "", "tool_calls": _calls(content)}
    if not more and isinstance(content, str):
        return {"role": kind, "content": content}
    calls = _calls(more["tool_calls"]) if more.get("tool_calls") else []
    reasoning = next((as_text(more[name], name) for name in REASONING if more.get(name)), "")
    if isinstance(content, dict) and "type" in content:
        content = [content]
    if isinstance(content, list):
        parts: list[dict[str, Any]] = []
        usable = "text and pictures" if pictures else "text"
        for part in content:
            name, value = _part(part)
            if name in TEXTS:
                parts.append({"type": "text", "text": as_text(value, "a text part")})
            elif name in ("reasoning", "thinking"):
                reasoning += as_text(value, "a reasoning part")
            elif name == "tool_call":
                calls += _calls(value)
            elif pictures and name in PICTURES:
                parts.append({"type": PICTURES[name], PICTURES[name]: value})
            else:
                raise DataError(f"a part of the type {name!r} cannot be used; only {usable} can.")
        seen = any(part["type"] != "text" for part in parts)
        content = parts if seen else "".join(part["text"] for part in parts)
    made: Message = {"role": kind, "content": content if isinstance(content, list) else as_text(content, CONTENT)}
    made |= {name: as_text(more[name], name) for name in ("name", "tool_call_id") if more.get(name)}
    made |= {"weight": weight} if kind == "assistant" and (weight := _weight(more)) != 1 else {}
    return made | ({"reasoning_content": reasoning} if reasoning else {}) | ({"tool_calls": calls} if calls else {})


def _weight(more: Mapping[str, Any]) -> float:
    """How much an answer counts in training, 1 where nothing is said."""
    weight = next((more[name] for name in WEIGHTS if more.get(name) is not None), 1)
    if not isinstance(weight, (int, float)) or not 0 <= weight <= 1e6:
        raise DataError(f"the weight of a turn must be a number from 0 on, not {str(weight)[:40]!r}.")
    return float(weight)


def _part(part: Any) -> tuple[str, Any]:
    if isinstance(part, str):
        return "text", part
    if not isinstance(part, dict):
        raise DataError(f"a part of a message must be an object with a type, not {type(part).__name__}.")
    kind = str(part.get("type", "text"))
    names = (kind, PICTURES.get(kind, "text"), "value", "text", "url", "path", "bytes", "base64")
    return kind, next((part[name] for name in names if part.get(name) is not None), None)


def conversation(
    turns: Sequence[Message], system: Any = None, history: Any = None, roles: Mapping[str, str] | None = None
) -> list[Message]:
    """The turns, after the system text and the earlier turns that a record may carry beside them."""
    told = as_text(system, "system")
    earlier = _earlier(from_json(history or [], "history"), roles)
    said = [*earlier, *turns]
    if not told.strip():
        return said
    if said and said[0]["role"] == "system":
        own = said[0]["content"]
        if not isinstance(own, str) or own == told:
            return said
        return [{**said[0], "content": f"{told}\n\n{own}"}, *said[1:]]
    return [{"role": "system", "content": told}, *said]


def _earlier(history: Any, roles: Mapping[str, str] | None) -> list[Message]:
    if not isinstance(history, list):
        raise DataError("history must be a list of [question, answer] pairs.")
    found: list[Message] = []
    for turn in history:
        if isinstance(turn, dict) and "role" in turn:
            found.append(message(turn["role"], turn.get("content"), turn, roles))
        elif isinstance(turn, (list, tuple)) and len(turn) == 2:
            found += [message(role, text) for role, text in zip(("user", "assistant"), turn, strict=True)]
        else:
            raise DataError("history must be a list of [question, answer] pairs.")
    return found
