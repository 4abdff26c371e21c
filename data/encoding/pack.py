"""Puts several rows into one sequence without letting one see another.

Knows only lengths and token ids; the model must separate the rows by their position ids.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa

from data.encoding.batches import CHUNK, Batch, arrow
from data.encoding.outcome import Report
from data.encoding.prepare import UNTRAINED, Example


@dataclass(frozen=True)
class Packed:
    """Rows laid end to end: positions restart at each, and its first label is -100: no row predicts the next."""

    input_ids: list[int]
    labels: list[int]
    position_ids: list[int]


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of rows that share a sequence of at most `capacity` tokens: best-fit decreasing.

    Each row, longest first, goes into the fullest sequence that still holds it (Ding et al., Fewer Truncations Improve
    Language Modeling, 2024). Deterministic; after the sort each row costs a few operations on a number of `capacity`
    bits. Raises ValueError for a row that is longer than the capacity: cut before packing.
    """
    if lengths and max(lengths) > capacity:
        raise ValueError(f"a row of {max(lengths)} tokens does not fit into {capacity}")
    bins: list[list[int]] = []
    with_room: defaultdict[int, list[int]] = defaultdict(list)  # free tokens -> the bins that have just so many
    rooms = 0  # bit r is set when some bin has r free tokens
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        length = lengths[index]
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1  # the lowest bit: the fullest bin that fits
            chosen = with_room[room].pop()
            if not with_room[room]:
                rooms &= ~(1 << room)
        else:
            room, chosen = capacity, len(bins)
            bins.append([])
        bins[chosen].append(index)
        with_room[room - length].append(chosen)
        rooms |= 1 << (room - length)
    return bins


def packed(examples: Sequence[Example], capacity: int) -> list[Packed]:
    """The rows packed by `best_fit` into sequences of at most `capacity` tokens."""
    sequences = []
    for indices in best_fit([len(example.input_ids) for example in examples], capacity):
        rows = [examples[index] for index in indices]
        sequences.append(
            Packed(
                [id for row in rows for id in row.input_ids],
                [label for row in rows for label in (UNTRAINED, *row.labels[1:])],
                [position for row in rows for position in range(len(row.input_ids))],
            )
        )
    return sequences


def sequences(
    ids: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    weights: Sequence[np.ndarray],
    lengths: np.ndarray,
    capacity: int,
    done: Report,
) -> Iterator[Batch]:
    """As `packed`, for rows that are not held in memory: columns of sequences, behind those that `done` counts.

    `ids[i]` and `labels[i]` are arrays of `lengths[i]` numbers; they are read twice in all: their lengths, and once
    each. `weights[i]` is as `data.encoding.prepare.Example` has it. In the report a sequence is a row.
    """
    bins = best_fit(lengths.tolist(), capacity)
    for start in range(done.rows, len(bins), CHUNK):
        chosen = bins[start : start + CHUNK]
        rows = list(chain.from_iterable(chosen))
        laid = [labels[row].copy() for row in rows]
        for one in laid:
            one[:1] = UNTRAINED
        bounds = np.cumsum([0, *(lengths[one].sum() for one in chosen)], dtype=np.int32)
        positions = [np.arange(lengths[row], dtype=np.int32) for row in rows]
        columns = {"input_ids": [ids[row] for row in rows], "labels": laid, "position_ids": positions}
        report = Report("", rows=len(chosen), rows_used=len(chosen), examples=len(chosen), tokens=int(bounds[-1]))
        done.add(report)
        arrays = {name: arrow(np.concatenate(parts), bounds) for name, parts in columns.items()}
        heavy = [_moved([weights[row] for row in one], lengths[one]) for one in chosen]
        arrays["weights"] = pa.array(heavy, pa.list_(pa.float64()))
        yield Batch(pa.RecordBatch.from_pydict(arrays), report)


def _moved(weights: Sequence[np.ndarray], lengths: np.ndarray) -> np.ndarray:
    """The weights of rows that lie end to end: (first, last, weight) of each range, from the sequence's beginning."""
    starts = np.cumsum([0, *lengths[:-1]])
    return np.concatenate(
        [(own.reshape(-1, 3) + [start, start, 0]).ravel() for own, start in zip(weights, starts, strict=True)]
    )
