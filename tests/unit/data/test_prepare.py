"""Counting, cutting and splitting rows: nothing is lost without being named."""

from __future__ import annotations

import pytest

from data.encoding.mask import tokenise
from data.encoding.prepare import CHUNK, UNTRAINED, prepare
from data.encoding.render import ChatTemplate
from data.encoding.tokens import TextTokenizer
from data.rows.conversation import Row
from engine.contract.errors import DataError
from tests.wording import CHATML, byte_level

TEMPLATE = ChatTemplate("chatml", CHATML)


@pytest.fixture(scope="module")
def tokenizer():
    return TextTokenizer(byte_level(), {"eos_token": "</s>"})


def row(number: int, question: str = "Hello?", answer: str = "It is four.") -> Row:
    said = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Row(said, None, "rows.jsonl", number)


def test_labels_are_the_ids_where_trained_and_ignored_elsewhere(tokenizer):
    tokens = tokenise(row(1), TEMPLATE, tokenizer)
    prepared = prepare([row(1)], TEMPLATE, tokenizer, max_length=None)
    [example] = prepared.rows
    assert (example.input_ids, example.number, example.file) == (tokens.ids, 1, "rows.jsonl")
    assert example.labels == [id if on else UNTRAINED for id, on in zip(tokens.ids, tokens.trained, strict=True)]
    report = prepared.report
    assert (report.rows, report.rows_used, report.tokens) == (1, 1, len(tokens.ids))
    assert (report.trained_tokens, report.longest) == (sum(tokens.trained), len(tokens.ids))
    assert report.end_of_turn_trained and report.template == "chatml"
    assert report.warnings == []


def test_long_rows_are_cut_counted_and_named(tokenizer):
    rows = [row(1), row(2, answer="four " * 50), row(3, question="four " * 50)]
    length = len(tokenise(rows[0], TEMPLATE, tokenizer).ids)
    prepared = prepare(rows, TEMPLATE, tokenizer, max_length=length)
    report = prepared.report
    assert [example.number for example in prepared.rows] == [1, 2]
    assert all(len(example.input_ids) <= length for example in prepared.rows)
    assert (report.rows, report.rows_used, report.cut_rows, report.cut_ends) == (3, 2, 2, 1)
    assert report.dropped_rows == [3] and report.share_cut == pytest.approx(2 / 3)
    assert report.longest == max(len(tokenise(each, TEMPLATE, tokenizer).ids) for each in rows)
    assert report.tokens == sum(len(example.input_ids) for example in prepared.rows)
    assert report.trained_tokens == sum(label != UNTRAINED for example in prepared.rows for label in example.labels)
    warnings = " ".join(report.warnings)
    assert "2 of 3 rows are longer" in warnings and "1 of them lose the end" in warnings
    assert "1 row has no trained token left and is not used: 3." in warnings


def test_a_cut_through_white_space_behind_the_answer_loses_no_end(tokenizer):
    length = len(tokenise(row(1), TEMPLATE, tokenizer).ids)
    report = prepare([row(1)], TEMPLATE, tokenizer, max_length=length - 1).report
    assert (report.cut_rows, report.cut_ends) == (1, 0)
    assert prepare([row(1)], TEMPLATE, tokenizer, max_length=length - 2).report.cut_ends == 1


def test_a_row_whose_only_trained_token_is_its_first_trains_nothing(tokenizer):
    bare = ChatTemplate("bare", "{{ messages[-1].content }}")
    report = prepare([row(1, answer="</s>")], bare, tokenizer, train_on="everything").report
    assert report.rows_used == report.trained_tokens == 0 and report.dropped_rows == [1]


def test_a_template_without_end_of_turn_is_reported(tokenizer):
    bare = ChatTemplate("bare", CHATML.replace("<|im_end|>", ""))
    report = prepare([row(1), row(2)], bare, tokenizer).report
    assert not report.end_of_turn_trained and report.open_rows == 2
    assert any("does not learn where to stop" in warning for warning in report.warnings)


def test_all_rows_that_the_template_refuses_are_named_at_once(tokenizer):
    picky = ChatTemplate("picky", "{{ raise_exception('no') if '!' in messages[0].content }}" + CHATML)
    rows = [row(number, "Hello!" if number % 2 else "Hello") for number in range(1, 31)]
    with pytest.raises(DataError) as caught:
        prepare(rows, picky, tokenizer)
    assert "15 of 30 rows" in caught.value.text and "and 5 more" in caught.value.text
    assert "rows.jsonl, row 1:" in caught.value.text and "row 19:" in caught.value.text
    with pytest.raises(DataError, match="^rows.jsonl, row 5: "):
        prepare([rows[1], rows[4]], picky, tokenizer)


def test_the_result_does_not_depend_on_workers(tokenizer):
    rows = [row(number, f"Hello {number}?", "four " * (number % 7 + 1)) for number in range(1, 2 * CHUNK + 10)]
    alone = prepare(rows, TEMPLATE, tokenizer, max_length=24)
    assert alone.report.dropped_rows == [] and alone.report.cut_rows > 0
    assert prepare(rows, TEMPLATE, tokenizer, max_length=24, workers=2) == alone


def test_nothing_to_prepare_is_an_empty_report(tokenizer):
    prepared = prepare([], TEMPLATE, tokenizer)
    assert prepared.rows == [] and prepared.report.share_cut == 0
