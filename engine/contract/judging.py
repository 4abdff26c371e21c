"""Answers that wait for a person, and what the person said of them: two files of a run folder.

`asked.jsonl` is written by the worker, a line for each answer, numbered from 1; `judged.jsonl` by the page, a line for
each judgement, of which the last of a number counts. The worker waits until every answer that it asked about is judged.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.contract.rundir import Run, records

PHASE = "waiting for you"


@dataclass(frozen=True)
class Waiting:
    """One answer to judge. batch: the first number of those that the run waits for together."""

    number: int
    batch: int
    prompt: str
    answer: str


def ask(run: Run, both: Sequence[tuple[str, str]]) -> range:
    """Puts (prompt, answer) pairs before the person; the numbers that these got."""
    first = 1 + max((record["number"] for record in records(run.asked_path)), default=0)
    rows = [Waiting(first + place, first, *pair) for place, pair in enumerate(both)]
    _append(run.asked_path, *(asdict(row) for row in rows))
    return range(first, first + len(rows))


def waiting(run: Run) -> list[Waiting]:
    """What the run waits for now, in its order; what it asked about and does not wait for any more is left out."""
    asked = [Waiting(**{name: record[name] for name in Waiting.__annotations__}) for record in records(run.asked_path)]
    said = judged(run)
    return [one for one in asked if one.batch == asked[-1].batch and one.number not in said]


def judge(run: Run, number: int, score: float) -> None:
    """The person's word on an answer, from 0 to 1."""
    if not 0 <= score <= 1:
        raise ValueError(f"{score} is not from 0 to 1")
    _append(run.judged_path, {"number": number, "score": score})


def judged(run: Run) -> Mapping[int, float]:
    """The person's scores by number."""
    return {record["number"]: float(record["score"]) for record in records(run.judged_path)}


def _append(path: Path, *rows: Mapping[str, Any]) -> None:
    """Whole lines, by one write."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        while lines:
            lines = lines[os.write(descriptor, lines) :]
    finally:
        os.close(descriptor)
