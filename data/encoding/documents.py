"""From plain text to sequences of the full length: documents laid end to end and cut where a sequence is full.

Every token is learnt, and once, but those that nothing stands before: a sequence begins with the last token of the one
before where a document goes on in it. Knows nothing of conversations, and of the model only that positions which
restart keep documents apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import pyarrow as pa

from data.encoding.batches import CHUNK, Batch, arrow
from data.encoding.mask import Rendered
from data.encoding.outcome import Report
from data.encoding.prepare import UNTRAINED, Examples
from data.rows.conversation import Row
from engine.contract.errors import DataError


class Documents(Examples):
    """Makes examples out of plain texts alone."""

    def _rendered(self, row: Row) -> tuple[Row, Rendered | DataError]:
        if row.kind == "text":
            return super()._rendered(row)
        said = "the row is no plain text, which pretraining learns from."
        return row, DataError(said, "Choose SFT for conversations, or other rows.", file=row.file, row=row.number)


def windows(documents: Iterable[np.ndarray], capacity: int, *, joined: bool) -> Iterator[list[np.ndarray]]:
    """The documents, each an array of token ids, as sequences of `capacity` tokens, the last one shorter.

    Each sequence is a list of pieces that do not see each other; joined: of one piece.
    """
    window: list[np.ndarray] = []
    room, last = capacity, np.empty(0, np.int32)
    for own in documents:
        place = 0
        while place < len(own):
            if not window and joined and not place:
                window.append(last)
                room -= len(last)
            begin = place - 1 if place and not window else place
            piece = own[begin : begin + room]
            window.append(piece)
            room -= len(piece)
            place = begin + len(piece)
            if not room:
                yield _one(window) if joined else window
                window, room, last = [], capacity, piece[-1:]
    if any(len(piece) > 1 for piece in window) or (joined and capacity - room > 1):
        yield _one(window) if joined else window


def _one(window: list[np.ndarray]) -> list[np.ndarray]:
    return [np.concatenate(window)]


def filled(documents: Sequence[np.ndarray], capacity: int, done: Report, *, joined: bool) -> Iterator[Batch]:
    """`windows` as columns, behind those that `done` counts. Where documents share a sequence, positions restart at
    each, and its first token is not learnt. In the report a sequence is a row."""
    every = (documents[index] for index in range(len(documents)))
    rest = islice(windows(every, capacity, joined=joined), done.rows, None)
    while chosen := list(islice(rest, CHUNK)):
        pieces = [piece for window in chosen for piece in window]
        labels = [piece.copy() for piece in pieces]
        for one in labels:
            one[:1] = UNTRAINED
        bounds = np.cumsum([0, *(sum(map(len, window)) for window in chosen)], dtype=np.int32)
        columns = {"input_ids": pieces, "labels": labels}
        if not joined:
            columns["position_ids"] = [np.arange(len(piece), dtype=np.int32) for piece in pieces]
        report = Report("", rows=len(chosen), rows_used=len(chosen), examples=len(chosen), tokens=int(bounds[-1]))
        done.add(report)
        arrays = {name: arrow(np.concatenate(parts), bounds) for name, parts in columns.items()}
        yield Batch(pa.RecordBatch.from_pydict(arrays), report)


def count(lengths: Iterable[int], capacity: int, *, joined: bool) -> int:
    """How many sequences documents of these lengths come to."""
    return sum(1 for _ in windows((np.empty(length, np.int8) for length in lengths), capacity, joined=joined))
