"""Scored answers as token ids, and preferences as two of them."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest

from data.checking import survey
from data.encoding.batches import batches, records
from data.encoding.judged import Scored
from data.encoding.outcome import Report
from data.encoding.pairs import prepare_pairs
from data.encoding.prepare import reported
from data.encoding.tokens import TextTokenizer
from data.rows.conversation import Row
from engine.contract import text
from engine.contract.errors import DataError
from tests.unit.data.test_pairs import TEMPLATE, pair
from tests.wording import byte_level


@pytest.fixture(scope="module")
def tokenizer():
    return TextTokenizer(byte_level(), {"eos_token": "</s>"})


def scored(row: Row, score: float) -> Row:
    """The chosen answer of a preference as a scored one."""
    return replace(row, messages=[*row.messages, *row.chosen], kind="scored", score=score, chosen=None, rejected=None)


def made(rows: list[Row], tokenizer, **options) -> tuple[list[dict], Report]:
    maker, report = Scored(TEMPLATE, tokenizer, **options), Report(TEMPLATE.name)
    found = list(reported(batches(rows, maker), report))
    names = found[0].columns.schema.names
    return [dict(zip(names, line, strict=True)) for line in chain.from_iterable(map(records, found))], report


def test_a_preference_is_a_good_and_a_bad_answer_with_the_tokens_of_its_sides(tokenizer):
    [both] = prepare_pairs([pair()], TEMPLATE, tokenizer).rows
    better, worse = made([pair()], tokenizer)[0]
    assert (better["input_ids"], better["labels"], better["score"]) == (both.chosen_ids, both.chosen_labels, 1.0)
    assert (worse["input_ids"], worse["labels"], worse["score"]) == (both.rejected_ids, both.rejected_labels, -1.0)


def test_scored_answers_and_preferences_mix_in_their_order_and_are_counted_as_rows(tokenizer):
    rows = [scored(pair(number=1), 0.5), pair(number=2), pair(number=3), scored(pair(number=4), -3.0)]
    lines, report = made(rows, tokenizer)
    assert [(line["number"], line["score"]) for line in lines] == [
        (1, 0.5), (2, 1.0), (2, -1.0), (3, 1.0), (3, -1.0), (4, -3.0)
    ]  # fmt: skip
    known = len(lines[1]["input_ids"])  # behind it the template writes a line's end, from which nothing is learnt
    assert lines[0]["input_ids"][:known] == lines[1]["input_ids"] and lines[0]["labels"][:known] == lines[1]["labels"]
    assert (report.rows, report.rows_used, report.examples) == (4, 4, 6)
    assert report.tokens == sum(len(line["input_ids"]) for line in lines)
    assert report.trained_tokens == sum(label != -100 for line in lines for label in line["labels"])


def test_a_preference_with_a_side_that_is_cut_away_is_left_out_whole(tokenizer):
    late = pair("Well? " * 40, number=2)
    lines, report = made([pair(), late, pair(chosen="Same.", rejected="Same.", number=3)], tokenizer, max_length=80)
    assert [line["number"] for line in lines] == [1, 1]
    assert (report.rows, report.rows_used, report.examples, report.dropped) == (3, 1, 2, 2)


def test_a_row_that_says_nothing_of_its_answer_is_refused(tokenizer):
    plain = replace(scored(pair(), 1.0), kind="conversation", score=None)
    with pytest.raises(DataError, match="neither a score .* nor a better and a worse one"):
        made([plain], tokenizer)


def test_the_look_at_the_rows_counts_what_is_trained(workspace: Path):
    lines = [{"prompt": f"Is it {n}?", "chosen": "Yes, it is.", "rejected": "No."} for n in range(6)]
    lines += [{"prompt": f"Was it {n}?", "completion": "Yes.", "score": n} for n in range(4)]
    for name, some in (("pairs", lines[:6]), ("scores", lines[6:])):
        file = workspace / "datasets" / f"{name}.jsonl"
        file.write_text("\n".join(map(json.dumps, some)) + "\n", encoding="utf-8")
    said = ["task=ilql", "model=tiny", "data=[pairs.jsonl, scores.jsonl]", "data.split=100/0/0"]
    found = survey.sampled(text.parse({}, said, kind="train"), workspace / "models" / "tiny", workspace)
    assert (found.rows, found.used, found.sequences) == (10, 10, 16)
    assert not [finding for finding in found.findings if finding.level == "error"]
