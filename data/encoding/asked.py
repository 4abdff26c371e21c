"""From rows to questions that the model answers itself: token ids up to where it writes on, and what judges its answer.

A row without an answer is asked as it is. Of a conversation the last answer is taken off and kept as the right one. A
question that leaves no room for an answer is left out and counted. Knows nothing of rewards or models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pyarrow as pa

from data.encoding.batches import Batch, arrow, column
from data.encoding.outcome import Report
from data.encoding.prepare import THOUGHT, places, suited
from data.encoding.render import ChatTemplate
from data.encoding.tokens import Encoded, TextTokenizer
from data.rows.conversation import Row, said
from engine.contract.errors import DataError

ASKED = ("prompt", "conversation")  # kinds of row that can be asked
RIGHT = ("answer", "solution", "ground_truth", "gold", "target", "reference", "expected", "label", "output",
         "completion", "response", "sql", "query")  # fmt: skip
"""Columns that hold the right answer of a question, the likeliest first."""


def question(row: Row, right: str = "") -> Row:
    """The row as a question alone; the right answer, if it has one, is `answer` in its `extra`.

    right: the column of the right answer; empty takes the conversation's last answer, or the first of `RIGHT`.
    """
    messages, answer = row.messages, None
    if row.kind == "conversation":
        last = max(at for at, message in enumerate(messages) if message["role"] == "assistant")
        answer = THOUGHT.sub("", said(messages[last])).strip()
        messages = messages[:last]
    names = (right,) if right else () if answer else RIGHT
    told = next((_text(row.extra[name]) for name in names if row.extra.get(name) is not None), None)
    extra = {name: value for name, value in row.extra.items() if name != "answer"}
    extra |= {"answer": found} if (found := told if right else told or answer) else {}
    return replace(row, messages=messages, kind="prompt", extra=extra)


def ready(row: Row, right: str = "", *, compares: bool = False, needs: Sequence[str] = ()) -> Row:
    """As `question`; DataError where nothing is asked, no right answer is there and the rewards compare with one, or a
    column that they need is not."""
    asked = question(row, right)
    if not asked.messages:
        raise DataError("nothing is asked before the answer.", "Add the question.", file=row.file, row=row.number)
    if compares and not asked.extra.get("answer"):
        hint = "Name the column that has it (task.rewards.column), or choose rewards that need none."
        raise DataError("the row has no right answer to compare with.", hint, file=row.file, row=row.number)
    if missing := [name for name in needs if row.extra.get(name) in (None, "")]:
        hint = "Choose another, under Rewards (task.rewards)."
        raise DataError(f"the row has nothing in its column {missing[0]}.", hint, file=row.file, row=row.number)
    return asked


def _text(value: Any) -> str:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def facts(example: Mapping[str, Any]) -> dict[str, Any]:
    """What judges the answer to an example: the row's own columns, `prompt` (its messages), and `answer` if there is
    a right one."""
    return dict(json.loads(example["row"]))


@dataclass(frozen=True)
class Asked:
    """Makes questions out of rows, one example each: `input_ids`, and `row` for `facts`.

    max_length: tokens of the question; None for no limit.   right: as in `question`.
    compares: whether a row must have a right answer.   needs: further columns that it must have.   The other fields are
    those of `data.encoding.prepare.Examples`.
    """

    template: ChatTemplate
    tokenizer: TextTokenizer
    max_length: int | None = None
    thoughts: Literal["keep", "drop"] = "keep"
    skip: bool = False
    sees: bool = False
    right: str = ""
    compares: bool = False
    needs: tuple[str, ...] = ()

    def render(self, rows: Sequence[Row]) -> tuple[list[tuple[Row, str | DataError]], list[str]]:
        rendered = [self._rendered(row) for row in rows]
        return rendered, [text for _, text in rendered if isinstance(text, str)]

    def finish(self, rendered: list[tuple[Row, str | DataError]], encoded: list[Encoded]) -> Batch:
        report, kept, coming = Report(self.template.name), [], iter(encoded)
        for row, text in rendered:
            report.rows += 1
            if isinstance(text, DataError):
                report.refuse(text)
                continue
            ids = next(coming).ids
            report.longest = max(report.longest, len(ids))
            if self.max_length is not None and len(ids) > self.max_length:
                report.cut_rows += 1
                report.lose("row")
                report.drop(row.number)
                continue
            report.rows_used += 1
            report.examples += 1
            report.tokens += len(ids)
            kept.append((row, ids))
        return Batch(self._columns(kept), report)

    def _rendered(self, row: Row) -> tuple[Row, str | DataError]:
        try:
            fit = suited(row, ASKED, self.thoughts, self.sees)
            asked = ready(fit, self.right, compares=self.compares, needs=self.needs)
            return asked, self.template.render(asked.messages, asked.tools, add_generation_prompt=True)
        except DataError as problem:
            return row, DataError(problem.reason, problem.hint, file=row.file, row=row.number)

    def _columns(self, kept: Sequence[tuple[Row, list[int]]]) -> pa.RecordBatch:
        written = [
            json.dumps({**row.extra, "prompt": row.messages}, ensure_ascii=False, default=str) for row, _ in kept
        ]
        ids = arrow(*column([ids for _, ids in kept]))
        rows = [row for row, _ in kept]
        return pa.RecordBatch.from_pydict({"input_ids": ids, "row": pa.array(written, pa.string()), **places(rows)})
