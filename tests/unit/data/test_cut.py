"""What is cut from rows that are too long is what was said to be, and it is counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from data.encoding.mask import tokenise
from data.encoding.prepare import CHUNK, UNTRAINED, Report, prepare, prepare_stream
from data.encoding.render import ChatTemplate
from data.encoding.tokens import TextTokenizer
from data.rows.conversation import Row
from engine.contract.errors import DataError
from tests.wording import CHATML, MARKED, byte_fallback, byte_level

TEMPLATES = {"by prefix": ChatTemplate("chatml", CHATML), "by markers": ChatTemplate("marked", MARKED)}
TEMPLATE = TEMPLATES["by prefix"]
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.fixture(scope="module")
def tokenizer():
    return TextTokenizer(byte_level(), {"eos_token": "</s>"})


def talk(*said: str, system: bool = True, number: int = 1) -> Row:
    """A conversation of questions and answers by turns."""
    turns = [{"role": "assistant" if place % 2 else "user", "content": text} for place, text in enumerate(said)]
    return Row([SYSTEM, *turns] if system else turns, None, "rows.jsonl", number)


def length(row: Row, tokenizer) -> int:
    return len(tokenise(row, TEMPLATE, tokenizer).ids)


def text(example, tokenizer) -> str:
    return tokenizer.decode(example.input_ids)


def trained(example, tokenizer) -> str:
    return tokenizer.decode([label for label in example.labels if label != UNTRAINED])


@pytest.mark.parametrize("name", TEMPLATES)
def test_without_its_oldest_turns_a_row_is_the_shorter_conversation(tokenizer, name):
    whole = talk("One?", "First.", "Two?", "Second.", "Three?", "Third.")
    for kept in (2, 4):
        shorter = Row([SYSTEM, *whole.messages[-kept:]], None, "rows.jsonl", 1)
        limit = length(shorter, tokenizer)
        cut = prepare([whole], TEMPLATES[name], tokenizer, max_length=limit, cut="oldest")
        assert cut.rows == prepare([shorter], TEMPLATES[name], tokenizer, max_length=limit).rows
        assert (cut.report.cut_rows, cut.report.lost, cut.report.cut_ends) == (1, {"turns": 1}, 0)
    assert "1 of them lose their oldest turns" in cut.report.warnings[0]


def test_an_exchange_goes_with_the_tools_that_were_called_in_it(tokenizer):
    called = talk("One?", "First.").messages + [
        {"role": "tool", "content": "four"},
        {"role": "assistant", "content": "Four."},
    ]
    row = Row([*called, *talk("Two?", "Second.", system=False).messages], None, "rows.jsonl", 1)
    cut = prepare([row], TEMPLATE, tokenizer, max_length=length(row, tokenizer) - 5, cut="oldest")
    assert text(cut.rows[0], tokenizer) == TEMPLATE.render([SYSTEM, *row.messages[-2:]])


def test_the_last_exchange_alone_loses_the_start_of_what_was_asked_and_keeps_the_frame(tokenizer):
    row = talk("One?", "First.", "four " * 40 + "world?", "It is four.")
    limit = length(talk("four " * 20 + "world?", "It is four."), tokenizer)
    cut = prepare([row], TEMPLATE, tokenizer, max_length=limit, cut="oldest")
    [example] = cut.rows
    said = text(example, tokenizer)
    assert said.startswith(TEMPLATE.render([SYSTEM]) + "<|im_start|>user\n") and "One?" not in said
    assert "four world?<|im_end|>\n<|im_start|>assistant\nIt is four.<|im_end|>" in said
    assert len(example.input_ids) == limit
    assert trained(example, tokenizer) == "It is four.<|im_end|>"
    assert (cut.report.lost, cut.report.cut_ends) == ({"turns": 1, "prompt": 1}, 0)


def test_long_questions_give_before_short_ones(tokenizer):
    row = talk("What is it?", "First.", "four " * 40, "Second.")
    cut = prepare([row], TEMPLATE, tokenizer, max_length=length(row, tokenizer) - 30, cut="prompt")
    said = text(cut.rows[0], tokenizer)
    assert "What is it?" in said and "First." in said and said.count("four") < 40
    assert trained(cut.rows[0], tokenizer) == "First.<|im_end|>Second.<|im_end|>"
    assert cut.report.lost == {"prompt": 1}


def test_a_system_message_goes_after_what_was_asked_and_before_the_answer(tokenizer):
    row = Row([{"role": "system", "content": "world " * 40}, *talk("four " * 10, "It is four.", system=False).messages],
              None, "rows.jsonl", 1)  # fmt: skip
    limit = length(row, tokenizer) - 40
    [example] = prepare([row], TEMPLATE, tokenizer, max_length=limit, cut="prompt").rows
    assert text(example, tokenizer).count("world") < 40 and trained(example, tokenizer) == "It is four.<|im_end|>"


def test_an_answer_that_is_too_long_leaves_a_quarter_to_what_was_asked(tokenizer):
    row = talk("four " * 40, "world " * 80, system=False)
    for cut in ("oldest", "prompt"):
        found = prepare([row], TEMPLATE, tokenizer, max_length=80, cut=cut)
        [example] = found.rows
        asked = [id for id, label in zip(example.input_ids, example.labels, strict=True) if label == UNTRAINED]
        assert len(example.input_ids) == 80 and 20 <= len(asked) <= 40
        assert "<|im_end|>" not in trained(example, tokenizer)
        assert (found.report.lost, found.report.cut_ends) == ({"prompt": 1, "answer": 1}, 1)


def test_dropped_rows_are_counted_and_others_are_whole(tokenizer):
    rows = [talk("One?", "First."), talk("One?", "four " * 50, number=2)]
    found = prepare(rows, TEMPLATE, tokenizer, max_length=length(rows[0], tokenizer), cut="drop")
    assert found.rows == prepare(rows[:1], TEMPLATE, tokenizer).rows
    report = found.report
    assert (report.cut_rows, report.lost, report.dropped, report.dropped_rows) == (1, {"row": 1}, 1, [2])
    assert "1 of them are left out" in report.warnings[0] and len(report.warnings) == 1


def test_all_text_being_trained_leaves_no_prompt_to_cut(tokenizer):
    row = talk("four " * 40, "It is four.")
    found = prepare([row], TEMPLATE, tokenizer, max_length=50, cut="prompt", train_on="everything")
    whole = tokenise(row, TEMPLATE, tokenizer).ids
    assert found.rows[0].input_ids == whole[:50] and found.report.lost == {"answer": 1}


@given(
    said=some.lists(some.sampled_from(["Hi", "four " * 9, "é🙂世" * 5, " and? "]), min_size=2, max_size=8),
    limit=some.integers(8, 120),
    rule=some.sampled_from(["oldest", "prompt", "answer", "drop"]),
    make=some.sampled_from([byte_level, byte_fallback]),
)
def test_no_rule_ever_goes_beyond_the_length_or_makes_words_up(said, limit, rule, make):
    tokenizer = TextTokenizer(make(), {"eos_token": "</s>"})
    row = talk(*said)
    if rule != "answer" and not any(turn["role"] == "assistant" for turn in row.messages):
        return
    whole = prepare([row], TEMPLATE, tokenizer)
    found = prepare([row], TEMPLATE, tokenizer, max_length=limit, cut=rule)
    assert found.report.rows == 1 and found.report.rows_used + found.report.dropped == 1
    for example in found.rows:
        assert len(example.input_ids) <= limit and any(label != UNTRAINED for label in example.labels[1:])
        rest = iter(whole.rows[0].input_ids)
        assert rule == "oldest" or all(id in rest for id in example.input_ids)  # in this order, and no other
        assert all(label in (id, UNTRAINED) for id, label in zip(example.input_ids, example.labels, strict=True))
        if not found.report.cut_rows:
            assert example == whole.rows[0]
        if "answer" not in found.report.lost and rule in ("prompt", "drop"):
            assert found.report.trained_tokens == whole.report.trained_tokens


def test_no_character_is_cut_in_two(tokenizer):
    row = talk("🙂" * 30, "It is four.")
    for limit in range(60, 90):
        [example] = prepare([row], TEMPLATE, tokenizer, max_length=limit, cut="prompt").rows
        assert "�" not in text(example, tokenizer)


def test_a_long_text_becomes_pieces_in_which_every_token_is_predicted_once(tokenizer):
    rows = [
        Row([], None, "book.txt", number, "text", text="Hello world. " * times) for number, times in ((1, 30), (2, 1))
    ]
    ids = [*tokenizer.encode(rows[0].text).ids, tokenizer.eos_id]
    found = prepare(rows, TEMPLATE, tokenizer, max_length=32)
    pieces = [example for example in found.rows if example.number == 1]
    assert len(pieces) > 3 and all(len(example.input_ids) <= 32 for example in pieces)
    assert [ids[0], *(id for example in pieces for id in example.labels[1:])] == ids
    report = found.report
    assert (report.rows, report.rows_used, report.examples) == (2, 2, len(found.rows))
    assert (report.divided, report.cut_rows) == (1, 0)
    assert report.trained_tokens == len(ids) - 1 + len(tokenizer.encode(rows[1].text).ids)
    assert "1 of 2 texts are longer" in report.warnings[0]


def test_a_text_begins_as_the_models_own_tokenizer_has_it():
    own = byte_level()
    assert own.encode("Hello").ids[0] == own.token_to_id("<s>")
    tokenizer = TextTokenizer(own, {"bos_token": "<s>", "eos_token": "</s>"})
    [example] = prepare([Row([], None, "a.txt", 1, "text", text="Hello")], TEMPLATE, tokenizer).rows
    assert example.input_ids == [tokenizer.bos_id, *tokenizer.encode("Hello").ids, tokenizer.eos_id]
    assert example.labels == example.input_ids


def test_thoughts_can_be_taken_out_before_they_are_rendered(tokenizer):
    thinking = ChatTemplate(
        "thinking", CHATML.replace("+ message['content']", "+ (message.reasoning_content or '') + message['content']")
    )
    row = talk("One?", "<think>\nSo.\n</think>\n\nFirst.", "Two?", "Second.")
    row.messages[-1]["reasoning_content"] = "Hm."
    [kept] = prepare([row], thinking, tokenizer).rows
    assert trained(kept, tokenizer) == "<think>\nSo.\n</think>\n\nFirst.<|im_end|>Hm.Second.<|im_end|>"
    [plain] = prepare([row], thinking, tokenizer, thoughts="drop").rows
    assert trained(plain, tokenizer) == "First.<|im_end|>Second.<|im_end|>"


@pytest.mark.parametrize(("kind", "why"), [("prompt", "nothing to learn from"), ("preference", "two answers")])
def test_rows_of_another_kind_are_refused_with_the_reason(tokenizer, kind, why):
    row = Row([{"role": "user", "content": "Hi"}], None, "rows.jsonl", 3, kind)
    with pytest.raises(DataError, match=f"rows.jsonl, row 3: .*{why}"):
        prepare([row], TEMPLATE, tokenizer)


def test_rows_that_are_refused_can_be_skipped_and_are_counted(tokenizer):
    rows = [talk("One?", "First."), Row([], None, "rows.jsonl", 2, "prompt"), talk("Two?", "Second.", number=3)]
    found = prepare(rows, TEMPLATE, tokenizer, skip=True)
    assert [example.number for example in found.rows] == [1, 3]
    assert (found.report.rows, found.report.refused) == (3, 1)
    assert "1 of 3 rows cannot be rendered and are not used: rows.jsonl, row 2" in found.report.warnings[0]


def test_a_stream_is_read_as_it_is_used_and_counted_as_it_goes(tokenizer):
    read = []

    def rows():
        for number in range(1, 100_001):
            read.append(number)
            yield talk("One?", "First.", number=number)

    report = Report(TEMPLATE.name)
    stream = prepare_stream(rows(), TEMPLATE, tokenizer, report=report)
    assert next(stream).number == 1
    assert len(read) <= 5 * CHUNK and 0 < report.rows <= len(read)
    stream.close()


def test_a_stream_of_rows_that_are_all_refused_ends_early(tokenizer):
    read = []
    rows = (read.append(number) or Row([], None, "rows.jsonl", number, "prompt") for number in range(100_000))
    with pytest.raises(DataError, match="and 990 more"):
        list(prepare_stream(rows, TEMPLATE, tokenizer, report=Report("chatml")))
    assert len(read) < 5000
