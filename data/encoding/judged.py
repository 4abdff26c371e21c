"""From answers judged good or bad, or scored, to token ids, with the rendering, the mask and the cut of
`data.encoding.prepare`.

What is learnt from is the answer that is judged, whatever else the assistant has said before it. Where scores are
wanted, a preference is two scored answers. Knows nothing of losses or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, islice
from typing import Any, ClassVar

import pyarrow as pa

from data.encoding.batches import Batch
from data.encoding.cut import View
from data.encoding.mask import Rendered, Stretches
from data.encoding.outcome import Report
from data.encoding.pairs import Pairs, Side
from data.encoding.prepare import Examples, labelled, places, suited
from data.encoding.tokens import Encoded
from data.rows.conversation import Kind, Row, answer_at
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
    """Makes examples with a `score` out of scored answers, and two out of a preference (`Halves`)."""

    KIND: ClassVar[Kind] = "scored"
    LACKS: ClassVar[str] = "the row has neither a score that says how good its answer is, nor a better and a worse one."

    def render(self, rows: Sequence[Row]) -> tuple[Any, list[str]]:
        parts, texts = list[tuple[bool, Any, int]](), list[str]()
        for paired, group in groupby(rows, key=lambda row: row.kind == "preference"):
            some = list(group)
            rendered, said = self._halves.render(some) if paired else super().render(some)
            parts.append((paired, rendered, len(said)))
            texts += said
        return parts, texts

    def finish(self, parts: list[tuple[bool, Any, int]], encoded: list[Encoded]) -> Batch:  # type: ignore[override]
        report, columns, coming = Report(self.template.name), [], iter(encoded)
        for paired, rendered, many in parts:
            tokens = list(islice(coming, many))
            batch = self._halves.finish(rendered, tokens) if paired else super().finish(rendered, tokens)
            report.add(batch.report)
            columns.append(batch.columns)
        return Batch(pa.concat_batches(columns), report)

    def columns(self, kept: Sequence[tuple[Row, list[int], Stretches]]) -> pa.RecordBatch:
        scores = pa.array([row.score for row, _, _ in kept], pa.float64())
        return Examples.columns(self, kept).append_column("score", scores)

    @cached_property
    def _halves(self) -> Halves:
        return Halves(self.template, self.tokenizer, self.max_length, self.cut, self.thoughts, self.skip, self.sees)


class Halves(Pairs):
    """Makes two scored examples out of a preference, one after the other: what is better is worth 1, the other -1.

    They are cut, or left out, as a pair is: what is asked stays the same for both.
    """

    SCORES: ClassVar[tuple[float, float]] = (1.0, -1.0)

    def columns(self, kept: Sequence[tuple[Row, list[Side]]]) -> pa.RecordBatch:
        ids, labels = labelled([side for _, sides in kept for side in sides])
        rows = [row for row, _ in kept for _ in self.SCORES]
        unweighed = pa.array([[] for _ in rows], pa.list_(pa.float64()))
        scores = pa.array([score for _ in kept for score in self.SCORES], pa.float64())
        return pa.RecordBatch.from_pydict(
            {"input_ids": ids, "labels": labels, **places(rows), "weights": unweighed, "score": scores}
        )

    def _cut(self, row: Row, views: Sequence[View], report: Report) -> list[Side]:
        sides = super()._cut(row, views, report)
        report.examples += bool(sides)  # two of them, where a pair is one
        return sides
