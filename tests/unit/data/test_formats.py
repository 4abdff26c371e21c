"""Any file in: reading records, recognising their format, and naming what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from data.reading.files import count, read
from data.rows.formats import FORMATS, load, recognise, restored, settled
from data.rows.formats import row as made_of
from engine.contract.errors import DataError

ASKED = {"role": "user", "content": "Who?"}
PARTS = [{"type": "text", "text": "Wh"}, {"type": "text", "value": "o?"}]
SAID = {"role": "assistant", "content": "Me."}


def lines(path: Path, *records: object) -> Path:
    path.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in records), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("format", "record"),
    [
        ("messages", {"messages": [ASKED, SAID]}),
        ("messages", {"conversations": [ASKED, SAID]}),
        ("messages", {"messages": [{"role": "user", "content": PARTS}, SAID]}),
        ("messages", {"messages": json.dumps([ASKED, SAID])}),
        ("sharegpt", {"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Me."}]}),
        ("sharegpt", {"conversation": [{"from": "user", "value": "Who?"}, {"from": "assistant", "value": "Me."}]}),
        ("firefly", {"conversation_id": 1, "conversation": [{"human": "Who?", "assistant": "Me."}]}),
        ("alpaca", {"instruction": "Who?", "input": "", "output": "Me."}),
        ("alpaca", {"instruction": "Who?", "response": "Me."}),
        ("prompt_completion", {"prompt": "Who?", "completion": "Me."}),
        ("question_answer", {"question": "Who?", "answer": "Me."}),
        ("prompt_completion", {"prompt": [ASKED], "completion": [SAID]}),
        ("prompt_completion", {"input": ["Who?"], "output": ["Me."]}),
    ],
)  # fmt: skip
def test_each_format_is_recognised_and_means_the_same(tmp_path, format, record):
    assert recognise([record]).format == format
    [row] = load(lines(tmp_path / "a.jsonl", record))
    assert row.messages == [ASKED, SAID]
    assert (row.tools, row.number, Path(row.file).name) == (None, 1, "a.jsonl")


def test_system_and_history_come_before_the_question(tmp_path):
    record = {"instruction": "c", "input": "d", "output": "e", "system": "s", "history": [["a", "b"]]}
    [row] = load(lines(tmp_path / "a.jsonl", record))
    said = [(message["role"], message["content"]) for message in row.messages]
    assert said == [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c\nd"), ("assistant", "e")]


def test_tool_calls_take_one_form_whatever_the_file_calls_them(tmp_path):
    arguments = {"city": "Bern"}
    told = {"name": "weather", "parameters": {}}
    call = {"name": "weather", "arguments": arguments}
    records = [
        {"conversations": [{"from": "human", "value": "Who?"}, {"from": "function_call", "value": json.dumps(call)},
                           {"from": "observation", "value": "sun"}, {"from": "gpt", "value": "Me."}],
         "tools": json.dumps([told])},
        {"messages": [ASKED, {"role": "assistant", "content": None, "tool_calls": [
            {"type": "function", "function": {**call, "arguments": json.dumps(arguments)}}]},
            {"role": "tool", "content": "sun"}, SAID], "tools": [{"type": "function", "function": told}]},
        {"messages": [ASKED, {"role": "assistant", "content": [{"type": "tool_call", "value": json.dumps(call)}]},
                      {"role": "tool", "content": "sun"}, SAID], "tools": json.dumps([told])},
    ]  # fmt: skip
    rows = [load(lines(tmp_path / f"{index}.jsonl", record))[0] for index, record in enumerate(records)]
    wanted = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]}
    for row in rows:
        assert row.messages == [ASKED, wanted, {"role": "tool", "content": "sun"}, SAID]
        assert row.tools == [{"type": "function", "function": told}]


def test_thoughts_are_kept_under_one_name(tmp_path):
    parts = [{"type": "reasoning", "value": "hm"}, {"type": "text", "value": "Me."}]
    records = [{"messages": [ASKED, {**SAID, "thinking": "hm"}]}, {"messages": [ASKED, {**SAID, "content": parts}]}]
    for row in load(lines(tmp_path / "a.jsonl", *records)):
        assert row.messages[1] == {**SAID, "reasoning_content": "hm"}


def test_fill_replaces_placeholders_and_nothing_else(tmp_path):
    path = lines(tmp_path / "a.jsonl", {"prompt": "{{ name }} {name}", "completion": "I am {{name}} by {{author}}."})
    [row] = load(path, fill={"name": "Tuney{{author}}", "author": r"\1"})
    assert [message["content"] for message in row.messages][0] == "{{ name }} {name}"
    assert row.messages[1]["content"] == r"I am Tuney\1 by \1."
    [row] = load(path)
    assert "{{name}}" in row.messages[1]["content"]


def test_all_bad_rows_are_named_at_once(tmp_path):
    good = {"messages": [ASKED, SAID]}
    bad = [
        {"messages": [ASKED, {**SAID, "content": " "}]},
        {"messages": [{"role": "owner", "content": "x"}, SAID]},
        {"messages": [ASKED]},
        {"messages": [ASKED, {**SAID, "content": {"a": 1}}]},
        {"messages": [ASKED, SAID], "audios": ["a.wav"]},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, SAID]},
        {"messages": [ASKED, SAID], "tools": "[{"},
        {"messages": "soon"},
    ]
    with pytest.raises(DataError) as caught:
        load(lines(tmp_path / "a.jsonl", *[good] * 20, *bad * 2))
    text = caught.value.text
    assert "16 of 36 rows cannot be used as messages" in text
    for number, what in enumerate(
        ["answer of the assistant is empty", "role 'owner' is not known", "nothing is said by the assistant",
         "must be text, not dict", "column audios holds sound", "ask for a picture, but there are 0",
         "tools is not valid JSON", "list of objects"],
        start=21,
    ):  # fmt: skip
        assert f"row {number}: " in text and what in text
    assert "row 31" not in text and "and 6 more" in text


def test_a_file_without_a_known_format_lists_its_columns_and_the_formats(tmp_path):
    with pytest.raises(DataError) as caught:
        load(lines(tmp_path / "a.jsonl", {"better": "a", "worse": "b"}))
    assert "better, worse" in caught.value.text
    assert all(name in caught.value.text for name in FORMATS)


def test_an_unknown_format_lists_those_there_are(tmp_path):
    with pytest.raises(DataError, match="'alpacca' is not known.*alpaca"):
        load(lines(tmp_path / "a.jsonl", {"prompt": "a", "completion": "b"}), "alpacca")


@pytest.mark.shared
@pytest.mark.parametrize(
    ("file", "format", "rows"),
    [
        ("instruct/identity.json", "alpaca", 91),
        ("instruct/dolly_sample.json", "alpaca", 12),
        ("instruct/wwdc25_prompt_completion.jsonl", "prompt_completion", 144),
        ("formats/alpaca.csv", "alpaca", 3),
        ("formats/alpaca.jsonl", "alpaca", 3),
        ("formats/alpaca2.csv", "alpaca", 3),
        ("formats/chat_tiny.json", "sharegpt", 1),
        ("formats/chatml.jsonl", "messages", 3),
        ("formats/conversations.jsonl", "sharegpt", 3),
        ("formats/sharegpt.jsonl", "firefly", 3),
        ("formats/swift_single.csv", "prompt_completion", 3),
        ("multiturn/chinese_vicuna_chat_sample.jsonl", "prompt_completion", 3),
        ("multiturn/chinese_vicuna_instruct_sample.jsonl", "alpaca", 10),
        ("multiturn/fastchat_dummy_conversation.json", "sharegpt", 500),
        ("messages/v1_sft_demo.jsonl", "messages", 500),
        ("messages/reason_tool_use_demo_50.jsonl", "messages", 50),
        ("toolcall/glaive_toolcall_zh_demo.json", "sharegpt", 300),
    ],
)  # fmt: skip
def test_real_files_open_with_the_right_format(shared, file, format, rows):
    assert recognise(found.record for found in read(shared / file)).format == format
    assert len(load(shared / file)) == rows == count(shared / file)


COLUMNS = ["messages", "conversations", "conversation", "instruction", "input", "output", "prompt", "completion",
           "system", "history", "tools", "role", "content", "from", "value", "human", "assistant", "tool_calls", "type",
           "text", "function", "name", "arguments", "reasoning", "id", "images", "chosen", "rejected", "label", "score",
           "question", "answer", "choices", "options", "sql", "schema", "turns", "instances", "video", "url", "weight",
           "bytes", "image_url", "A.B", "Answer"]  # fmt: skip
ANYTHING = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=5)
    | some.sampled_from(["user", "assistant", "tool", "function_call", "[{}]", "[1]", '{"name": "x"}', "text",
                         "<image> a", "<img>a.png</img>", "image", "select 1", "A", "\n\nHuman: a\n\nAssistant: b"]),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.sampled_from(COLUMNS), inner, max_size=5),
    max_leaves=12,
)  # fmt: skip
TURN = some.fixed_dictionaries(
    {"role": some.sampled_from(["user", "assistant", "tool"]), "content": some.just("hi") | ANYTHING},
    optional={"tool_calls": ANYTHING, "reasoning": ANYTHING, "name": ANYTHING, "weight": ANYTHING},
)
TURNS = some.lists(TURN, min_size=1, max_size=4)
AROUND = {"system": ANYTHING, "history": ANYTHING, "tools": ANYTHING, "images": ANYTHING, "more": ANYTHING}
SIDE = some.text(max_size=4) | TURNS | ANYTHING
RECORD = some.one_of(
    some.fixed_dictionaries({"messages": TURNS}, optional={**AROUND, "label": ANYTHING, "score": ANYTHING}),
    some.fixed_dictionaries({"instruction": ANYTHING, "output": ANYTHING}, optional=AROUND),
    some.fixed_dictionaries({"prompt": SIDE, "completion": SIDE}, optional={**AROUND, "label": some.booleans()}),
    some.fixed_dictionaries({"chosen": SIDE, "rejected": SIDE}, optional={**AROUND, "prompt": SIDE}),
    some.fixed_dictionaries({"question": ANYTHING, "answer": ANYTHING, "choices": ANYTHING}, optional=AROUND),
    some.dictionaries(some.sampled_from(COLUMNS), ANYTHING, min_size=1, max_size=6),
)


@settings(max_examples=600, deadline=None)
@given(RECORD, some.sampled_from([*FORMATS, "auto"]))
def test_whatever_a_record_holds_it_becomes_a_row_that_comes_back_the_same_or_a_sentence(record, format):
    try:
        mapping = settled(format, [record])
        made = made_of(record, mapping, "a.jsonl", 1, {"name": "Tuney"})
    except DataError as problem:
        assert problem.text
        return
    written = json.dumps(made.record(), allow_nan=False)
    assert restored(json.loads(written), made.kind, "a.jsonl", 1) == made
    for message in [*made.messages, *(made.chosen or []), *(made.rejected or [])]:
        assert message["role"] in ("system", "user", "assistant", "tool")
        assert isinstance(message["content"], str) or all("type" in part for part in message["content"])
        assert all(isinstance(call["function"]["name"], str) for call in message.get("tool_calls", []))


def test_what_is_wrong_with_many_rows_is_said_once(tmp_path):
    called = {"function": {"name": "f", "arguments": "{broken"}}
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "", "tool_calls": [called]}]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps({"messages": turns}) + "\n" for _ in range(3)) + "{}\n")
    with pytest.raises(DataError) as caught:
        load(file)
    lines = caught.value.text.splitlines()[1:]
    assert lines[0] == "  rows 1, 2, 3: the argument object of a tool call is not valid JSON: '{broken'."
    assert lines[1].startswith("  row 4: ")
