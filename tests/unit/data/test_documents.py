"""Documents laid end to end into full sequences: nothing is lost or learnt twice, and borders hold or do not."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from data.encoding.batches import records
from data.encoding.documents import count, filled, windows
from data.encoding.outcome import Report
from data.encoding.prepare import UNTRAINED

LENGTHS = some.lists(some.integers(2, 40), min_size=1, max_size=30)


def documents(lengths: list[int]) -> list[np.ndarray]:
    """Documents whose tokens all differ."""
    ends = np.cumsum(lengths)
    return [np.arange(end - length, end, dtype=np.int32) for length, end in zip(lengths, ends, strict=True)]


@given(LENGTHS, some.integers(8, 32), some.booleans())
def test_every_token_is_learnt_once_but_those_that_nothing_stands_before(lengths, capacity, joined):
    made = documents(lengths)
    learnt = sorted(
        int(id) for window in windows(made, capacity, joined=joined) for piece in window for id in piece[1:]
    )
    first = {0} if joined else {int(own[0]) for own in made}
    assert learnt == sorted({*chain.from_iterable(own.tolist() for own in made)} - first)


@given(LENGTHS, some.integers(8, 32), some.booleans())
def test_every_sequence_is_full_but_the_last(lengths, capacity, joined):
    sizes = [sum(map(len, window)) for window in windows(documents(lengths), capacity, joined=joined)]
    assert all(size == capacity for size in sizes[:-1]) and (not sizes or 2 <= sizes[-1] <= capacity)
    assert count(lengths, capacity, joined=joined) == len(sizes)


@given(LENGTHS, some.integers(8, 32))
def test_a_piece_is_of_one_document(lengths, capacity):
    begins = np.cumsum([0, *lengths])
    for window in windows(documents(lengths), capacity, joined=False):
        for piece in window:
            assert np.array_equal(piece, np.arange(piece[0], piece[-1] + 1))
            assert np.searchsorted(begins, piece[0], "right") == np.searchsorted(begins, piece[-1], "right")


def test_positions_restart_at_each_document_and_no_loss_crosses_a_border():
    [batch] = filled(documents([3, 4]), 8, Report(""), joined=False)
    [(ids, labels, positions)] = records(batch)
    assert ids == [0, 1, 2, 3, 4, 5, 6] and positions == [0, 1, 2, 0, 1, 2, 3]
    assert labels == [UNTRAINED, 1, 2, UNTRAINED, 4, 5, 6]
    [batch] = filled(documents([3, 4]), 8, Report(""), joined=True)
    [(ids, labels)] = records(batch)
    assert labels == [UNTRAINED, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("joined", [False, True])
def test_filling_goes_on_behind_what_is_done(joined):
    made = documents([5, 9, 30, 2, 8])
    everything = [row for batch in filled(made, 8, Report(""), joined=joined) for row in records(batch)]
    rest = [row for batch in filled(made, 8, Report("", rows=3), joined=joined) for row in records(batch)]
    assert len(everything) > 5 and rest == everything[3:]
