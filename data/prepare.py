"""From conversations to the token ids and labels that are trained, with a report of what became of every row.

The page's count, the pre-flight and the engine all call `prepare`, so what is shown is what is trained. Knows nothing
of batches, devices or models.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from data.conversation import Row
from data.formats import NAMED
from data.mask import Tokens, TrainOn, locate, mark
from data.render import ChatTemplate
from data.tokens import TextTokenizer
from engine.contract.errors import DataError

UNTRAINED = -100  # the label that torch's cross entropy ignores
CHUNK = 500  # rows that are tokenised at once; also the smallest share of work for one process


@dataclass(frozen=True)
class Example:
    """One row ready to train: `labels[i]` is `input_ids[i]`, or -100 where nothing is trained (not yet shifted)."""

    input_ids: list[int]
    labels: list[int]
    number: int
    file: str


@dataclass
class Report:
    """What became of the rows; tokens and trained tokens are those of the rows used, after the cut."""

    template: str
    rows: int = 0
    rows_used: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    longest: int = 0  # tokens, before the cut
    cut_rows: int = 0
    cut_ends: int = 0  # rows used whose end-of-turn was cut off
    open_rows: int = 0  # rows with a turn that the template leaves without an end-of-turn
    dropped_rows: list[int] = field(default_factory=list)

    @property
    def share_cut(self) -> float:
        """Share of the rows, from 0 to 1, that are longer than allowed."""
        return self.cut_rows / self.rows if self.rows else 0.0

    @property
    def end_of_turn_trained(self) -> bool:
        """Whether the template closes every trained turn with a special token."""
        return self.open_rows == 0

    @property
    def warnings(self) -> list[str]:
        """A sentence for everything that a user should know before training."""
        found = []
        if self.cut_rows:
            lost = f"; {self.cut_ends} of them lose the end of the answer" if self.cut_ends else ""
            found.append(f"{self.cut_rows} of {self.rows} rows are longer than the maximum and are cut{lost}.")
        if self.dropped_rows:
            named = ", ".join(map(str, self.dropped_rows[:NAMED])) + (", ..." if len(self.dropped_rows) > NAMED else "")
            count = len(self.dropped_rows)
            subject = (
                "1 row has no trained token left and is"
                if count == 1
                else f"{count} rows have no trained token left and are"
            )
            found.append(f"{subject} not used: {named}.")
        if self.open_rows:
            found.append(
                f"In {self.open_rows} rows the template {self.template} ends a turn without a special token, "
                "so the model does not learn where to stop."
            )
        return found


@dataclass(frozen=True)
class Prepared:
    """The rows that can be trained, in their order, and the report on all of them."""

    rows: list[Example]
    report: Report


def prepare(
    rows: Sequence[Row],
    template: ChatTemplate,
    tokenizer: TextTokenizer,
    *,
    train_on: TrainOn = "assistant",
    max_length: int | None = None,
    workers: int = 0,
) -> Prepared:
    """Render, tokenise and mask every row, then cut it to `max_length` tokens from the right.

    Rows that keep no trained token are left out and named in the report. `workers` processes share a large set; the
    result does not depend on their number. Raises one DataError for all rows that the template refuses.
    """
    report = Report(template.name)
    examples: list[Example] = []
    refused: list[tuple[Row, DataError]] = []
    for row, tokens in zip(rows, _tokenised(rows, template, tokenizer, train_on, workers), strict=True):
        if isinstance(tokens, DataError):
            refused.append((row, tokens))
        else:
            _take(row, tokens, max_length, examples, report)
    if refused:
        raise _all_refused(refused, len(rows))
    return Prepared(examples, report)


def _take(row: Row, tokens: Tokens, max_length: int | None, examples: list[Example], report: Report) -> None:
    length = len(tokens.ids)
    ids, trained = tokens.ids[:max_length], tokens.trained[:max_length]
    report.rows += 1
    report.longest = max(report.longest, length)
    report.open_rows += not tokens.ends
    report.cut_rows += len(ids) < length
    # the first token of a row is never predicted, so it counts as trained only from the second on
    if not any(trained[1:]):
        report.dropped_rows.append(row.number)
        return
    report.cut_ends += True in tokens.trained[len(ids) :]
    report.rows_used += 1
    report.tokens += len(ids)
    report.trained_tokens += sum(trained[1:])
    labels = [id if learnt else UNTRAINED for id, learnt in zip(ids, trained, strict=True)]
    examples.append(Example(ids, labels, row.number, row.file))


def _all_refused(refused: list[tuple[Row, DataError]], total: int) -> DataError:
    if len(refused) == 1:
        return refused[0][1]
    lines = [f"  {problem.text}" for _, problem in refused[:NAMED]]
    if len(refused) > NAMED:
        lines.append(f"  and {len(refused) - NAMED} more")
    return DataError(f"{len(refused)} of {total} rows cannot be rendered:\n" + "\n".join(lines), refused[0][1].hint)


def _tokenised(
    rows: Sequence[Row], template: ChatTemplate, tokenizer: TextTokenizer, train_on: TrainOn, workers: int
) -> Iterator[Tokens | DataError]:
    chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
    if workers < 2 or len(chunks) < 2:
        for chunk in chunks:
            yield from _chunk(chunk, template, tokenizer, train_on)
        return
    spawn = multiprocessing.get_context("spawn")  # a forked copy of a process with threads can hang
    with ProcessPoolExecutor(min(workers, len(chunks)), spawn, _equip, (template, tokenizer, train_on)) as pool:
        for done in pool.map(_work, chunks):
            yield from done


def _chunk(
    rows: Sequence[Row], template: ChatTemplate, tokenizer: TextTokenizer, train_on: TrainOn
) -> list[Tokens | DataError]:
    rendered = []
    for row in rows:
        try:
            rendered.append(locate(row, template, train_on))
        except DataError as problem:
            rendered.append(problem)
    encoded = iter(tokenizer.encode_batch([item.text for item in rendered if not isinstance(item, DataError)]))
    return [item if isinstance(item, DataError) else mark(item, next(encoded), tokenizer) for item in rendered]


_equipment: tuple[ChatTemplate, TextTokenizer, TrainOn]  # set once in each worker process


def _equip(template: ChatTemplate, tokenizer: TextTokenizer, train_on: TrainOn) -> None:
    global _equipment
    _equipment = template, tokenizer, train_on


def _work(rows: Sequence[Row]) -> list[Tokens | DataError]:
    return _chunk(rows, *_equipment)
