"""Finds what is odd in how a conversation goes: who speaks when, what is empty, and how tools are called.

Looks at one row at a time, and says how each is mended where there is one way to.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from data.review.rules import Rule
from data.review.utterance import Utterance
from data.rows.conversation import Message, Row, said

WRITTEN = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)
BARE = re.compile(r"\A\s*(?:```(?:json)?\s*)?(\{\s*[\"'](?:name|function)[\"']\s*:.*?)(?:```)?\s*\Z", re.DOTALL)


def _spoken(row: Row) -> list[Message]:
    return [turn for turn in [*row.messages, *(row.chosen or [])] if turn["role"] != "system"]


def _empty_question(utterance: Utterance) -> str:
    asked = [turn for turn in utterance.row.messages if turn["role"] == "user"]
    return "found" if any(isinstance(turn["content"], str) and not said(turn).strip() for turn in asked) else ""


def _empty_answer(utterance: Utterance) -> str:
    row = utterance.row
    if row.kind == "text":
        return "" if (row.text or "").strip() else "found"
    turns = [*row.messages, *(row.chosen or []), *(row.rejected or [])]
    empty = (turn["role"] == "assistant" and not said(turn).strip() and not turn.get("tool_calls") for turn in turns)
    return "found" if any(empty) else ""


def _no_question(utterance: Utterance) -> str:
    row = utterance.row
    asked = any(turn["role"] in ("user", "tool") for turn in row.messages)
    return "found" if row.kind in ("preference", "feedback", "scored", "prompt") and not asked else ""


def _order(utterance: Utterance) -> str:
    """The first thing that is odd in the order of turns."""
    row, turns = utterance.row, _spoken(utterance.row)
    if row.kind == "text" or not turns:
        return ""
    if row.kind == "conversation" and turns[0]["role"] == "assistant":
        return "begins with an answer"
    called = False
    for before, turn in zip([None, *turns], turns, strict=False):
        if turn["role"] == "tool" and not called:
            return "a result of a tool that nobody called"
        if before and before["role"] == turn["role"] == "user":
            return "two questions in a row"
        if before and before["role"] == turn["role"] == "assistant" and not (called or turn.get("tool_calls")):
            return "two answers in a row"
        called = bool(turn.get("tool_calls")) or (called and turn["role"] == "tool")
    if any(turn["role"] == "system" for turn in row.messages[1:]):
        return "a system text that is not the first"
    if row.kind == "conversation" and turns[-1]["role"] in ("user", "tool"):
        return "ends without an answer"
    return ""


def _unbalanced(utterance: Utterance) -> str:
    """Whether one side hardly speaks, as when the roles of a file are read wrongly."""
    if utterance.row.kind != "conversation":
        return ""
    roles = [turn["role"] for turn in utterance.row.messages if not turn.get("tool_calls")]
    asked, answered = roles.count("user"), roles.count("assistant")
    return "found" if len(roles) > 3 and max(asked, answered) > 2 * min(asked, answered) + 1 else ""


REACT = re.compile(r"^Action: *([\w.-]+)\s*\nAction Input: *(\{.*?\})\s*$", re.DOTALL | re.MULTILINE)


class Written(NamedTuple):
    """A tool call as an answer holds it in its text: where it stands, and what it says."""

    start: int
    end: int
    said: str


def written_calls(text: str) -> list[Written]:
    """The tool calls that an answer holds as text."""
    if "{" not in text and "<tool_call>" not in text:
        return []
    found = [Written(*match.span(), match.group(1)) for match in WRITTEN.finditer(text)]
    if not found and "Action Input:" in text:
        found = [
            Written(*match.span(), json.dumps({"name": match.group(1)})[:-1] + f', "arguments": {match.group(2)}}}')
            for match in REACT.finditer(text)
        ]
    if not found and "arguments" in text and (bare := BARE.match(text)):
        found = [Written(*bare.span(), bare.group(1))]
    return found


def lifted(turn: Message) -> Message:
    """The turn with the calls in its text made calls of their own; as it is, when one of them cannot be understood."""
    text = said(turn)
    written = written_calls(text)
    calls = [as_call(one.said) for one in written]
    if turn["role"] != "assistant" or not calls or not isinstance(turn["content"], str) or not all(calls):
        return turn
    for one in reversed(written):
        text = text[: one.start] + text[one.end :]
    return {**turn, "content": text.strip(), "tool_calls": [*(turn.get("tool_calls") or []), *calls]}


def trimmed(row: Row) -> list[Message]:
    """The messages without an answer that nothing was asked for at the start, and without questions at the end that
    nobody answers."""
    messages = list(row.messages)
    start = next((place for place, turn in enumerate(messages) if turn["role"] != "system"), 0)
    while len(messages) > start and messages[start]["role"] == "assistant":
        del messages[start]
    while messages and row.kind == "conversation" and messages[-1]["role"] != "assistant":
        messages.pop()
    return messages


def as_call(text: str) -> dict[str, Any] | None:
    """A tool call out of JSON, or of JSON that is broken in a way that can be mended in one way only; else None."""
    for form in (text, re.sub(r",(\s*[}\]])", r"\1", text), text + "}" * (text.count("{") - text.count("}"))):
        for read in (json.loads, ast.literal_eval):  # Python's own way of writing has other quotes and True for true
            try:
                value = read(form)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
            if call := _call(value):
                return call
    return None


def _call(value: Any) -> dict[str, Any] | None:
    if not isinstance(value, dict):
        return None
    value = value["function"] if isinstance(value.get("function"), dict) else value
    name, arguments = value.get("name"), value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return None
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return None
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def _texts(utterance: Utterance) -> Iterator[str]:
    for turn in [*utterance.row.messages, *(utterance.row.chosen or [])]:
        if turn["role"] == "assistant":
            yield said(turn)


def _is_json(text: str) -> bool:
    try:
        return _call(json.loads(text)) is not None
    except (ValueError, RecursionError):
        return False


def _written(sound: bool) -> Callable[[Utterance], str]:
    def sees(utterance: Utterance) -> str:
        calls = [call.said for text in _texts(utterance) for call in written_calls(text)]
        return "found" if calls and all(map(_is_json, calls)) == sound else ""

    return sees


def _undefined(utterance: Utterance) -> str:
    row = utterance.row
    called = [call["function"]["name"] for turn in _spoken(row) for call in turn.get("tool_calls") or []]
    if not called:
        return ""
    defined = {tool["function"]["name"] for tool in row.tools or []}
    return next((name[:40] for name in called if name not in defined), "") if defined else "none is defined"


RULES = (
    Rule("empty_question", "warning", "has an empty question", "have empty questions", _empty_question,
         "Write what is asked, or exclude these rows."),
    Rule("empty_answer", "warning", "has an empty answer", "have empty answers", _empty_answer,
         "Write the answer, or exclude these rows."),
    Rule("no_question", "warning", "has an answer and no question", "have answers and no question", _no_question,
         "Say which column holds the prompt, or exclude these rows."),
    Rule("order", "warning", "goes in an odd order", "go in an odd order", _order,
         "Many templates refuse them or join what does not belong together; mend or exclude them.", "trim", said=True),
    Rule("unbalanced", "note", "has one side that hardly speaks", "have one side that hardly speaks", _unbalanced,
         "Look whether the roles are read as they are meant."),
    Rule("broken_call", "warning", "has a tool call in its text that is not sound JSON",
         "have tool calls in their text that are not sound JSON", _written(False),
         "Mend it; where there is one way to, that is done for you.", "repair"),
    Rule("written_call", "note", "has a tool call written in its text", "have tool calls written in their text",
         _written(True), "Made a call of its own, each model's template can write it in its own way.", "repair"),
    Rule("undefined_tool", "warning", "calls a tool that it does not define", "call tools that they do not define",
         _undefined, "Add the definition to tools, or exclude these rows.", said=True),
)  # fmt: skip
