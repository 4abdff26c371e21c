"""What is wrong or odd in rows is found and named, and nothing is in rows that are sound."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.review import findings
from data.rows import formats
from data.rows.conversation import Row

SAMPLES = Path(formats.__file__).parents[1] / "samples"
TOPICS = "tides rivers clouds glaciers deserts forests volcanoes lakes islands caves winds storms".split()


def chat(number: int, *said: str, **more) -> Row:
    """A conversation: question, answer, question, ..."""
    turns = [{"role": "assistant" if place % 2 else "user", "content": text} for place, text in enumerate(said)]
    return Row(turns, more.pop("tools", None), "rows.jsonl", number, **more)


def clean(count: int, start: int = 1) -> list[Row]:
    return [
        chat(number, f"What do you know about {TOPICS[number % 12]} in region {number}?",
             f"In region {number} the {TOPICS[number % 12]} are {number * 7} years old, and {TOPICS[number % 7]} too.")
        for number in range(start, start + count)
    ]  # fmt: skip


def pair(number: int, chosen: str, rejected: str, question: str = "") -> Row:
    better, worse = ([{"role": "assistant", "content": text}] for text in (chosen, rejected))
    asked = [{"role": "user", "content": question or f"Question {number}?"}]
    return Row(asked, None, "rows.jsonl", number, "preference", chosen=better, rejected=worse)


def found(rows) -> dict[str, findings.Finding]:
    return {finding.kind: finding for finding in findings.look(rows)}


def kinds_of(row: Row) -> dict[str, findings.Finding]:
    """What is found in one row among sound ones; all of it names that row alone."""
    seen = found([*clean(30), replace(row, number=99)])
    assert all(finding.rows == (99,) for finding in seen.values())
    return seen


def test_sound_rows_have_no_findings():
    assert found(clean(200)) == {} == found([])


@pytest.mark.parametrize("name", ["identity", "sql"])
def test_the_shipped_samples_are_sound(name):
    rows = list(formats.rows(SAMPLES / f"{name}.jsonl", fill={"name": "Tuney", "author": "the project"}))
    assert [finding for finding in findings.look(rows) if finding.level != "note"] == []


def test_exact_copies_are_named_but_the_first():
    seen = found([*clean(10), *(replace(row, number=row.number + 10) for row in clean(3))])
    assert list(seen) == ["duplicate"]
    assert seen["duplicate"].text == "3 rows are exact copies of earlier ones."
    assert (seen["duplicate"].rows, seen["duplicate"].fix) == ((11, 12, 13), "keep_first")


def test_a_column_such_as_an_id_makes_no_row_unlike_another():
    rows = [replace(row, number=n, extra={"id": n}) for n, row in enumerate([*clean(3), *clean(3)], start=1)]
    assert found(rows)["duplicate"].rows == (4, 5, 6)
    asked = [replace(row, messages=row.messages[:1], kind="prompt") for row in rows]
    assert "duplicate" not in found(asked)


def test_a_question_answered_twice_is_a_note():
    seen = found([*clean(10), chat(11, "What do you know about rivers in region 1?", "Nothing much, I fear.")])
    assert (seen["answers"].level, seen["answers"].rows) == ("note", (11,))


LONG = " ".join(f"{word} {other}" for word in TOPICS for other in TOPICS[:5])


@pytest.mark.parametrize("changed", [LONG.replace("caves rivers", "caves pools"), LONG.upper() + "!!"])
def test_rows_that_differ_by_a_word_are_nearly_the_same(changed):
    rows = [*clean(600), chat(700, LONG, f"Indeed: {LONG}"), *clean(10, 1000), chat(701, changed, f"Indeed: {LONG}")]
    seen = found(rows)
    assert seen["near_duplicate"].rows == (701,) and seen["near_duplicate"].count == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((LONG, "Seven."), (LONG, "Eleven.")),  # one long prompt, other answers
        ((LONG, LONG), (" ".join(reversed(LONG.split())), LONG)),
        (("What is 1+2?", "3"), ("What is 1-2?", "3")),
        (("Is it true?", "Yes."), ("Is it false?", "Yes.")),
    ],
)
def test_other_questions_or_answers_are_not_nearly_the_same(one, other):
    assert "near_duplicate" not in found([chat(1, *one), chat(2, *other)])


@pytest.mark.parametrize(
    ("turns", "what"),
    [
        ("assistant user assistant", "begins with an answer"),
        ("user user assistant", "two questions in a row"),
        ("user assistant assistant", "two answers in a row"),
        ("user assistant user", "ends without an answer"),
        ("user tool assistant", "a result of a tool that nobody called"),
        ("user assistant system user assistant", "a system text that is not the first"),
    ],
)
def test_an_odd_order_is_said(turns, what):
    said = [{"role": role, "content": f"Words {place}."} for place, role in enumerate(turns.split())]
    seen = kinds_of(Row(said, None, "rows.jsonl", 1))
    assert seen["order"].text == f"1 row goes in an odd order: {what} (1)."


def test_tools_that_are_called_in_turn_are_no_odd_order():
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What are 1 and 1, and 2 and 2?"},
        {"role": "assistant", "content": "I shall add."},
        {"role": "assistant", "content": "", "tool_calls": [call, call]},
        {"role": "tool", "content": "2"},
        {"role": "tool", "content": "4"},
        {"role": "assistant", "content": "Two and four."},
    ]
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    assert kinds_of(Row(turns, tools, "rows.jsonl", 1)) == {}
    assert "none is defined (1)" in kinds_of(Row(turns, None, "rows.jsonl", 1))["undefined_tool"].text
    other = [{"type": "function", "function": {"name": "subtract"}}]
    assert "add (1)" in kinds_of(Row(turns, other, "rows.jsonl", 1))["undefined_tool"].text


def test_calls_that_are_written_in_text_are_told_from_broken_ones():
    for sound in (
        '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>',
        'Action: add\nAction Input: {"a": 1}',
        '{"name": "add", "arguments": {"a": 1}}',
    ):
        assert set(kinds_of(chat(1, "What is 1 and 1?", sound))) == {"written_call"}
    broken = kinds_of(chat(1, "What is 1 and 1?", "<tool_call>{'name': 'add', 'arguments': {'a': 1,}</tool_call>"))
    assert set(broken) == {"broken_call"} and broken["broken_call"].level == "warning"
    assert kinds_of(chat(1, "Show me an object.", '{"name": "Ann", "age": 7}')) == {}


def test_one_side_that_hardly_speaks_is_a_note():
    said = [{"role": role, "content": f"Words {n}."} for n, role in enumerate(["user", *["assistant"] * 4])]
    assert "unbalanced" in kinds_of(Row(said, None, "rows.jsonl", 1))


@pytest.mark.parametrize(
    ("kind", "question", "answer"),
    [
        ("empty_question", " \n", "Here you are."),
        ("empty_answer", "What now?", " "),
        ("gap", "Who are you?", "I am {{name}}."),
        ("gap", "Write something.", "Lorem ipsum dolor sit amet."),
        ("stock", "What do you feel?", "As an AI language model, I have no feelings."),
        ("control", "What is a half?", "It is \x0crac{1}{2}."),
        ("garbled", "Où?", "Au cafÃ© prÃ¨s d’ici."),
        ("garbled", "Who?", "The heart â\x80\x94 of course."),
        ("lost", "Whose?", "My mother\ufffds."),
        ("tags", "What is new?", "Nothing<br>much &amp; so on."),
        ("languages", "What do you think of the weather today?", "今天的天气非常好，我们可以一起去公园散步。"),
        ("script", "今天的天气怎么样？我们可以一起去公园散步吗？", "今天的天气非常好，我们可以一起去公园散步。"),
        ("long", "Tell me all.", "All of it. " * 5000),
    ],
)  # fmt: skip
def test_what_a_row_should_not_hold_is_found(kind, question, answer):
    assert kind in kinds_of(chat(1, question, answer))


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("How is a step named in a workflow?", "Write `{{name}}`, or ${{ github.ref }}."),
        ("How do I make a line break in HTML?", "With <br>, as in one<br>two."),
        ("How do I print a table?", "```html\n<table></table>\n```"),
        ("Is 3 < 4 & 4 > 3?", "Yes, 3 < 4 & 4 > 3."),
        ("Où est le café à Genève, où l’on boit à l’été?", "À côté de la gare, à Genève: «Âme d’été», naïve et sûre."),
        ("Please translate to Chinese: How are you?", "你好吗？今天的天气非常好，我们可以一起去公园散步。"),
        ("用中文解释一下冒泡排序算法，谢谢。", "```python\ndef bubble_sort(values): ...\n```"),
        ("Leave a mark in the code.", "```python\n# TODO: later\n```"),
        ("Smile!", "😀 — it’s “done” … 3 €"),
    ],
)
def test_what_only_looks_alike_is_let_pass(question, answer):
    assert {finding.kind for finding in kinds_of(chat(1, question, answer)).values()} <= {"script"}


def test_a_set_of_translations_is_only_noted():
    rows = [
        chat(n, f"Number {n} is a nice one, is it not?", f"数字{n}是一个非常好的数字，我们都喜欢它。")
        for n in range(40)
    ]
    assert found(rows)["languages"].level == "note"


def test_pairs_are_looked_through():
    rows = [pair(n, f"A good answer, number {n}, and well put.", f"Bad {n}.") for n in range(1, 31)]
    bias = found(rows)["length_bias"]
    assert bias.level == "note" and "In 100% of 30 pairs the better answer is the longer one" in bias.text
    balanced = [row if row.number % 2 else replace(row, chosen=row.rejected, rejected=row.chosen) for row in rows]
    assert found(balanced) == {}
    assert found([*balanced, pair(40, "Same.", " Same.")])["equal_answers"].rows == (40,)
    turned = pair(41, "Bad 1.", "A good answer, number 1, and well put.", "question  1?")
    assert found([*balanced, turned])["contradiction"].rows == (1, 41)
    bare = replace(pair(42, "Yes, of course.", "No, never."), messages=[])
    assert found([*balanced, bare])["no_question"].rows == (42,)


def judged(number: int, answer: str, **verdict) -> Row:
    kind = "feedback" if "label" in verdict else "scored"
    return chat(number, f"Question {number % 100}?", answer, kind=kind, **verdict)


def test_labels_are_looked_through():
    rows = [judged(n, f"Answer {n}.", label=bool(n % 2)) for n in range(40)]
    assert found(rows) == {}
    seen = found([*rows, judged(107, "Answer 7.", label=False)])
    assert seen["contradiction"].rows == (7, 107)
    good = found([replace(row, label=True) for row in rows])
    assert good["balance"].text == "40 answers are labelled good and 0 bad."
    assert good["balance"].hint.endswith("add some of the other.")  # no weight makes something of nothing


def test_scores_that_are_all_the_same_are_said():
    rows = [judged(n, f"Answer {n}.", score=0.5) for n in range(40)]
    assert found(rows)["constant_score"].text == "All 40 rows have the same score (0.5)."
    assert found([*rows, judged(50, "Answer.", score=0.6)]) == {}


def test_plain_text_is_looked_through():
    rows = [Row([], None, "rows.txt", n, "text", text=f"The {TOPICS[n % 12]} of year {n}.") for n in range(40)]
    assert found(rows) == {}
    assert found([*rows, replace(rows[3], number=50)])["duplicate"].rows == (50,)


def test_rows_are_gone_through_once_and_findings_name_the_first_of_many():
    rows = (chat(n, f"What is {n}?", "I am {{name}}.") for n in range(1500))
    seen = found(rows)
    assert seen["gap"].count == 1500 and len(seen["gap"].rows) == 1000
    assert seen["gap"].text.startswith("1,500 rows have gaps")


def test_errors_and_warnings_come_before_notes():
    rows = [*clean(30), chat(50, "Hm?", "As an AI language model, {{name}}."), chat(51, "Hm?", "\x07"), clean(1)[0]]
    levels = [finding.level for finding in findings.look(rows)]
    assert levels == sorted(levels, key=findings.ORDER.index) and len(set(levels)) == 2


TEXTS = st.one_of(
    st.text(), st.sampled_from(["", " ", "\ud800", "<tool_call>{", "{" * 2000, "Ã©", "://a:b@", "1" * 500])
)
CONTENT = st.one_of(TEXTS, st.lists(st.builds(lambda text: {"type": "text", "text": text}, TEXTS), max_size=2))
CALLS = st.just([{"type": "function", "function": {"name": "add", "arguments": {"a": None}}}])
TURNS = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": CONTENT},
        optional={"tool_calls": CALLS, "reasoning_content": TEXTS},
    ),
    max_size=5,
)


@given(TURNS, TURNS, st.sampled_from(["conversation", "preference", "feedback", "scored", "prompt", "text"]), TEXTS)
def test_no_row_is_too_odd_to_be_looked_at(turns, answer, kind, text):
    row = Row(turns, None, "rows.jsonl", 1, kind)
    if kind == "text":
        row = replace(row, messages=[], text=text)
    if kind == "preference":
        row = replace(row, chosen=answer, rejected=turns[::-1])
    if kind in ("feedback", "scored"):
        row = replace(row, label=True, score=0.5)
    for finding in findings.look([row, replace(row, number=2)]):
        assert finding.count and set(finding.rows) <= {1, 2} and finding.text.endswith(".")


@pytest.mark.shared
def test_real_data_has_the_faults_it_has_and_no_others(shared):
    """Each judged by eye: warnings are real, and clean sets have none."""

    def warned(file: str) -> dict[str, tuple[int, ...]]:
        rows = formats.rows(shared / file, skipped=[])
        return {finding.kind: finding.rows for finding in findings.look(rows) if finding.level != "note"}

    assert warned("grpo/gsm8k_train_1000.jsonl") == {}
    assert warned("text2sql/dbgpt_example_text2sql.json") == {}
    assert warned("messages/reason_tool_use_demo_50.jsonl") == {}
    assert warned("bench/agieval/logiqa-zh.jsonl") == {}
    assert warned("preference/v1_dpo_demo.jsonl") == {}
    pairs = warned("preference/dpo_en_demo.json")
    assert pairs == {"control": (68, 287), "garbled": (16,), "duplicate": (158, 187, 231, 249, 276)}
    assert warned("preference/kto_en_demo.json") == {"garbled": (246, 260)}
    calls = warned("toolcall/glaive_toolcall_zh_demo.json")
    assert calls.pop("order") == (198, 294) and len(calls.pop("duplicate")) == 43
    assert calls == {"languages": (39, 237)}
