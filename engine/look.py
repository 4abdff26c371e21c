"""`look`: every row of one dataset, gone through for the page, which itself holds only a window of a large one.

    python -m engine look ENTRY.json        prints the answer as JSON; how far it is goes to stderr

Imports no torch, and gives way to whatever else the machine does. What is looked for is `data.review.findings`' to
know.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from data.datasets import registry
from data.datasets.patch import Patch
from data.reading import files
from data.review import findings
from data.review.finding import LookedThrough
from data.rows import formats
from data.rows.conversation import Row
from engine.contract.errors import ArgsError, Problem

SAY_SECONDS = 0.5
GIVE_WAY = 10  # of the 19 steps that a process can be nicer
NAMED = 100_000  # rows that a finding lists, so that a mend need not look again


def main(words: Sequence[str], workspace: Path) -> int:
    """`look ENTRY.json`: the entry of a dataset, saved or not, as the page has it."""
    if len(words) != 1:
        raise ArgsError([Problem("", f"look takes the file of one dataset's entry, here are {len(words)}.")])
    os.nice(GIVE_WAY)
    entry = registry.Entry.model_validate_json(Path(words[0]).read_text(encoding="utf-8"))
    print(through(entry).model_dump_json())
    return 0


def through(entry: registry.Entry) -> LookedThrough:
    """What is wrong or odd in all rows that would be trained, and changes that are not made because rows are others."""
    said = Progress(entry)
    rows = registry.rows(entry, formats.Problems())
    found = findings.look(said.through(rows), NAMED)
    if entry.patch and entry.patch.exists():
        found = [*Patch.of(entry.patch).stale(registry.original(entry, formats.Problems())), *found]
    return LookedThrough(rows=said.done, findings=tuple(found))


class Progress:
    """Counts rows, and says how many there were."""

    def __init__(self, entry: registry.Entry) -> None:
        self.done = 0
        counted = entry.path.suffix.lower() in files.QUICK  # others are counted by parsing them
        self._of = f" of {registry.count(entry).rows:,}" if counted else ""

    def through(self, rows: Iterable[Row]) -> Iterator[Row]:
        said = time.monotonic()
        for row in rows:
            self.done += 1
            yield row
            if time.monotonic() - said > SAY_SECONDS:
                said = time.monotonic()
                print(f"{self.done:,}{self._of} rows", file=sys.stderr, flush=True)
