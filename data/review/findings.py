"""Looks through rows for what is wrong, odd or worth knowing, in one pass and little memory a row, and mends it.

What a run makes of the rows (tokens, cuts, masks) is not looked at here.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from data.datasets.patch import Patch
from data.review import judgements, order, secrets, wording
from data.review.duplicates import Copies, NearCopies, whole
from data.review.finding import NAMED, Finding
from data.review.fixes import FIXES, edits
from data.review.judgements import Judgements
from data.review.languages import Languages
from data.review.rules import Tally, about, rows
from data.review.scripts import Scripts
from data.review.utterance import Utterance
from data.rows.conversation import Row

RULES = (*order.RULES, *judgements.RULES, *secrets.RULES, *wording.RULES)
ORDER = ("error", "warning", "note")
LONG = 8_000  # characters, up to which no row is called long
FAR = 3.0  # times the spread of the middle half by which an outlier lies above it, in the logarithm


def look(rows: Iterable[Row], named: int | None = NAMED) -> list[Finding]:
    """Every finding, what weighs most first. Goes through the rows once, in constant time and memory a row.

    named: how many rows a finding lists; None lists all.
    """
    tallies = [Tally(rule) for rule in RULES]
    copies, near = Copies(), NearCopies()
    others = Scripts(), Languages(), Judgements(), Lengths()
    for row in rows:
        utterance = Utterance(row)
        for tally in tallies:
            tally.look(utterance)
        same = whole(utterance)
        copies.look(utterance, same)
        near.look(utterance, same)
        for each in others:
            each.look(utterance)
    found = [finding for tally in tallies if (finding := tally.finding())]
    for collected in (copies, near, *others):
        found += collected.findings()
    found.sort(key=lambda finding: ORDER.index(finding.level))
    return [replace(finding, rows=finding.rows[:named]) for finding in found]


def mend(finding: Finding, patch: Patch, rows: Iterable[Row]) -> int:
    """Mends every row that the finding is about, as one act that can be undone; how many were changed.

    `rows` are those that were looked through, as the patch leaves them, and can be gone through twice.
    """
    numbers = _numbers(finding, rows)
    if finding.fix == "restore":
        return patch.restore(numbers)
    named = (row for row in rows if row.number in numbers)
    if finding.fix in ("exclude", "keep_first"):
        return patch.exclude(named)
    return patch.edit_all(edits(named, FIXES[finding.fix]))


def _numbers(finding: Finding, rows: Iterable[Row]) -> set[int]:
    """The numbers of all rows that a finding is about; it names the first of them, and the others are looked for."""
    if finding.count <= len(finding.rows):
        return set(finding.rows)
    same = (other for other in look(rows, named=None) if other.kind == finding.kind)
    return {number for other in same if other.text == finding.text for number in other.rows}


class Lengths:
    """Remembers how long rows are, to tell those that are out of all proportion."""

    def __init__(self) -> None:
        self._numbers, self._lengths = array("q"), array("q")

    def look(self, utterance: Utterance) -> None:
        self._numbers.append(utterance.row.number)
        self._lengths.append(len(utterance.everything))

    def findings(self) -> Iterator[Finding]:
        if len(self._lengths) < 20:
            return
        lengths = np.array(self._lengths)
        low, middle, high = np.quantile(np.log1p(lengths), (0.25, 0.5, 0.75))
        limit = max(LONG, float(np.expm1(high + FAR * (high - low))))
        far = np.flatnonzero(lengths > limit)
        if len(far):
            far = far[np.argsort(-lengths[far], kind="stable")]
            verb = "is" if len(far) == 1 else "are"
            text = f"{rows(len(far))} {verb} very long: up to {lengths.max():,} characters, where most have about "
            hint = "Look at them; what is longer than the maximum length is cut."
            yield about(
                "long", "note", f"{text}{np.expm1(middle):,.0f}.", np.array(self._numbers)[far], hint, "exclude"
            )
