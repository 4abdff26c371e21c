"""Holding rows out: nothing is lost, nothing is on two sides."""

from __future__ import annotations

import pytest

from data.conversation import Row
from data.splitting import split
from engine.contract.errors import DataError


def row(number: int, question: str = "Hello?", answer: str = "It is four.") -> Row:
    said = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Row(said, None, "rows.jsonl", number)


def test_a_split_keeps_equal_questions_on_one_side():
    rows = [row(number, f"Question {number % 20}?", f"Answer {number}") for number in range(100)]
    train, held = split(rows, 0.2, seed=1)
    assert len(held) == 20 and len(train) == 80
    assert not {each.messages[0]["content"] for each in train} & {each.messages[0]["content"] for each in held}
    assert [each.number for each in train] == sorted(each.number for each in train)
    assert sorted(each.number for each in train + held) == list(range(100))


def test_a_split_is_repeatable_and_depends_on_the_seed():
    rows = [row(number, f"Question {number}?") for number in range(50)]
    assert split(rows, 0.1, seed=3) == split(rows, 0.1, seed=3)
    assert split(rows, 0.1, seed=3) != split(rows, 0.1, seed=4)


def test_a_split_prefers_small_groups_to_one_that_overshoots():
    rows = [row(number, "Same?") for number in range(80)] + [row(number, f"Own {number}?") for number in range(20)]
    for seed in range(5):
        train, held = split(rows, 0.1, seed)
        assert len(held) == 10 and all("Own" in each.messages[0]["content"] for each in held)


def test_a_share_of_nothing_holds_nothing_out_and_a_small_one_holds_a_row():
    rows = [row(number, f"Question {number}?") for number in range(5)]
    assert split(rows, 0, seed=1) == (rows, [])
    assert len(split(rows, 0.01, seed=1)[1]) == 1


def test_a_split_that_would_leave_a_side_empty_is_refused():
    for rows in ([row(1), row(2)], [row(1)]):
        with pytest.raises(DataError, match="begin with the same question.*share to 0"):
            split(rows, 0.5, seed=1)


def test_a_later_turn_does_not_separate_conversations_that_begin_alike():
    longer = Row([*row(2).messages, *row(2, "And?").messages], None, "rows.jsonl", 2)
    rows = [row(1), longer, *(row(number, f"Question {number}?") for number in range(3, 10))]
    for seed in range(10):
        sides = [{each.number for each in side} for side in split(rows, 0.3, seed)]
        assert any({1, 2} <= side for side in sides)
