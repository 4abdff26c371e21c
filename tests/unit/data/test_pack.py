"""Packing: every row once, no sequence too long, no loss across a border."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from data.encoding.batches import records
from data.encoding.outcome import Report
from data.encoding.pack import best_fit, packed, sequences
from data.encoding.prepare import UNTRAINED, Example

LENGTHS = some.lists(some.integers(0, 64), max_size=60)


def slow_best_fit(lengths, capacity):
    """The rule word for word: longest first, each into the fullest bin that holds it."""
    rooms = []
    for length in sorted(lengths, reverse=True):
        fitting = [index for index, room in enumerate(rooms) if room >= length]
        if fitting:
            rooms[min(fitting, key=lambda index: rooms[index])] -= length
        else:
            rooms.append(capacity - length)
    return sorted(rooms)


@given(LENGTHS)
def test_every_row_is_packed_once_and_none_overflows(lengths):
    bins = best_fit(lengths, 64)
    assert sorted(index for each in bins for index in each) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in each) <= 64 for each in bins)


@given(LENGTHS)
def test_bins_are_as_full_as_the_plain_rule_makes_them(lengths):
    bins = best_fit(lengths, 64)
    assert sorted(64 - sum(lengths[index] for index in each) for each in bins) == slow_best_fit(lengths, 64)


def test_a_row_that_fills_a_gap_exactly_goes_there():
    assert best_fit([6, 5, 4, 5], 10) == [[0, 2], [1, 3]]
    assert best_fit([], 10) == []


def test_a_row_longer_than_the_capacity_is_refused():
    with pytest.raises(ValueError, match="11 tokens does not fit into 10"):
        best_fit([3, 11], 10)


def test_hundred_thousand_rows_fill_their_sequences():
    draw = random.Random(1)
    lengths = [min(int(draw.lognormvariate(5, 1)) + 1, 2048) for _ in range(100_000)]
    bins = best_fit(lengths, 2048)
    assert sum(lengths) / (len(bins) * 2048) > 0.99


def test_positions_restart_and_no_loss_crosses_a_border():
    rows = [Example([1, 2, 3], [UNTRAINED, 2, 3], 1, "a"), Example([4, 5], [4, 5], 2, "a"), Example([6], [6], 3, "a")]
    [sequence] = packed(rows, 6)
    assert sequence.input_ids == [1, 2, 3, 4, 5, 6]
    assert sequence.position_ids == [0, 1, 2, 0, 1, 0]
    assert sequence.labels == [UNTRAINED, 2, 3, UNTRAINED, 5, UNTRAINED]
    assert len(packed(rows, 3)) == 2


@given(some.lists(some.integers(1, 64), min_size=1, max_size=60), some.integers(0, 3))
def test_sequences_out_of_columns_are_those_out_of_rows(lengths, done):
    rows = [Example(list(range(n)), [UNTRAINED, *range(1, n)][:n], number, "a") for number, n in enumerate(lengths, 1)]
    ids, labels = ([np.array(one, np.int32) for one in column] for column in (
        [row.input_ids for row in rows], [row.labels for row in rows]))  # fmt: skip
    found = packed(rows, 64)[done:]
    report = Report("", rows=done)
    bare = [np.empty(0)] * len(rows)
    told = sequences(ids, labels, bare, np.array(lengths), 64, report)
    made = [fields for batch in told for fields in records(batch)]
    assert made == [(one.input_ids, one.labels, one.position_ids, []) for one in found]
    assert report.rows == done + len(found)


def test_weights_move_with_their_rows_into_a_sequence():
    lengths = np.array([5, 3])
    ids = [np.arange(length, dtype=np.int32) for length in lengths]
    weights = [np.array([1, 2, 0.5, 3, 5, 2.0]), np.array([0, 3, 3.0])]
    [batch] = sequences(ids, ids, weights, lengths, 8, Report(""))
    [(*_, found)] = records(batch)
    assert found == [1, 2, 0.5, 3, 5, 2.0, 5, 8, 3.0]
