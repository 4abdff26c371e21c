"""From preferences to token ids: one prompt and the two answers to it, with the rendering, the mask and the cut of
`data.encoding.prepare`.

What is cut from the prompt is cut from both sides. A pair that would leave nothing to compare (a prompt that fills the
length, answers that are the same or become so) is left out and counted before training: there its loss is no number, or
teaches nothing. Knows nothing of losses or models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from os.path import commonprefix
from typing import Any, Literal

import pyarrow as pa

from data.encoding.batches import Batch, batches, records
from data.encoding.cut import Cut, View, shortened
from data.encoding.forms import Forms
from data.encoding.mask import Rendered, Stretches, learnt
from data.encoding.outcome import Report
from data.encoding.prepare import UNTRAINED, labelled, places, reported, suited
from data.encoding.render import ChatTemplate
from data.encoding.tokens import Encoded, TextTokenizer
from data.rows.conversation import Row
from engine.contract.errors import DataError

WIDEST = 1_000_000  # margin

Side = tuple[list[int], Stretches]


@dataclass(frozen=True)
class Pair:
    """One preference: each side whole, prompt and answer; labels are the ids, or -100 where nothing is compared.

    The prompt is what both sides begin with alike, up to the first token of an answer.
    margin: by how much the row says that the better answer is better, 0 where it does not.
    """

    chosen_ids: list[int]
    chosen_labels: list[int]
    rejected_ids: list[int]
    rejected_labels: list[int]
    number: int
    file: str
    margin: float = 0.0

    @property
    def prompt_ids(self) -> list[int]:
        sides = ((self.chosen_ids, self.chosen_labels), (self.rejected_ids, self.rejected_labels))
        asked = [next(place for place, label in enumerate(labels) if label != UNTRAINED) for _, labels in sides]
        return list(commonprefix([ids[: min(asked)] for ids, _ in sides]))


@dataclass(frozen=True)
class PreparedPairs:
    """The pairs that can be trained, in their order, and the report on all rows; its tokens are those of both sides."""

    rows: list[Pair]
    report: Report


@dataclass(frozen=True)
class Pairs:
    """Makes pairs out of preferences; the fields are those of `data.encoding.prepare.Examples`."""

    template: ChatTemplate
    tokenizer: TextTokenizer
    max_length: int | None = None
    cut: Cut = "answer"
    thoughts: Literal["keep", "drop"] = "keep"
    skip: bool = False
    sees: bool = True

    def render(self, rows: Sequence[Row]) -> tuple[list[tuple[Row, list[Rendered] | DataError]], list[str]]:
        rendered = [self._rendered(row) for row in rows]
        return rendered, [side.text for _, said in rendered if not isinstance(said, DataError) for side in said]

    def finish(self, rendered: list[tuple[Row, list[Rendered] | DataError]], encoded: list[Encoded]) -> Batch:
        report, kept, coming = Report(self.template.name), [], iter(encoded)
        for row, said in rendered:
            report.rows += 1
            try:
                if isinstance(said, DataError):
                    raise said
                if sides := self._cut(row, self._views(said, [next(coming) for _ in said]), report):
                    kept.append((row, sides))
            except DataError as problem:
                report.refuse(problem)
        return Batch(self.columns(kept), report)

    @cached_property
    def forms(self) -> Forms:
        return Forms(self.template)

    def located(self, row: Row) -> list[Rendered]:
        talks = [replace(row, messages=[*row.messages, *(said or [])]) for said in (row.chosen, row.rejected)]
        return [self.forms.locate(talk, since=len(row.messages)) for talk in talks]

    def whole(self, row: Row, ids: Sequence[int]) -> bool:
        """Whether the cut left what must not be cut: here, anything may be."""
        return True

    def columns(self, kept: Sequence[tuple[Row, list[Side]]]) -> pa.RecordBatch:
        columns: dict[str, pa.Array] = {}
        for place, name in enumerate(("chosen", "rejected")):
            columns[f"{name}_ids"], columns[f"{name}_labels"] = labelled([sides[place] for _, sides in kept])
        margins = pa.array([margin(row) for row, _ in kept], pa.float64())
        return pa.RecordBatch.from_pydict({**columns, **places([row for row, _ in kept]), "margin": margins})

    def _rendered(self, row: Row) -> tuple[Row, list[Rendered] | DataError]:
        try:
            row = suited(row, ("preference",), self.thoughts, self.sees)
            margin(row)
            return row, self.located(row)
        except DataError as problem:
            return row, problem

    def _views(self, said: Sequence[Rendered], encoded: Sequence[Encoded]) -> list[View]:
        return [
            View(side, tokens, *learnt(side, tokens, self.tokenizer))
            for side, tokens in zip(said, encoded, strict=True)
        ]

    def _again(self, row: Row) -> list[View]:
        said = self.located(row)
        return self._views(said, [self.tokenizer.encode(side.text) for side in said])

    def _cut(self, row: Row, views: Sequence[View], report: Report) -> list[Side]:
        """Both sides within the limit, or nothing when there is nothing left to compare."""
        longest = max(view.needed for view in views)
        report.longest = max(report.longest, longest)
        report.open_rows += not all(view.ends for view in views)
        sides, lost = [(view.encoded.ids, view.stretches) for view in views], ()
        if self.max_length is not None and longest > self.max_length:
            report.cut_rows += 1
            kept = shortened(row, views, self.max_length, self.cut, self._again)
            sides, lost = kept.sides, kept.lost
        taught = all(any(last > 1 for _, last in stretches) for _, stretches in sides)
        if not sides or not taught or not all(self.whole(row, ids) for ids, _ in sides):
            report.drop(row.number)
            report.lose(*(part for part in lost if part == "row"))
            return []
        chosen, rejected = (ids[: stretches[-1][1]] for ids, stretches in sides)
        if chosen == rejected:
            report.drop(row.number)
            report.alike += 1
            return []
        report.lose(*lost)
        report.cut_ends += "answer" in lost
        report.rows_used += 1
        report.examples += 1
        report.tokens += len(chosen) + len(rejected)
        report.trained_tokens += sum(last - max(first, 1) for _, found in sides for first, last in found if last > 1)
        return [(chosen, sides[0][1]), (rejected, sides[1][1])]


def margin(row: Row) -> float:
    """What the column `margin` of a preference says; DataError where that is no number of 0 to a million."""
    said = row.extra.get("margin")
    try:
        found = 0.0 if said is None or said == "" else float(said)
    except (TypeError, ValueError):
        found = math.nan
    if not 0 <= found <= WIDEST:
        hint = "Correct it, or take the column out."
        wrong = f"the margin is {said!r}, which is no number from 0 to {WIDEST:,}."
        raise DataError(wrong, hint, file=row.file, row=row.number)
    return found


def prepare_pairs(
    rows: Sequence[Row], template: ChatTemplate, tokenizer: TextTokenizer, *, workers: int = 0, **options: Any
) -> PreparedPairs:
    """Render, tokenise and mask both sides of every preference, and cut those longer than `max_length` tokens.

    The options are the fields of `Pairs`: max_length, cut, thoughts, skip. Raises one DataError for all rows that the
    template refuses.
    """
    report = Report(template.name)
    maker = Pairs(template, tokenizer, **options)
    found = reported(batches(rows, maker, workers), report, skip=maker.skip)
    return PreparedPairs([Pair(*fields) for batch in found for fields in records(batch)], report)
