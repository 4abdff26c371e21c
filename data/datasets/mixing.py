"""How the rows of several datasets become one list: which are taken, how often, and in which order.

All in places (whole numbers), never rows, so that a mix of millions is planned in seconds and little memory. Nothing is
left to chance but which rows are drawn, and that depends on the seed alone.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections.abc import Sequence
from typing import Literal

import numpy as np

from data.datasets.lots import Numbers, some
from engine.contract.errors import DataError

MOST = 1000  # a mix may come to this many times the rows that there are; beyond, a weight is a slip of the pen


def repeated(places: Numbers, times: float, seed: int, name: str) -> Numbers:
    """The places `times` over, one round behind the other; of a broken last round, places drawn by lot."""
    whole = math.floor(times)
    part = some(places, round((times - whole) * len(places)), seed, f"repeat {name}")
    return np.concatenate([*[places] * whole, part])


def concatenated(places: Sequence[Numbers]) -> tuple[Numbers, Numbers]:
    """For each row of the mix its dataset (uint16) and its place in that (int64): one dataset behind the other.

    `places` are the rows to take of each dataset, in their order.
    """
    of = np.repeat(np.arange(len(places), dtype=np.uint16), [len(rows) for rows in places])
    return of, np.concatenate([np.arange(0), *places])


def interleaved(
    places: Sequence[Numbers], weights: Sequence[float], until: Literal["first", "all"]
) -> tuple[Numbers, Numbers]:
    """For each row of the mix its dataset (uint16) and its place in that (int64): drawn from in turns, by weight.

    Not by chance: whoever is furthest behind its weight gives the next row, so at any point each dataset has given its
    share to within a row or two. Each gives its rows in their order. It ends when the first dataset has given its last
    row, or when all have, those that are through beginning again. Datasets without rows take no part. Raises DataError
    when the weights would make it all but endless.
    """
    lengths = [len(rows) for rows in places]
    steps = {which: 1 / weight for which, weight in enumerate(weights) if lengths[which]}
    if not steps:
        return concatenated(places)
    rounds = [lengths[which] * step for which, step in steps.items()]
    total = (min if until == "first" else max)(rounds) * sum(1 / step for step in steps.values())
    if total > MOST * sum(lengths):
        raise DataError(
            f"these weights would repeat rows until there are {total:,.0f}.",
            "Bring data.weights nearer to one another, or set data.until to first.",
        )
    turns = [(step, which) for which, step in steps.items()]  # when each is next due
    heapq.heapify(turns)
    unfinished = len(turns)
    of, given = array("H"), [0] * len(lengths)
    while True:
        which = turns[0][1]
        of.append(which)
        given[which] += 1
        unfinished -= given[which] == lengths[which]
        if not unfinished or (until == "first" and given[which] == lengths[which]):
            break
        heapq.heapreplace(turns, ((given[which] + 1) * steps[which], which))
    drawn = np.frombuffer(of, dtype=np.uint16)
    place = np.zeros(len(drawn), np.int64)
    for which in steps:
        place[drawn == which] = np.resize(places[which], given[which])
    return drawn, place
