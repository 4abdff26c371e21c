"""Which rows are held out: by shares or by number, with a seed, and with no question on two sides.

Knows nothing of files, formats or tokens.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Sequence

from data.conversation import Row
from engine.contract.errors import DataError


def split(rows: Sequence[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Training and validation rows, in their order; about `share` (0 to 1) of the rows are held out for validation.

    Rows that begin alike (same text up to the first answer) stay together, so no question is on both sides. The same
    seed gives the same split. Raises DataError when nothing can be held out.
    """
    if share <= 0:
        return list(rows), []
    groups: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        groups[_opening(row)].append(index)
    keys = list(groups)
    random.Random(seed).shuffle(keys)
    wanted = max(1, round(share * len(rows)))
    held: set[int] = set()
    for key in sorted(keys, key=lambda key: len(groups[key]) > wanted):  # stable: large groups last
        if len(held) + len(groups[key]) <= wanted or not held:
            held.update(groups[key])
    if len(held) >= len(rows):
        raise DataError(
            "no rows can be held out for validation: all begin with the same question.",
            "Set the validation share to 0, or choose a dataset with different questions.",
            file=rows[0].file if rows else None,
        )
    return (
        [row for index, row in enumerate(rows) if index not in held],
        [row for index, row in enumerate(rows) if index in held],
    )


def _opening(row: Row) -> str:
    said = [message["role"] for message in row.messages].index("assistant")
    return json.dumps(row.messages[:said] or row.messages, ensure_ascii=False, sort_keys=True, default=str)
