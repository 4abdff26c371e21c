"""From answers judged good or bad, or scored, to token ids, with the rendering, the mask and the cut of `data.prepare`.

What is learnt from is the answer that is judged, whatever else the assistant has said before it. Knows nothing of
losses or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from data.conversation import Kind, Row, answer_at
from data.mask import Rendered, Stretches
from data.prepare import Examples, suited
from engine.contract.errors import DataError


@dataclass(frozen=True)
class Judged(Examples):
    """Makes examples with a `label` out of feedback; the fields are those of `Examples`, of which `train_on` is not
    asked."""

    KIND: ClassVar[Kind] = "feedback"
    LACKS: ClassVar[str] = "the row has no label that says whether its answer is good."

    def located(self, row: Row) -> Rendered:
        return self.forms.locate(row, since=answer_at(row.messages))

    def _rendered(self, row: Row) -> tuple[Row, Rendered | DataError]:
        try:
            if row.kind != self.KIND:
                hint = "Choose the task that learns from such rows, or other rows."
                raise DataError(self.LACKS, hint, file=row.file, row=row.number)
            row = suited(row, (self.KIND,), self.thoughts, self.sees)
            return row, self.located(row)
        except DataError as problem:
            return row, problem

    def columns(self, kept: Sequence[tuple[Row, list[int], Stretches]]) -> pa.RecordBatch:
        labels = pa.array([bool(row.label) for row, _, _ in kept], pa.bool_())
        return super().columns(kept).append_column("label", labels)


@dataclass(frozen=True)
class Scored(Judged):
    """Makes examples with a `score` out of scored answers."""

    KIND: ClassVar[Kind] = "scored"
    LACKS: ClassVar[str] = "the row has no score that says how good its answer is."

    def columns(self, kept: Sequence[tuple[Row, list[int], Stretches]]) -> pa.RecordBatch:
        scores = pa.array([row.score for row, _, _ in kept], pa.float64())
        return Examples.columns(self, kept).append_column("score", scores)
