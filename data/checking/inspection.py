"""What a run will make of its rows, as `data.checking.survey` found it: lengths, what is cut, what is trained, what is
wrong.

A record that goes from one process to another as JSON. Knows nothing of how rows are read or turned into tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict

from data.checking.fitness import Found
from data.review.finding import Level
from data.rows.conversation import Row

FAR = 4  # times the length that 95 % of the rows do not exceed: what is longer would leave no room for the others


class Bin(BaseModel):
    """Rows of `low` to `high` tokens, both counted in."""

    model_config = ConfigDict(frozen=True)

    low: int
    high: int
    rows: int


class Inspection(BaseModel):
    """What became of the rows that were looked at. Tokens and trained tokens are those after the cut.

    total: rows to train on; a guess where only the heads of files were read.   rows: those looked at. unseen: of these,
    rows whose pictures count as one token each, because only a processor knows better. used: those left to train on.
    sequences: what these come to, packed where they are to be. lengths: tokens before the cut -> rows.   cut: rows that
    lose something, and `lost` the part (`data.encoding.cut`) -> rows. shown: `first`, `random`, `longest` or the kind
    of a finding -> rows to look at.
    """

    model_config = ConfigDict(frozen=True)

    template: str
    max_length: int
    total: int
    held_out: int
    rows: int
    unseen: int = 0
    used: int = 0
    tokens: int = 0
    trained: int = 0
    sequences: int = 0
    lengths: dict[int, int] = {}
    cut: int = 0
    lost: dict[str, int] = {}
    findings: tuple[Found, ...] = ()
    shown: dict[str, list[Row]] = {}

    @property
    def exact(self) -> bool:
        return self.rows == self.total and not self.unseen

    @property
    def scale(self) -> float:
        """What it takes to get from the rows looked at to all of them."""
        return self.total / self.rows if self.rows else 1.0

    @property
    def longest(self) -> int:
        return max(self.lengths, default=0)

    def of(self, level: Level) -> list[Found]:
        return [finding for finding in self.findings if finding.level == level]

    def quantile(self, share: float) -> int:
        """The tokens that `share` (0 to 1) of the rows do not exceed."""
        wanted, seen = share * sum(self.lengths.values()), 0
        for length in sorted(self.lengths):
            seen += self.lengths[length]
            if seen >= wanted:
                return length
        return 0

    def histogram(self, bins: int = 24) -> list[Bin]:
        """The lengths in about `bins` ranges of one round width from 0 on; the last one also holds what is far longer
        than all others, and than allowed."""
        most = self.quantile(0.95)
        far = min(self.longest, max(2 * most, self.max_length + most)) if self.longest > FAR * most else self.longest
        width = next(step for step in round_widths() if step * bins > far)
        last = far // width
        rows = Counter[int]()
        for length, number in self.lengths.items():
            rows[min(length // width, last)] += number
        found = [Bin(low=at * width, high=(at + 1) * width - 1, rows=rows[at]) for at in range(last + 1)]
        return [*found[:-1], found[-1].model_copy(update={"high": max(found[-1].high, self.longest)})]


def round_widths() -> Iterator[int]:
    """Widths that people can read: 1, 2, 5, 10, 20, 50, ..."""
    power = 1
    while True:
        yield from (power, 2 * power, 5 * power)
        power *= 10
