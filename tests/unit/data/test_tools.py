"""Tool calls survive being written and read in every family's form, and no output of a model makes the reader fall."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.encoding.tools import formats, parse, write
from engine.contract.errors import DataError

GOLDENS = Path(__file__).resolve().parents[2] / "template_goldens"
CONVERSATIONS = json.loads((GOLDENS / "conversations.json").read_text(encoding="utf-8"))
TYPES = {"city": "string", "days": "integer", "exact": "boolean", "none": "null", "area": "object", "tags": "array"}
TOOL = {"function": {"name": "weather", "parameters": {"properties": {key: {"type": TYPES[key]} for key in TYPES}}}}
NESTED = {
    "city": "Zürich 🌧 \"quoted\" 'single' \\n {braces} [brackets]",
    "days": -2,
    "exact": True,
    "none": None,
    "area": {"corners": [[1, 2.5], []], "名": {"é": False}},
    "tags": ["a, b", "5", ""],
}


def call(name: str, arguments: dict, **more: str) -> dict:
    return {**more, "type": "function", "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize("format", formats())
@pytest.mark.parametrize(
    "calls",
    [
        [call("weather", NESTED)],
        [call("weather", {"city": "北京"}), call("weather", {"city": "Bern", "days": 3}), call("now", {})],
        [call("now", {})],
        [call("find-place_2", {"city": "5"}), call("weather", {"city": "5"})],
    ],
    ids=["nested", "parallel", "no arguments", "text that looks like a number"],
)
def test_calls_survive_a_round_trip(format, calls):
    if format in ("pythonic", "lfm2"):
        calls = [call(one["function"]["name"].replace("-", "_"), one["function"]["arguments"]) for one in calls]
    named = [TOOL, {"function": {**TOOL["function"], "name": "find-place_2"}}]
    assert parse(write(calls, format), format, named) == ("", calls)


@pytest.mark.parametrize("format", sorted(set(formats()) - {"llama3", "glm4", "pythonic"}))
def test_text_around_calls_is_kept(format):
    calls = [call("weather", {"city": "Bern"})]
    assert parse("I look.\n" + write(calls, format), format, [TOOL]) == ("I look.", calls)


@pytest.mark.parametrize("format", ["mistral", "mistral_v3"])
def test_ids_are_kept_where_the_form_has_them(format):
    calls = [call("weather", {"city": "Bern"}, id="a1b2c3d4e"), call("now", {}, id="f5g6h7i8j")]
    assert parse(write(calls, format), format) == ("", calls)


@pytest.mark.parametrize("format", formats())
@pytest.mark.parametrize(
    "text", ["", "Hello, 世界.", "A list: [1, 2] and {3}", "```json\n[]\n```", "<think>\nx</think>y"]
)
def test_plain_text_stays_text(format, text):
    assert parse(text, format) == (text, [])
    assert write([], format) == ""


@pytest.mark.parametrize("format", formats())
def test_broken_calls_stay_text(format):
    written = write([call("weather", NESTED), call("now", {"city": "x"})], format)
    for end in range(len(written)):
        content, calls = parse(written[:end], format, [TOOL])
        # what was read whole may be given, never half a value
        assert calls or content == written[:end]
        assert all(one["function"]["arguments"] in (NESTED, {"city": "x"}) for one in calls)


@pytest.mark.parametrize("format", formats())
@given(data=st.data())
def test_no_output_makes_the_reader_fall(format, data):
    written = write([call("weather", {"city": "Bern", "tags": [1]})], format)
    cut = data.draw(st.integers(0, len(written)))
    text = written[:cut] + data.draw(st.text(max_size=20)) + written[cut + data.draw(st.integers(0, 5)) :]
    content, calls = parse(text, format, [TOOL])
    assert isinstance(content, str) and all(isinstance(one["function"]["arguments"], dict) for one in calls)


@pytest.mark.parametrize("format", formats())
def test_deep_nesting_stays_text(format):
    for deep in ("[" * 100_000, '{"a":' * 100_000, "(" * 10_000):
        text = write([call("weather", {"city": "DEEP"})], format).replace("DEEP", deep).replace("{", deep + "{", 1)
        content, calls = parse(text, format)
        assert isinstance(content, str) and isinstance(calls, list)


@pytest.mark.parametrize(
    ("text", "format", "expected"),
    [
        ('{"name": "f", "arguments": {"a": 1}}', "llama3", call("f", {"a": 1})),
        ('<|python_tag|>brave_search.call(query="x y")', "llama3", call("brave_search", {"query": "x y"})),
        ('<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', "hermes", call("f", {"a": 1})),
        ('<tool_call>\n{"name": "f", "arguments": {"a": 1}}', "hermes", call("f", {"a": 1})),
        ('<tool_call>{"name": "f", "arguments": {"a": "</tool_call>"}}', "hermes", call("f", {"a": "</tool_call>"})),
        ("[f(a=true, b=None)]", "pythonic", call("f", {"a": True, "b": None})),
        (
            "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"a\": 1}<|call|>",
            "harmony", call("f", {"a": 1}),
        ),
        ('Action: ```json\n[{"tool_name": "f", "parameters": {}}]\n```', "command_r", call("f", {})),
    ],
)  # fmt: skip
def test_what_models_also_write_is_read(text, format, expected):
    assert parse(text, format) == ("", [expected])


def test_code_in_pythonic_calls_is_not_run():
    for text in ("[f(a=open('x'))]", "[f(*x)]", "[f(**x)]", "[f(1)]", "[f(a=b)]", "[1, f()]", "[f(a=1+2)]"):
        assert parse(text, "pythonic") == (text, [])


def test_an_unknown_format_is_a_sentence():
    with pytest.raises(DataError, match="no tool format 'xml'"):
        parse("", "xml")
