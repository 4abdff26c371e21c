"""Notations of tool calls that are not JSON: Python's, the XML of Qwen3-Coder and GLM, and Gemma 4's own.

Each has a writer from `(name, arguments)` pairs, and a reader that gives the pairs and what follows them, or raises
Unreadable or ValueError. Knows nothing of messages.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

Pairs = list[tuple[str, dict[str, Any]]]
Definitions = Sequence[Mapping[str, Any]] | None
CONSTANTS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}
QUOTE = '<|"|>'


class Unreadable(Exception):
    """The text is no tool call in this notation."""


# Python's notation: [find(name='Zürich', days=2), now()]


def write_python(pairs: Pairs) -> str:
    return "[" + ", ".join(f"{name}({', '.join(map(_keyword, arguments.items()))})" for name, arguments in pairs) + "]"


def _keyword(argument: tuple[str, Any]) -> str:
    name, value = argument
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
        return f"{name}='{escaped}'"
    nested = isinstance(value, (dict, list))
    return f"{name}={json.dumps(value, ensure_ascii=False) if nested else value}"


def read_python(text: str, tools: Definitions = None) -> tuple[Pairs, str]:
    """A list of calls that is the whole text."""
    body = _expression(text.strip())
    if not isinstance(body, ast.List) or not body.elts:
        raise Unreadable
    return [_python_call(call) for call in body.elts], ""


def read_lfm(text: str, tools: Definitions = None) -> tuple[Pairs, str]:
    """A list of calls between the tokens of LFM2."""
    listed, _, rest = text.removeprefix("<|tool_call_start|>").partition("<|tool_call_end|>")
    return read_python(listed)[0], rest


def keywords(text: str) -> dict[str, Any]:
    """The arguments of one call: `query="x", limit=2`."""
    return _python_call(_expression(f"call({text})"))[1]


def _expression(text: str) -> ast.expr:
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, MemoryError):  # the parser's own word for too deep
        raise Unreadable from None


def _python_call(node: ast.expr) -> tuple[str, dict[str, Any]]:
    if not isinstance(node, ast.Call) or node.args:
        raise Unreadable
    arguments = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise Unreadable
        arguments[keyword.arg] = ast.literal_eval(_Constants().visit(keyword.value))
    return ast.unparse(node.func), arguments


class _Constants(ast.NodeTransformer):
    """Takes JSON's true, false and null for Python's, as models mix the two."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id not in CONSTANTS:
            raise Unreadable
        return ast.Constant(CONSTANTS[node.id])


# XML with bare values: the type of a value comes from the tool's definition, or is guessed


def write_qwen(pairs: Pairs) -> str:
    written = []
    for name, arguments in pairs:
        fields = [f"<parameter={key}>\n{_bare(value, str(value))}\n</parameter>\n" for key, value in arguments.items()]
        written.append(f"<tool_call>\n<function={name}>\n{''.join(fields)}</function>\n</tool_call>")
    return "\n".join(written)


def read_qwen(text: str, tools: Definitions = None) -> tuple[Pairs, str]:
    pairs: Pairs = []
    call = re.compile(r"\s*<tool_call>\s*<function=([^>\n]+)>\s*?\n?(.*?)</function>\s*(?:</tool_call>|\Z)", re.DOTALL)
    field = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>\s*", re.DOTALL)
    while found := call.match(text):
        pairs.append((found.group(1), _fields(found.group(1), field, found.group(2), tools)))
        text = text[found.end() :]
    return _all(pairs, text, "<tool_call>")


def write_glm(pairs: Pairs) -> str:
    written = []
    for name, arguments in pairs:
        fields = [
            f"<arg_key>{key}</arg_key>\n<arg_value>{_bare(value, json.dumps(value))}</arg_value>\n"
            for key, value in arguments.items()
        ]
        written.append(f"<tool_call>{name}\n{''.join(fields)}</tool_call>")
    return "\n".join(written)


