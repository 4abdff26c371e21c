"""Whether a new row says much the same as one before it: the share of word runs that two rows have in common.

Exact over all rows seen (Jaccard's index over runs of three words), found by the runs that they share, so that a row is
compared with its kin alone. For sets that fit in memory; `data.review.findings` looks at files of any size.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

RUN = 3  # words
COMMON = 200  # a run of words that so many rows have says nothing about kinship


class Likeness:
    """Remembers rows. `limit` from 0 to 1: rows with this share in common, or more, are alike.

    questions: only what the user says is compared, as where the answers stay and the questions are new.
    """

    def __init__(self, limit: float, *, questions: bool = False) -> None:
        self.limit, self.questions = limit, questions
        self._rows: set[str] = set()
        self._sizes: list[int] = []
        self._with: dict[tuple[str, ...], list[int]] = defaultdict(list)

    def is_new(self, record: Mapping[str, Any]) -> bool:
        """Whether no row before was alike; then it is remembered."""
        turns = [turn for turn in record["messages"] if not self.questions or turn["role"] == "user"]
        said = json.dumps([_said(turn) for turn in turns], ensure_ascii=False)
        if said in self._rows:
            return False
        runs = _runs(said)
        shared = Counter(other for run in runs for other in self._with.get(run, ())[:COMMON])
        for other, common in shared.items():
            if self.limit < 1 and common / (len(runs) + self._sizes[other] - common) >= self.limit:
                return False
        self._rows.add(said)
        for run in runs:
            self._with[run].append(len(self._sizes))
        self._sizes.append(len(runs))
        return True


def _said(turn: Mapping[str, Any]) -> Any:
    content = turn["content"]
    return " ".join(content.casefold().split()) if isinstance(content, str) else content


def _runs(said: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", said)
    return {tuple(words[start : start + RUN]) for start in range(max(1, len(words) - RUN + 1))}
