"""Mixing datasets: every row as often as the arguments say, in an order that never changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.datasets.lots import some
from data.datasets.mixing import concatenated, interleaved, repeated
from engine.contract.errors import DataError

SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=5)
WEIGHTS = st.lists(st.sampled_from([0.5, 1, 1.5, 2, 3, 7]), min_size=5, max_size=5)


def pools(sizes):
    return [np.arange(size) * 2 for size in sizes]


@given(SIZES)
def test_concatenation_gives_each_row_once_in_order(sizes):
    of, place = concatenated(pools(sizes))
    assert list(zip(of, place, strict=True)) == [
        (which, 2 * row) for which, size in enumerate(sizes) for row in range(size)
    ]


@given(SIZES, WEIGHTS)
def test_interleaving_follows_the_weights_at_every_point(sizes, weights):
    weights = weights[: len(sizes)]
    of, _ = interleaved(pools(sizes), weights, "all")
    for which, weight in enumerate(weights):
        given_so_far = np.cumsum(of == which)
        due = np.arange(1, len(of) + 1) * weight / sum(weights)
        assert np.abs(given_so_far - due).max() < len(sizes)


@given(SIZES, WEIGHTS)
def test_interleaving_until_the_first_ends_with_its_last_row_and_repeats_none(sizes, weights):
    of, place = interleaved(pools(sizes), weights[: len(sizes)], "first")
    drawn = list(zip(of, place, strict=True))
    assert len(set(drawn)) == len(drawn)
    through = [which for which, size in enumerate(sizes) if (of == which).sum() == size]
    assert through == [of[-1]]


@given(SIZES, WEIGHTS)
def test_interleaving_until_all_are_through_gives_every_row(sizes, weights):
    of, place = interleaved(pools(sizes), weights[: len(sizes)], "all")
    for which, size in enumerate(sizes):
        own = place[of == which]
        assert set(own) == set(2 * np.arange(size))
        assert own.tolist() == [2 * (row % size) for row in range(len(own))]
    [last] = {which for which, size in enumerate(sizes) if (of[:-1] == which).sum() < size}
    assert last == of[-1]


def test_a_dataset_without_rows_takes_no_part():
    of, place = interleaved(pools([0, 2, 2]), [1, 1, 1], "all")
    assert (of.tolist(), place.tolist()) == ([1, 2, 1, 2], [0, 0, 2, 2])
    assert len(interleaved(pools([0]), [1], "first")[0]) == 0


def test_weights_that_would_never_end_are_refused():
    with pytest.raises(DataError, match="would repeat rows until there are 1,000,000,010"):
        interleaved(pools([10, 10]), [1, 1e-8], "all")


@given(st.integers(0, 200), st.floats(0.01, 5), st.integers(0, 9))
def test_repetition_takes_whole_rounds_and_draws_the_rest(size, times, seed):
    places = np.arange(size) * 3
    taken = repeated(places, times, seed, "a")
    counts = [int((taken == place).sum()) for place in places]
    assert len(taken) == int(times) * size + round((times - int(times)) * size)
    assert set(counts) <= {int(times), int(times) + 1}
    assert (repeated(places, times, seed, "a") == taken).all()


def test_a_draw_depends_on_seed_and_purpose_and_keeps_the_order():
    places = np.arange(1000)
    one = some(places, 100, 1, "a")
    assert len(set(one)) == 100 and (np.diff(one) > 0).all()
    assert all(set(one) != set(other) for other in (some(places, 100, 2, "a"), some(places, 100, 1, "b")))
    assert some(places, 5000, 1, "a") is places
    assert abs(one.mean() - 500) < 100
