"""Writes tool calls as each family of models does, and reads them back from what a model has said.

A call is a message's `tool_calls` entry: `{"type": "function", "function": {"name": str, "arguments": dict}}`, with an
`id` where there is one. Knows nothing of templates, roles or tokens, and never raises on the output of a model: what is
not a well-formed call stays text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.encoding import notation
from data.encoding.notation import Unreadable
from engine.contract.errors import DataError

Call = dict[str, Any]
Definitions = Sequence[Mapping[str, Any]] | None
FENCE = "```"
BEGIN, END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL_BEGIN, SEPARATOR, CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
HARMONY = re.compile(
    r"(?:<\|start\|>assistant)?(?:<\|channel\|>commentary)? ?to=functions\.([\w.-]+)[^{]*?<\|message\|>", re.DOTALL
)


@dataclass(frozen=True)
class _Format:
    """How calls are written, where the first may begin, and how the text from there on is read."""

    write: Callable[[Sequence[Call]], str]
    start: re.Pattern[str]
    read: Callable[[str, Definitions], tuple[list[Call], str]]  # gives what follows the calls too


def formats() -> list[str]:
    """The names that `parse` and `write` take; `templates/templates.yaml` says which family uses which."""
    return sorted(FORMATS)


def write(calls: Sequence[Call], format: str) -> str:
    """The calls as the model says them, without the token that ends its turn."""
    return _format(format).write(calls) if calls else ""


def parse(text: str, format: str, tools: Definitions = None) -> tuple[str, list[Call]]:
    """The text outside the calls, and the calls; the whole text and no calls where they cannot be read.

    Formats that do not quote text (qwen3_xml, glm4_xml) need the definitions in `tools` to tell the text 5 from the
    number 5.
    """
    form = _format(format)
    found = form.start.search(text)
    if not found:
        return text, []
    try:
        calls, rest = form.read(text[found.start() :], tools)
    except (Unreadable, ValueError, RecursionError):
        return text, []
    before, after = text[: found.start()].rstrip(), rest.strip()
    return before + ("\n" if before and after else "") + after, calls


def _format(name: str) -> _Format:
    if name not in FORMATS:
        raise DataError(f"there is no tool format {name!r}.", f"Choose one of {', '.join(formats())}.")
    return FORMATS[name]


def _call(name: Any, arguments: Any, id: Any = None) -> Call:
    if not isinstance(name, str) or not name:
        raise Unreadable
    if isinstance(arguments, str):  # some models quote the object once more
        arguments = json.loads(arguments)
    if not isinstance(arguments, dict):
        raise Unreadable
    named = {"id": id} if isinstance(id, str) else {}
    return {**named, "type": "function", "function": {"name": name, "arguments": arguments}}


def _from_object(value: Any) -> Call:
    if not isinstance(value, dict):
        raise Unreadable
    arguments = value.get("arguments", value.get("parameters", {}))
    return _call(value.get("name", value.get("tool_name")), {} if arguments is None else arguments, value.get("id"))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _object(call: Call, arguments: str = "arguments") -> str:
    function = call["function"]
    id = f', "id": {_json(call["id"])}' if "id" in call else ""
    return f'{{"name": {_json(function["name"])}, "{arguments}": {_json(function["arguments"])}{id}}}'


def _unnumbered(call: Call, arguments: str = "arguments") -> str:
    return _object({"function": call["function"]}, arguments)


def _take(text: str) -> tuple[Any, str]:
    """The JSON value at the beginning of the text, and what follows it."""
    text = text.lstrip()
    value, end = json.JSONDecoder(strict=False).raw_decode(text)
    return value, text[end:]


def _past(text: str, token: str) -> str:
    """What follows the token that the text must begin with; a text that has ended may lack its last token."""
    if text.startswith(token):
        return text[len(token) :]
    if text.strip():
        raise Unreadable
    return ""


def _tagged(opening: str, closing: str) -> Callable[[str, Definitions], tuple[list[Call], str]]:
    """A reader of objects, each between two tags."""

    def read(text: str, tools: Definitions) -> tuple[list[Call], str]:
        calls = []
        while text.lstrip().startswith(opening):
            value, text = _take(text.lstrip()[len(opening) :])
            calls.append(_from_object(value))
            text = _past(text.lstrip(), closing)
        return calls, text

    return read


def _list_behind(opening: str) -> Callable[[str, Definitions], tuple[list[Call], str]]:
    """A reader of a list of objects behind a tag."""

    def read(text: str, tools: Definitions) -> tuple[list[Call], str]:
        values, rest = _take(text[len(opening) :])
        if not isinstance(values, list) or not values:
            raise Unreadable
        return [_from_object(value) for value in values], rest

    return read


def _read_llama3(text: str, tools: Definitions) -> tuple[list[Call], str]:
    text = text.strip().removeprefix("<|python_tag|>").strip()
    if not text.startswith("{"):  # a built-in tool: name.call(argument="...")
        name, _, arguments = text.partition(".call(")
        return [_call(name, notation.keywords(arguments.removesuffix(")")))], ""
    calls = []
    while text:
        value, text = _take(text)
        if not isinstance(value, dict) or not {"parameters", "arguments"} & value.keys():
            raise Unreadable
        calls.append(_from_object(value))
        text = text.strip().removeprefix(";").strip()
    return calls, ""


def _write_deepseek(calls: Sequence[Call]) -> str:
    written = [
        f"{CALL_BEGIN}function{SEPARATOR}{call['function']['name']}\n{FENCE}json\n"
        f"{_json(call['function']['arguments'])}\n{FENCE}{CALL_END}"
        for call in calls
    ]
    return BEGIN + "\n".join(written) + END


def _write_deepseek_v3_1(calls: Sequence[Call]) -> str:
    functions = [call["function"] for call in calls]
    written = [f"{CALL_BEGIN}{call['name']}{SEPARATOR}{_json(call['arguments'])}{CALL_END}" for call in functions]
    return BEGIN + "".join(written) + END


def _read_deepseek(text: str, tools: Definitions) -> tuple[list[Call], str]:
    """Both forms: the newer one has no type, no fence and the name before the separator."""
    calls, text = [], text[len(BEGIN) :].lstrip()
    while text.startswith(CALL_BEGIN):
        first, found, text = text[len(CALL_BEGIN) :].partition(SEPARATOR)
        fenced = re.match(rf"([^\n{{]*)\n{FENCE}json\n", text)
        name = fenced.group(1) if fenced else first
        arguments, text = _take(text[fenced.end() :] if fenced else text)
        if not found:
            raise Unreadable
        calls.append(_call(name.strip(), arguments))
        text = text.lstrip().removeprefix(FENCE) if fenced else text
        text = _past(text.lstrip(), CALL_END).lstrip()
    if not calls:
        raise Unreadable
    return calls, _past(text, END)


def _read_glm4(text: str, tools: Definitions) -> tuple[list[Call], str]:
    calls = []
    for part in text.split("<|assistant|>"):
        name, _, arguments = part.strip().partition("\n")
        value, rest = _take(arguments)
        if rest.strip():
            raise Unreadable
        calls.append(_call(name.strip(), value))
    return calls, ""


def _write_command_r(calls: Sequence[Call]) -> str:
    listed = [{"tool_name": call["function"]["name"], "parameters": call["function"]["arguments"]} for call in calls]
    written = json.dumps(listed, ensure_ascii=False, indent=4)
    return f"Action:\n{FENCE}json\n{written}{FENCE}"


def _read_command_r(text: str, tools: Definitions) -> tuple[list[Call], str]:
    values, rest = _take(text[text.index("[") :])
    rest = rest.strip().removeprefix(FENCE)
    # this pseudo tool says that none is called
    return [_from_object(value) for value in values if value.get("tool_name") != "directly-answer"], rest


def _write_harmony(calls: Sequence[Call]) -> str:
    functions = [call["function"] for call in calls]
    return "<|start|>assistant".join(
        f" to=functions.{call['name']}<|channel|>commentary json<|message|>{_json(call['arguments'])}<|call|>"
        for call in functions
    )


def _read_harmony(text: str, tools: Definitions) -> tuple[list[Call], str]:
    calls = []
    while found := HARMONY.match(text):
        arguments, text = _take(text[found.end() :])
        calls.append(_call(found.group(1), arguments))
        text = _past(text, "<|call|>")
    return calls, text


def _notated(read: Callable[[str, Definitions], tuple[list[tuple[str, dict[str, Any]]], str]]) -> Any:
    """A reader of this module from one of `notation`, which knows names and arguments only."""

    def reader(text: str, tools: Definitions) -> tuple[list[Call], str]:
        pairs, rest = read(text, tools)
        return [_call(name, arguments) for name, arguments in pairs], rest

    return reader


def _pairs(write: Callable[[list[tuple[str, dict[str, Any]]]], str]) -> Callable[[Sequence[Call]], str]:
    return lambda calls: write([(call["function"]["name"], call["function"]["arguments"]) for call in calls])


FORMATS = {
    "hermes": _Format(
        lambda calls: "\n".join(f"<tool_call>\n{_unnumbered(call)}\n</tool_call>" for call in calls),
        re.compile(r"<tool_call>"), _tagged("<tool_call>", "</tool_call>"),
    ),
    "granite": _Format(
        lambda calls: "<|tool_call|>[" + ", ".join(map(_unnumbered, calls)) + "]",
        re.compile(r"<\|tool_call\|>"), _list_behind("<|tool_call|>"),
    ),
    "mistral": _Format(
        lambda calls: "[TOOL_CALLS][" + ", ".join(map(_object, calls)) + "]",
        re.compile(r"\[TOOL_CALLS\]"), _list_behind("[TOOL_CALLS]"),
    ),
    "mistral_v3": _Format(
        lambda calls: "[TOOL_CALLS] [" + ", ".join(map(_object, calls)) + "]",
        re.compile(r"\[TOOL_CALLS\]"), _list_behind("[TOOL_CALLS]"),
    ),
    "phi4_mini": _Format(
        lambda calls: "functools[" + ", ".join(map(_unnumbered, calls)) + "]",
        re.compile(r"functools(?=\[)"), _list_behind("functools"),
    ),
    "internlm": _Format(
        lambda calls: "".join(
            f"<|action_start|><|plugin|>\n{_unnumbered(call, 'parameters')}<|action_end|>" for call in calls
        ),
        re.compile(r"<\|action_start\|><\|plugin\|>"), _tagged("<|action_start|><|plugin|>", "<|action_end|>"),
    ),
    "llama3": _Format(
        lambda calls: "; ".join(_unnumbered(call, "parameters") for call in calls),
        re.compile(r"\A\s*\{|<\|python_tag\|>"), _read_llama3,
    ),
    "deepseek": _Format(_write_deepseek, re.compile(BEGIN), _read_deepseek),
    "deepseek_v3_1": _Format(_write_deepseek_v3_1, re.compile(BEGIN), _read_deepseek),
    "glm4": _Format(
        lambda calls: "<|assistant|>".join(
            f"{call['function']['name']}\n{_json(call['function']['arguments'])}" for call in calls
        ),
        re.compile(r"\A\s*[\w.-]+\n\{"), _read_glm4,
    ),
    "command_r": _Format(_write_command_r, re.compile(r"Action:\s*(?:```json)?\s*\["), _read_command_r),
    "harmony": _Format(_write_harmony, HARMONY, _read_harmony),
    "qwen3_xml": _Format(
        _pairs(notation.write_qwen), re.compile(r"<tool_call>\s*<function="), _notated(notation.read_qwen)
    ),
    "glm4_xml": _Format(_pairs(notation.write_glm), re.compile(r"<tool_call>"), _notated(notation.read_glm)),
    "gemma4": _Format(_pairs(notation.write_gemma), re.compile(r"<\|tool_call>call:"), _notated(notation.read_gemma)),
    "lfm2": _Format(
        lambda calls: f"<|tool_call_start|>{_pairs(notation.write_python)(calls)}<|tool_call_end|>",
        re.compile(r"<\|tool_call_start\|>"), _notated(notation.read_lfm),
    ),
    "pythonic": _Format(
        _pairs(notation.write_python), re.compile(r"\A\s*\[\s*[\w.]+\("), _notated(notation.read_python)
    ),
}  # fmt: skip
