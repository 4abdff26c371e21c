"""From conversations and texts to the token ids and labels that are trained, with a report of what became of every row.

The page's count, the pre-flight and the engine all come here, so what is shown is what is trained: `prepare` for rows
in memory, `prepare_stream` for as many as there are, `batches` behind both for columns. Knows nothing of devices,
models or files.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from data.encoding.batches import CHUNK as CHUNK
from data.encoding.batches import Batch, arrow, batches, column, records
from data.encoding.cut import Cut, View, shortened
from data.encoding.forms import Forms
from data.encoding.mask import Heavy, Rendered, Stretches, TrainOn, learnt
from data.encoding.outcome import Report as Report
from data.encoding.render import ChatTemplate
from data.encoding.tokens import Encoded, TextTokenizer
from data.rows.conversation import REASONING, Message, Row
from engine.contract.errors import DataError

UNTRAINED = -100  # the label that torch's cross entropy ignores
REFUSED = 1000  # rows; so many that cannot be rendered end a stream before its end
THOUGHT = re.compile(r"\A\s*<think>.*?</think>\s*", re.DOTALL)  # in the text of an answer, as many datasets have it
UNSUITED = {
    "prompt": "asks and is not answered, so there is nothing to learn from.",
    "preference": "holds two answers to choose from, and supervised training learns from one.",
    "feedback": "says whether its answer is good; supervised training would learn the bad ones too.",
    "scored": "says how good its answer is; supervised training would learn the bad ones too.",
    "conversation": "holds one answer, and a preference needs two.",
    "text": "is plain text, and a preference needs a question and two answers.",
}


@dataclass(frozen=True)
class Example:
    """One row ready to train: `labels[i]` is `input_ids[i]`, or -100 where nothing is trained (not yet shifted).

    weights: first, last and weight of each range of tokens that weighs otherwise than 1, one behind the other.
    """

    input_ids: list[int]
    labels: list[int]
    number: int
    file: str
    weights: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Prepared:
    """The rows that can be trained, in their order, and the report on all of them."""

    rows: list[Example]
    report: Report


@dataclass(frozen=True)
class Examples:
    """Makes examples out of conversations and texts; its fields are the options of `prepare`.

    max_length: tokens; None for no limit.   cut: what goes from a longer row (`data.encoding.cut`).
    thoughts: `drop` takes them out of the messages before rendering.
    skip: leave rows out that cannot be rendered, and count them, instead of refusing all.
    sees: whether rows may show pictures.
    """

    template: ChatTemplate
    tokenizer: TextTokenizer
    train_on: TrainOn = "assistant"
    max_length: int | None = None
    cut: Cut = "answer"
    thoughts: Literal["keep", "drop"] = "keep"
    skip: bool = False
    sees: bool = True

    def render(self, rows: Sequence[Row]) -> tuple[list[tuple[Row, Rendered | DataError]], list[str]]:
        rendered = [self._rendered(row) for row in rows]
        return rendered, [said.text for _, said in rendered if isinstance(said, Rendered)]

    def finish(self, rendered: list[tuple[Row, Rendered | DataError]], encoded: list[Encoded]) -> Batch:
        report, kept, coming = Report(self.template.name), [], iter(encoded)
        for row, said in rendered:
            report.rows += 1
            try:
                if isinstance(said, DataError):
                    raise said
                tokens = next(coming)
                pieces = self._pieces if row.kind == "text" else self._cut
                kept += [(row, ids, stretches) for ids, stretches in pieces(row, said, tokens, report)]
            except DataError as problem:
                report.refuse(problem)
        return Batch(self.columns(kept), report)

    @cached_property
    def forms(self) -> Forms:
        return Forms(self.template, self.train_on)

    def located(self, row: Row) -> Rendered:
        return self.forms.locate(row)

    def whole(self, row: Row, ids: Sequence[int]) -> bool:
        """Whether the cut left what must not be cut: here, anything may be."""
        return True

    def columns(self, kept: Sequence[tuple[Row, list[int], Stretches]]) -> pa.RecordBatch:
        ids, labels = labelled([(ids, stretches) for _, ids, stretches in kept])
        heavy = [[number for one in stretches if isinstance(one, Heavy) for number in (*one, one.weight)]
                 for _, _, stretches in kept]  # fmt: skip
        return pa.RecordBatch.from_pydict(
            {"input_ids": ids, "labels": labels, **places([row for row, _, _ in kept]),
             "weights": pa.array(heavy, pa.list_(pa.float64()))}
        )  # fmt: skip

    def _rendered(self, row: Row) -> tuple[Row, Rendered | DataError]:
        if row.kind == "text":
            return row, Rendered(row.text or "", [])
        try:
            row = suited(row, ("conversation",), self.thoughts, self.sees)
            return row, self.located(row)
        except DataError as problem:
            return row, problem

    def _cut(self, row: Row, said: Rendered, tokens: Encoded, report: Report) -> Iterator[tuple[list[int], Stretches]]:
        """The row within the limit, or nothing when no trained token is left."""
        view = View(said, tokens, *learnt(said, tokens, self.tokenizer))
        report.longest = max(report.longest, len(tokens))
        report.open_rows += not view.ends
        ids: Collection[int] = tokens.numbers
        stretches, lost = view.stretches, ()
        if self.max_length is not None and len(tokens) > self.max_length:
            report.cut_rows += 1
            kept = shortened(row, [view], self.max_length, self.cut, self._again)
            (ids, stretches), lost = kept.sides[0] if kept.sides else ([], []), kept.lost
        if not (trained := _trained(stretches)) or not self.whole(row, ids):
            report.drop(row.number)
            report.lose(*(part for part in lost if part == "row"))
            return
        report.lose(*lost)
        report.cut_ends += "answer" in lost
        report.rows_used += 1
        _count(report, ids, trained)
        yield ids, stretches

    def _again(self, row: Row) -> list[View]:
        said = self.located(row)
        tokens = self.tokenizer.encode(said.text)
        return [View(said, tokens, *learnt(said, tokens, self.tokenizer))]

    def _pieces(
        self, row: Row, said: Rendered, tokens: Encoded, report: Report
    ) -> Iterator[tuple[list[int], Stretches]]:
        """A text and its end, in as many pieces as it takes.

        Each begins with the last token of the one before: the first token of an example is never predicted, so every
        token is, and once.
        """
        end = [] if self.tokenizer.eos_id is None else [self.tokenizer.eos_id]
        ids = [*self.tokenizer.begins, *tokens.ids, *end]
        limit = max(2, self.max_length or len(ids))
        report.longest = max(report.longest, len(ids))
        report.open_rows += not end
        report.divided += len(ids) > limit
        if len(ids) < 2:
            report.drop(row.number)
            return
        report.rows_used += 1
        for begin in range(0, len(ids) - 1, limit - 1):
            piece = ids[begin : begin + limit]
            _count(report, piece, len(piece) - 1)
            yield piece, [(0, len(piece))]


def prepare(
    rows: Sequence[Row], template: ChatTemplate, tokenizer: TextTokenizer, *, workers: int = 0, **options: Any
) -> Prepared:
    """Render, tokenise and mask every row, and cut those that are longer than `max_length` tokens.

    The options are the fields of `Examples`: train_on, max_length, cut, thoughts, skip. Rows that keep no trained token
    are left out and named in the report. `workers` processes share a large set; the result does not depend on their
    number. Raises one DataError for all rows that the template refuses.
    """
    report = Report(template.name)
    examples = list(prepare_stream(rows, template, tokenizer, report=report, workers=workers, **options))
    return Prepared(examples, report)


def prepare_stream(
    rows: Iterable[Row],
    template: ChatTemplate,
    tokenizer: TextTokenizer,
    *,
    report: Report,
    workers: int = 0,
    **options: Any,
) -> Iterator[Example]:
    """As `prepare`, an example at a time, in memory that does not grow with the rows; `report` grows as rows are seen.

    The refusal of rows comes at the end, or behind the first 1,000 that are refused.
    """
    maker = Examples(template, tokenizer, **options)
    for batch in reported(batches(rows, maker, workers), report, skip=maker.skip):
        for fields in records(batch):
            yield Example(*fields)


def reported(found: Iterable[Batch], report: Report, *, skip: bool = False) -> Iterator[Batch]:
    """The batches, counted; raises DataError for the rows that were refused, unless they are to be skipped."""
    for batch in found:
        report.add(batch.report)
        if not skip and report.refused >= REFUSED:
            break
        yield batch
    if not skip:
        report.stop_if_refused()


def suited(row: Row, kinds: Sequence[str], thoughts: str, sees: bool = True) -> Row:
    """The row without its thoughts if these are to be dropped; raises DataError for a row of no use to the task."""
    if row.kind not in kinds:
        hint = "Choose the task that learns from such rows, or other rows."
        raise DataError(f"the row {UNSUITED[row.kind]}", hint, file=row.file, row=row.number)
    if not sees and any(isinstance(turn["content"], list) for turn in [*row.messages, *(row.chosen or [])]):
        hint = "Choose a model that sees, such as Qwen2.5-VL, Gemma 3 or LLaVA, or other rows."
        raise DataError("the row shows a picture, and the model reads text alone.", hint, file=row.file, row=row.number)
    if thoughts == "keep":
        return row
    sides = [None if said is None else [_thoughtless(turn) for turn in said] for said in (row.chosen, row.rejected)]
    return replace(row, messages=[_thoughtless(turn) for turn in row.messages], chosen=sides[0], rejected=sides[1])


def _thoughtless(message: Message) -> Message:
    if message["role"] != "assistant":
        return message
    plain = {key: value for key, value in message.items() if key not in REASONING}
    if isinstance(plain["content"], str):
        plain["content"] = THOUGHT.sub("", plain["content"])
    return plain


def _trained(stretches: Stretches) -> int:
    """Tokens that the loss falls on: the first of a row is never predicted."""
    return sum(last - max(first, 1) for first, last in stretches if last > 1)


def _count(report: Report, ids: Sequence[int], trained: int) -> None:
    report.examples += 1
    report.tokens += len(ids)
    report.trained_tokens += trained


def labelled(sides: Sequence[tuple[list[int], Stretches]]) -> tuple[pa.ListArray, pa.ListArray]:
    """Token ids and their trained stretches as two columns: the ids, and the labels."""
    values, bounds = column([ids for ids, _ in sides])
    labels = np.full_like(values, UNTRAINED)
    for begin, (_, stretches) in zip(bounds.tolist(), sides, strict=False):
        for first, last in stretches:
            labels[begin + first : begin + last] = values[begin + first : begin + last]
    return arrow(values, bounds), arrow(labels, bounds)


def places(rows: Sequence[Row]) -> dict[str, pa.Array]:
    """Where rows were read, as columns."""
    numbers, files = [row.number for row in rows], [row.file for row in rows]
    return {"number": pa.array(numbers, pa.int64()), "file": pa.array(files, pa.string())}