def read_glm(text: str, tools: Definitions = None) -> tuple[Pairs, str]:
    pairs: Pairs = []
    call = re.compile(r"\s*<tool_call>\s*([^<\n]+?)\s*(<arg_key>.*?)?\s*</tool_call>", re.DOTALL)
    field = re.compile(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>\s*", re.DOTALL)
    while found := call.match(text):
        pairs.append((found.group(1), _fields(found.group(1), field, found.group(2) or "", tools)))
        text = text[found.end() :]
    return _all(pairs, text, "<tool_call>")


def _all(pairs: Pairs, rest: str, opening: str) -> tuple[Pairs, str]:
    if not pairs or opening in rest:
        raise Unreadable
    return pairs, rest


def _bare(value: Any, plain: str) -> str:
    """Text as it stands, lists and objects as JSON, and the rest as `plain`."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else plain


def _fields(name: str, field: re.Pattern[str], text: str, tools: Definitions) -> dict[str, Any]:
    types = _types(name, tools)
    arguments, end = {}, 0
    while found := field.match(text, end):
        key, value = found.groups()
        arguments[key] = value if types.get(key) == "string" else _guessed(value)
        end = found.end()
    if text[end:].strip():
        raise Unreadable
    return arguments


def _types(name: str, tools: Definitions) -> dict[str, Any]:
    for tool in tools or []:
        function = tool.get("function", tool)
        if function.get("name") == name:
            properties = (function.get("parameters") or {}).get("properties") or {}
            return {key: spec.get("type") for key, spec in properties.items() if isinstance(spec, dict)}
    return {}


def _guessed(value: str) -> Any:
    if value in CONSTANTS:
        return CONSTANTS[value]
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


# Gemma 4: call:find{days:2,name:<|"|>Zürich<|"|>}, keys sorted


def write_gemma(pairs: Pairs) -> str:
    return "".join(f"<|tool_call>call:{name}{_gemma(arguments)}<tool_call|>" for name, arguments in pairs)


def _gemma(value: Any) -> str:
    if isinstance(value, str):
        return QUOTE + value + QUOTE
    if isinstance(value, dict):
        ordered = sorted(value.items(), key=lambda item: item[0].lower())
        return "{" + ",".join(f"{key}:{_gemma(inner)}" for key, inner in ordered) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_gemma, value)) + "]"
    return json.dumps(value)


def read_gemma(text: str, tools: Definitions = None) -> tuple[Pairs, str]:
    pairs: Pairs = []
    while found := re.match(r"\s*<\|tool_call>call:([^{\s]+)(?=\{)", text):
        arguments, text = _gemma_value(text[found.end() :])
        pairs.append((found.group(1), arguments))
        text = text.removeprefix("<tool_call|>")
    return _all(pairs, text, "<|tool_call>")


def _gemma_value(text: str) -> tuple[Any, str]:
    if text.startswith(QUOTE):
        value, found, rest = text[len(QUOTE) :].partition(QUOTE)
        if not found:
            raise Unreadable
        return value, rest
    if text.startswith("{"):
        return _gemma_object(text[1:])
    if text.startswith("["):
        return _gemma_list(text[1:])
    plain = re.match(r"[^,{}\[\]]+", text)
    if not plain:
        raise Unreadable
    return json.loads(plain.group()), text[plain.end() :]


def _gemma_object(text: str) -> tuple[dict[str, Any], str]:
    value: dict[str, Any] = {}
    while not text.startswith("}"):
        key, found, text = text.partition(":")
        if not found:
            raise Unreadable
        value[key.replace(QUOTE, "")], text = _gemma_value(text)
        text = _comma(text, "}")
    return value, text[1:]


def _gemma_list(text: str) -> tuple[list[Any], str]:
    values = []
    while not text.startswith("]"):
        value, text = _gemma_value(text)
        values.append(value)
        text = _comma(text, "]")
    return values, text[1:]


def _comma(text: str, closing: str) -> str:
    if text.startswith(",") and not text.startswith("," + closing):
        return text[1:]
    if not text.startswith(closing):
        raise Unreadable
    return text
