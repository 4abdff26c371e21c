"""Rows with pictures as token ids: each picture's sign written out as its processor does, never trained, never cut.

The rendering, the mask and the cut are those of `data.encoding.prepare` and `data.encoding.pairs`; this adds the
pictures to them. A picture goes only with the whole turn that shows it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch

from data.encoding.mask import Rendered, Stretches
from data.encoding.pairs import Pairs, Side
from data.encoding.prepare import Examples
from data.rows import pictures
from data.rows.conversation import Row
from engine.contract.errors import DataError
from engine.models.vision import KINDS, Shown, Sight, Written, expand


@dataclass(frozen=True)
class SeenExamples(Examples):
    """Makes examples out of conversations that show pictures."""

    sight: Sight | None = None

    def located(self, row: Row) -> Rendered:
        return _shown(self._sight, row, [super().located(row)])[0]

    def whole(self, row: Row, ids: Sequence[int]) -> bool:
        return _left(self._sight, row, ids) is not None

    def columns(self, kept: Sequence[tuple[Row, list[int], Stretches]]) -> pa.RecordBatch:
        shown = _columns(self._sight, [(row, ids) for row, ids, _ in kept])
        return _beside(super().columns(kept), shown)

    @property
    def _sight(self) -> Sight:
        assert self.sight is not None
        return self.sight


@dataclass(frozen=True)
class SeenPairs(Pairs):
    """Makes pairs out of preferences whose prompts show pictures."""

    sight: Sight | None = None

    def located(self, row: Row) -> list[Rendered]:
        return _shown(self._sight, row, super().located(row))

    def whole(self, row: Row, ids: Sequence[int]) -> bool:
        return _left(self._sight, row, ids) is not None

    def columns(self, kept: Sequence[tuple[Row, list[Side]]]) -> pa.RecordBatch:
        shown = _columns(self._sight, [(row, sides[0][0]) for row, sides in kept])
        return _beside(super().columns(kept), shown)

    @property
    def _sight(self) -> Sight:
        assert self.sight is not None
        return self.sight


@dataclass(frozen=True)
class Show:
    """Collates examples as `collate` does, and adds what the model is shown beside the tokens.

    sides: how often the batch goes through the examples; twice for pairs, which are shown the same.
    """

    sight: Sight
    collate: Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]
    sides: int = 1

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self.collate(examples)
        shown: list[Shown] = [(row["pictures"], [json.loads(film) for film in row["films"]]) for row in examples]
        return {**batch, **self.sight.beside(batch["input_ids"], shown * self.sides)}


def shown_by(rows: Iterable[Row]) -> str:
    """A short text that changes with the pictures that rows show, as far as their files tell."""
    seen = hashlib.sha256()
    for row in rows:
        for kind in KINDS:
            for address in pictures.of(row.messages, kind):
                seen.update(json.dumps([address, pictures.stamp(address)]).encode())
    return seen.hexdigest()


def _shown(sight: Sight, row: Row, sides: Sequence[Rendered]) -> list[Rendered]:
    """`sides` with every picture of the row written out."""
    try:
        if any(pictures.of([turn], kind) for turn in _said(row) for kind in KINDS):
            raise DataError("an answer holds a picture; answers are text.", "Take it out, or leave the row out.")
        expanded = sight.expanded(*(pictures.of(row.messages, kind) for kind in KINDS))
        return [_written(side, *expand(side.text, sight.signs, expanded)) for side in sides]
    except DataError as problem:
        raise DataError(problem.text, problem.hint, file=row.file, row=row.number) from None


def _said(row: Row) -> list[dict[str, Any]]:
    answers = [*row.messages, *(row.chosen or []), *(row.rejected or [])]
    return [turn for turn in answers if turn["role"] == "assistant"]


def _written(side: Rendered, text: str, written: Sequence[Written]) -> Rendered:
    """The side in the longer `text`: its spans moved, and without what was written for pictures."""

    def moved(place: int) -> int:
        return place + sum((last - first) - (end - begin) for begin, end, first, last in written if end <= place)

    weights = side.weights or (1.0,) * len(side.spans)
    spans = [((moved(begin), moved(end)), weight) for (begin, end), weight in zip(side.spans, weights, strict=True)]
    for _, _, first, last in written:
        pieces = [(((begin, min(end, first)), (max(begin, last), end)), weight) for (begin, end), weight in spans]
        spans = [(piece, weight) for pair, weight in pieces for piece in pair if piece[0] < piece[1]]
    return Rendered(text, [span for span, _ in spans], tuple(weight for _, weight in spans) if side.weights else ())


def _left(sight: Sight, row: Row, ids: Sequence[int]) -> tuple[list[str], list[Any]] | None:
    """The pictures and the films that `ids` show; None where one is there in part. Only the oldest turns ever go."""
    there = {kind: sum(id in sight.ids[kind] for id in ids) for kind in KINDS}
    for start in range(len(row.messages) + 1):
        images, films = (pictures.of(row.messages[start:], kind) for kind in KINDS)
        if sight.laid_on(images, films) == there:
            return images, films
    return None


def _columns(sight: Sight, rows: Sequence[tuple[Row, Sequence[int]]]) -> dict[str, pa.Array]:
    shown = [_left(sight, row, ids) or ([], []) for row, ids in rows]
    texts = pa.list_(pa.string())
    return {
        "pictures": pa.array([images for images, _ in shown], texts),
        "films": pa.array([[json.dumps(film) for film in films] for _, films in shown], texts),
    }


def _beside(batch: pa.RecordBatch, more: dict[str, pa.Array]) -> pa.RecordBatch:
    for name, values in more.items():
        batch = batch.append_column(name, values)
    return batch
