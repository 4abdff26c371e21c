"""Holding rows out: nothing is lost, nothing is on two sides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.datasets.splitting import opening, openings, overlap, sides
from data.rows.conversation import Row
from engine.contract.dataset import Split
from engine.contract.errors import DataError

ASKED = st.lists(st.integers(0, 40), min_size=1, max_size=300)
SEEDS = st.integers(0, 2**31)


def row(number: int, question: str = "Hello?", answer: str = "It is four.") -> Row:
    said = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Row(said, None, "rows.jsonl", number)


def split(rows: list[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    found = sides(openings(rows), Split(1 - share, share, 0.0, False), seed)
    return [rows[place] for place in found.train], [rows[place] for place in found.validation]


@given(ASKED, st.integers(1, 60), st.integers(0, 30), SEEDS)
def test_every_row_is_on_one_side_and_no_opening_on_two(asked, validation, test, seed):
    said = Split((100 - validation - test) / 100, validation / 100, test / 100, False)
    try:
        found = sides(np.array(asked, np.uint64), said, seed)
    except DataError:
        assert len(set(asked)) <= 1 + bool(test) or len(asked) <= 3  # of three rows, half and half leaves none
        return
    assert sorted(np.concatenate(found).tolist()) == list(range(len(asked)))
    assert all(side.tolist() == sorted(side.tolist()) for side in found)
    openings = [{asked[place] for place in side} for side in found]
    assert not openings[0] & openings[1] and not openings[0] & openings[2] and not openings[1] & openings[2]
    largest = max(asked.count(one) for one in asked)
    for side, share in ((found.validation, validation), (found.test, test)):
        assert abs(len(side) - share / 100 * len(asked)) <= largest + 1
        assert bool(len(side)) == bool(share)


@given(st.integers(4, 500), st.integers(0, 200), st.integers(0, 200), SEEDS)
def test_counts_are_exact_when_every_row_asks_something_else(rows, validation, test, seed):
    asked = np.arange(rows).astype(np.uint64)
    said = Split(0.0, validation, test, True)
    if validation + test >= rows:
        with pytest.raises(DataError, match=f"{validation + test:,} rows are to be held out, and there are {rows:,}"):
            sides(asked, said, seed)
    else:
        found = sides(asked, said, seed)
        assert (len(found.validation), len(found.test)) == (validation, test)


@given(ASKED, SEEDS)
def test_the_same_seed_gives_the_same_split(asked, seed):
    said = Split(0.8, 0.2, 0.0, False)
    if len(set(asked)) > 1:
        one, other = (sides(np.array(asked, np.uint64), said, seed) for _ in range(2))
        assert all((a == b).all() for a, b in zip(one, other, strict=True))


def test_what_a_seed_holds_out_never_changes_between_releases():
    """Written down once: a change would let a resumed run measure on rows that it was trained on."""
    found = sides(np.arange(20).astype(np.uint64), Split(0.8, 0.1, 0.1, False), 42)
    assert (found.validation.tolist(), found.test.tolist()) == ([5, 13], [6, 9])


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


def test_too_few_questions_for_three_sides_are_said():
    with pytest.raises(DataError, match="held out for validation and test: they ask two different questions only"):
        sides(np.array([1, 1, 2, 2, 2], np.uint64), Split(0.6, 0.2, 0.2, False), 1)


def test_a_later_turn_does_not_separate_conversations_that_begin_alike():
    longer = Row([*row(2).messages, *row(2, "And?").messages], None, "rows.jsonl", 2)
    rows = [row(1), longer, *(row(number, f"Question {number}?") for number in range(3, 10))]
    for seed in range(10):
        assert any({1, 2} <= {each.number for each in side} for side in split(rows, 0.3, seed))


def test_white_space_and_case_make_no_other_question():
    assert opening(row(1, "What is\n the  TIME?")) == opening(row(2, " what is the time? ", "Noon."))
    assert opening(row(1, "What is the time")) != opening(row(1, "What is the time?"))
    assert opening(row(1)) != opening(replace(row(1), messages=[{"role": "system", "content": ""}, *row(1).messages]))


def test_rows_of_every_kind_have_an_opening():
    text = Row([], None, "rows.txt", 1, "text", text="Once upon a time")
    pair = replace(row(1), messages=row(1).messages[:1], kind="preference", chosen=row(1).messages[1:])
    assert opening(pair) == opening(row(9)) != opening(text)
    assert opening(text) == opening(replace(text, number=2, text="once upon\na time "))
    parts = [{"type": "image", "image": "/a.png"}, {"type": "text", "text": "Hello?"}]
    seen = Row([{"role": "user", "content": parts}, *row(1).messages[1:]], None, "rows.jsonl", 1)
    other = [{"type": "image", "image": "/b.png"}, parts[1]]
    assert opening(seen) != opening(replace(seen, messages=[{"role": "user", "content": other}]))


def test_an_overlap_names_the_training_rows():
    train = [row(number, f"Question {number}?") for number in range(1, 6)]
    [found] = overlap(train, [row(1, "question 2?", "Otherwise."), row(2, "Question 4? ")])
    assert (found.kind, found.level, found.rows, found.count) == ("leakage", "warning", (2, 4), 2)
    assert overlap(train, [row(1, "Something else?")]) == [] == overlap(train, [])
