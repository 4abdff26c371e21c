"""Finds what is wrong in rows that judge answers: pairs that say nothing, verdicts that contradict, one-sided sets."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np

from data.datasets.lots import lots
from data.datasets.splitting import opening
from data.review.duplicates import key
from data.review.finding import Finding
from data.review.rules import Rule, about, rows
from data.review.utterance import Utterance
from data.rows.conversation import Message, said

ENOUGH = 20  # rows from which on a share means something
LONGER = 0.7  # share of pairs from which on length alone tells the better answer
RARE = 0.1  # share of the labels below which the rarer side is too rare


def _answer(turns: list[Message] | None) -> str:
    return "\n".join(said(turn).strip() + str(turn.get("tool_calls") or "") for turn in turns or [])


def _equal(utterance: Utterance) -> str:
    row = utterance.row
    return "found" if row.kind == "preference" and _answer(row.chosen) == _answer(row.rejected) else ""


RULES = (
    Rule("equal_answers", "warning", "has the same answer as the better and the worse one",
         "have the same answer as the better and the worse one", _equal, "Nothing can be learnt from it; exclude it."),
)  # fmt: skip


class Judgements:
    """Counts labels, scores and lengths over all rows, and remembers what was said good and what bad."""

    def __init__(self) -> None:
        self._numbers, self._asked = array("q"), array("Q")
        self._good, self._bad = array("q"), array("q")  # keys of the answers; 0 where there is none
        self._longer = self._shorter = 0
        self._lengths = [0, 0]
        self._labels = {True: array("q"), False: array("q")}
        self._scores: set[float] = set()
        self._scored = array("q")

    def look(self, utterance: Utterance) -> None:
        row = utterance.row
        if row.kind == "preference":
            chosen, rejected = _answer(row.chosen), _answer(row.rejected)
            if chosen == rejected:
                return
            self._lengths[0] += len(chosen)
            self._lengths[1] += len(rejected)
            self._longer += len(chosen) > len(rejected)
            self._shorter += len(chosen) < len(rejected)
            self._judge(utterance, key(chosen), key(rejected))
        elif row.kind == "feedback" and row.label is not None:
            self._labels[row.label].append(row.number)
            said = key(utterance.answered)
            self._judge(utterance, said if row.label else 0, 0 if row.label else said)
        elif row.kind == "scored" and row.score is not None:
            self._scored.append(row.number)
            if len(self._scores) < 2:
                self._scores.add(row.score)

    def findings(self) -> Iterator[Finding]:
        yield from self._contradictions()
        yield from self._bias()
        yield from self._balance()
        if len(self._scored) > 1 and len(self._scores) == 1:
            text = f"All {len(self._scored):,} rows have the same score ({self._scores.pop():g})."
            yield about("constant_score", "warning", text, self._scored, "Nothing tells better from worse: see whether "
                        "the right column holds the score.")  # fmt: skip

    def _judge(self, utterance: Utterance, good: int, bad: int) -> None:
        self._numbers.append(utterance.row.number)
        self._asked.append(opening(utterance.row))
        self._good.append(good)
        self._bad.append(bad)

    def _contradictions(self) -> Iterator[Finding]:
        """Rows where the same question has an answer called good here and bad there."""
        if not self._numbers:
            return
        asked = lots(np.array(self._asked), 0, "asked")
        good, bad = (asked ^ np.array(keys).view(np.uint64) for keys in (self._good, self._bad))
        has_good, has_bad = np.array(self._good) != 0, np.array(self._bad) != 0
        both = np.intersect1d(good[has_good], bad[has_bad])
        against = (has_good & np.isin(good, both)) | (has_bad & np.isin(bad, both))
        if against.any():
            count = int(against.sum())
            text = f"{rows(count)} judge the same answer to the same question in opposite ways."
            yield about("contradiction", "warning", text, np.array(self._numbers)[against],
                        "Exclude those whose judgement is wrong, or all of them.", "exclude")  # fmt: skip

    def _bias(self) -> Iterator[Finding]:
        pairs = self._longer + self._shorter
        if pairs < ENOUGH:
            return
        share = max(self._longer, self._shorter) / pairs
        if share >= LONGER:
            word = "longer" if self._longer > self._shorter else "shorter"
            times = self._lengths[0] / max(1, self._lengths[1])
            text = f"In {share:.0%} of {pairs:,} pairs the better answer is the {word} one ({times:.1f} times as long)."
            yield Finding("length_bias", "note", text, pairs, (), f"The model may learn to be {word}, and little else.")

    def _balance(self) -> Iterator[Finding]:
        good, bad = (len(self._labels[label]) for label in (True, False))
        total = good + bad
        if total > 1 and min(good, bad) < RARE * total and (total >= ENOUGH or not min(good, bad)):
            text = f"{good:,} answers are labelled good and {bad:,} bad."
            rare = self._labels[good < bad] or self._labels[good >= bad]  # all, where the rarer is not there at all
            way_out = "add more of the rarer, or raise its weight" if min(good, bad) else "add some of the other"
            hint = f"KTO learns from the difference: {way_out}."
            yield about("balance", "warning", text, rare, hint)
