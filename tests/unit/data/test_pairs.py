"""Preferences as token ids: one prompt, two answers, each as the template writes it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from data.encoding.batches import CHUNK
from data.encoding.mask import tokenise
from data.encoding.pairs import prepare_pairs
from data.encoding.prepare import UNTRAINED
from data.encoding.render import ChatTemplate
from data.encoding.tokens import TextTokenizer
from data.rows.conversation import Row
from engine.contract.errors import DataError
from tests.wording import CHATML, MARKED, byte_level

TEMPLATES = {"by prefix": ChatTemplate("chatml", CHATML), "by markers": ChatTemplate("marked", MARKED)}
TEMPLATE = TEMPLATES["by prefix"]


@pytest.fixture(scope="module")
def tokenizer():
    return TextTokenizer(byte_level(), {"eos_token": "</s>"})


def pair(question: str = "Hello?", chosen: str = "It is four.", rejected: str = "It is one.", number: int = 1) -> Row:
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}]
    answers = [[{"role": "assistant", "content": text}] for text in (chosen, rejected)]
    return Row(asked, None, "pairs.jsonl", number, "preference", *answers)


def longer(row: Row) -> Row:
    earlier = [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "First."}]
    return replace(row, messages=[row.messages[0], *earlier, *row.messages[1:]])


def answers(found, tokenizer) -> list[str]:
    labels = (found.chosen_labels, found.rejected_labels)
    return [tokenizer.decode([label for label in side if label != UNTRAINED]) for side in labels]


@pytest.mark.parametrize("name", TEMPLATES)
def test_both_answers_follow_the_same_prompt_and_end_their_turn(tokenizer, name):
    template = TEMPLATES[name]
    row = longer(pair())
    [found] = prepare_pairs([row], template, tokenizer).rows
    prompt = template.render(row.messages, add_generation_prompt=True)
    assert tokenizer.decode(found.prompt_ids) == prompt
    assert answers(found, tokenizer) == ["It is four.<|im_end|>", "It is one.<|im_end|>"]
    for ids, said in ((found.chosen_ids, row.chosen), (found.rejected_ids, row.rejected)):
        whole = tokenise(Row([*row.messages, *said], None, "", 1), template, tokenizer, "last")
        assert ids == whole.ids[: len(ids)] and tokenizer.decode(whole.ids[len(ids) :]) == "\n"
        assert ids[: len(found.prompt_ids)] == found.prompt_ids
    assert (found.number, found.file) == (1, "pairs.jsonl")


def test_a_space_that_an_answer_takes_along_is_in_no_prompt(tokenizer):
    joined = ChatTemplate("joined", "{% for m in messages %}{{ m.role + ':' + ' ' + m.content + '</s>' }}{% endfor %}"
                                    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}")  # fmt: skip
    [found] = prepare_pairs([pair(chosen="four", rejected="世")], joined, tokenizer).rows
    prompt = found.prompt_ids
    assert tokenizer.decode(prompt) == "system: Be brief.</s>user: Hello?</s>assistant:"
    assert found.chosen_ids[: len(prompt)] == found.rejected_ids[: len(prompt)] == prompt
    assert tokenizer.decode(found.chosen_ids).endswith("assistant: four</s>")


def test_tool_results_inside_an_answer_are_read_and_not_compared(tokenizer):
    row = pair()
    acted = [{"role": "assistant", "content": "I look."}, {"role": "tool", "content": "sun"}, *row.chosen]
    [found] = prepare_pairs([replace(row, chosen=acted)], TEMPLATE, tokenizer).rows
    assert answers(found, tokenizer)[0] == "I look.<|im_end|>It is four.<|im_end|>"


def test_oldest_turns_go_from_both_sides(tokenizer):
    row = pair()
    alone = prepare_pairs([row], TEMPLATE, tokenizer).rows
    limit = max(len(alone[0].chosen_ids), len(alone[0].rejected_ids))
    found = prepare_pairs([longer(row)], TEMPLATE, tokenizer, max_length=limit, cut="oldest")
    assert found.rows == alone
    assert found.report.lost == {"turns": 1}


def test_what_goes_from_the_prompt_goes_from_both_sides(tokenizer):
    row = pair("four " * 40, chosen="It is four. " * 3)
    for cut in ("oldest", "prompt"):
        found = prepare_pairs([row], TEMPLATE, tokenizer, max_length=60, cut=cut)
        [one] = found.rows
        assert len(one.chosen_ids) <= 60 and len(one.rejected_ids) <= 60
        assert answers(one, tokenizer) == ["It is four. It is four. It is four. <|im_end|>", "It is one.<|im_end|>"]
        assert one.prompt_ids == one.rejected_ids[: len(one.prompt_ids)]
        assert found.report.lost == {"prompt": 1}


def test_a_prompt_that_fills_the_length_leaves_no_empty_answer_behind(tokenizer):
    rows = [pair("four " * 40), pair(number=2)]
    whole = prepare_pairs(rows[:1], TEMPLATE, tokenizer).rows[0]
    for limit in (len(whole.prompt_ids) - 1, len(whole.prompt_ids)):
        found = prepare_pairs(rows, TEMPLATE, tokenizer, max_length=limit, cut="answer")
        assert [one.number for one in found.rows] == [2]
        assert (found.report.dropped_rows, found.report.cut_rows) == ([1], 1)
    for room in range(1, 4):
        for one in prepare_pairs(rows, TEMPLATE, tokenizer, max_length=len(whole.prompt_ids) + room).rows:
            assert all(any(label != UNTRAINED for label in side) for side in (one.chosen_labels, one.rejected_labels))


def test_answers_that_are_the_same_or_become_so_are_left_out(tokenizer):
    same = pair(chosen="It is one.")
    late = pair(chosen="four " * 20 + "Hello", rejected="four " * 20 + "world", number=2)
    limit = len(prepare_pairs([late], TEMPLATE, tokenizer).rows[0].prompt_ids) + 10
    found = prepare_pairs([same, late, pair(number=3)], TEMPLATE, tokenizer, max_length=limit, cut="answer")
    assert [one.number for one in found.rows] == [3]
    assert (found.report.alike, found.report.dropped) == (2, 2)
    assert "2 have two answers that are the same" in " ".join(found.report.warnings)


def test_a_row_with_one_answer_is_refused(tokenizer):
    row = Row([*pair().messages, *pair().chosen], None, "rows.jsonl", 5)
    with pytest.raises(DataError, match="rows.jsonl, row 5: .*needs two"):
        prepare_pairs([row], TEMPLATE, tokenizer)


def test_pairs_do_not_depend_on_workers(tokenizer):
    rows = [pair(f"Hello {number}?", "four " * (number % 9 + 1), number=number) for number in range(CHUNK + 7)]
    alone = prepare_pairs(rows, TEMPLATE, tokenizer, max_length=32, cut="oldest")
    assert len(alone.rows) == len(rows) and alone.report.cut_rows > 0
    assert prepare_pairs(rows, TEMPLATE, tokenizer, max_length=32, cut="oldest", workers=2) == alone
