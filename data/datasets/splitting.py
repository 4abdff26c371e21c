"""Which rows are held out: by shares or by number, with a seed, and with no question on two sides.

Knows nothing of files, formats or tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from data.datasets.lots import Numbers, lots
from data.review.finding import NAMED, Finding
from data.rows.conversation import Message, Row
from engine.contract.dataset import Split
from engine.contract.errors import DataError


class Sides(NamedTuple):
    """The places of the rows of each side, each in their order; int64."""

    train: Numbers
    validation: Numbers
    test: Numbers


def opening(row: Row) -> int:
    """What a row asks, as a number of 64 bits: all that is said before the first answer, whatever its white space and
    case. A row of plain text asks all that it says."""
    if row.text is not None:
        said = [row.text]
    else:
        turns = row.messages or row.chosen or []
        first = next((place for place, turn in enumerate(turns) if turn["role"] == "assistant"), len(turns))
        said = [part for turn in turns[:first] or turns for part in (turn["role"], content(turn))]
    normal = "\0".join(" ".join(part.split()).casefold() for part in said)
    return int.from_bytes(hashlib.blake2b(normal.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def content(turn: Message) -> str:
    """The text of a message; of its pictures and films, where they lie."""
    if isinstance(turn["content"], str):
        return turn["content"]
    return "\n".join(str(part.get(part["type"], "")) for part in turn["content"])


def openings(rows: Iterable[Row]) -> Numbers:
    """The opening of each row; (rows,) uint64, and so 8 bytes a row are all that is kept."""
    return np.fromiter(map(opening, rows), dtype=np.uint64)


def sides(asked: Numbers, split: Split, seed: int) -> Sides:
    """The places of the rows that open as `asked` says, for training, validation and test.

    Rows that open alike stay together. Each side that holds out is as large as the split says, or as near as that
    allows, and has a row at least. Whether a row is held out depends on what it asks and on the seed, so rows that
    are added later move few others. Raises DataError when nothing would be left to train on.
    """
    count = len(asked)
    wanted = [round(share) if split.counted else round(share * count) for share in (split.validation, split.test)]
    wanted = [max(1, rows) if share else 0 for share, rows in zip((split.validation, split.test), wanted, strict=True)]
    if not any(wanted) or not count:
        return Sides(np.arange(count), np.arange(0), np.arange(0))
    if sum(wanted) >= count > 1:
        raise DataError(
            f"{sum(wanted):,} rows are to be held out, and there are {count:,}.",
            "Hold out fewer rows (data.split).",
        )
    questions, group, sizes = np.unique(asked, return_inverse=True, return_counts=True)
    drawn = lots(questions, seed, "split")
    side = np.zeros(len(sizes), dtype=np.int8)  # of each question: 0 trains, 1 validates, 2 tests
    if len(sizes) < 1 + sum(map(bool, wanted)):
        asked_by_all = (
            "all begin with the same question" if len(sizes) == 1 else "they ask two different questions only"
        )
        raise DataError(
            f"no rows can be held out for {' and '.join(_named(wanted))}: {asked_by_all}.",
            "Set the validation share to 0, or choose a dataset with different questions.",
        )
    for number, rows in enumerate(wanted, start=1):
        if rows:
            free = np.flatnonzero(side == 0)
            most = len(free) - 1 - sum(map(bool, wanted[number:]))  # every side after this one gets a question too
            side[_taken(free, sizes, drawn, rows)[:most]] = number
    of_row = side[group]
    return Sides(*(np.flatnonzero(of_row == number) for number in range(3)))


def _named(wanted: Sequence[int]) -> list[str]:
    return [name for name, rows in zip(("validation", "test"), wanted, strict=True) if rows]


def _taken(groups: Numbers, sizes: Numbers, drawn: Numbers, wanted: int) -> list[int]:
    """Groups in the order of their lots that come to `wanted` rows; when all are larger, the smallest of them."""
    over = np.maximum(sizes[groups] - wanted, 0)
    taken: list[int] = []
    left = wanted
    for group in groups[np.lexsort((drawn[groups], over))]:
        if sizes[group] <= left or not taken:
            taken.append(int(group))
            left -= int(sizes[group])
            if left <= 0:
                break
    return taken


def overlap(train: Iterable[Row], held: Iterable[Row], name: str = "held out") -> list[Finding]:
    """A warning when rows that are trained on ask what rows held out ask, whose answers are then no surprise."""
    asked = set(openings(held).tolist())
    if not asked:
        return []
    numbers: list[int] = []
    count = 0
    for row in train:
        if opening(row) in asked:
            count += 1
            if len(numbers) < NAMED:
                numbers.append(row.number)
    if not count:
        return []
    said = "1 row that is trained on asks" if count == 1 else f"{count:,} rows that are trained on ask"
    return [
        Finding(
            "leakage",
            "warning",
            f"{said} what a row that is {name} asks, so the measured loss flatters the model.",
            count,
            tuple(numbers),
            "Exclude them from training, or hold out a share of the rows instead.",
            "exclude",
        )
    ]
