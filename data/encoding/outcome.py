"""What became of rows on their way to tokens: counts that add up, and the sentences that people should read.

Knows nothing of how rows are rendered, cut or kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from data.review.finding import NAMED as NUMBERED
from data.rows.formats import NAMED
from engine.contract.errors import DataError

PARTS = {
    "turns": "lose their oldest turns",
    "prompt": "lose the start of what was asked",
    "answer": "lose the end of the answer with its end-of-turn",
    "row": "are left out",
}


@dataclass
class Report:
    """What became of the rows; tokens and trained tokens are those of the rows used, after the cut.

    rows: all that were looked at.   rows_used: those that something is learnt from.
    examples: what these come to; a long text becomes several.   longest: tokens, before the cut.
    cut_rows: rows longer than allowed, long texts apart.   lost: the part that the cut took -> rows, a row counting for
    each part that it loses.   cut_ends: rows used whose end-of-turn was cut off.
    open_rows: rows with a turn that the template leaves without an end-of-turn.   divided: texts in several pieces.
    dropped: rows of which nothing can be learnt.   dropped_rows: the numbers of the first 1,000 of them.
    alike: of the dropped, pairs whose answers are the same.
    refused: rows that cannot be rendered.   refusals: why, for the first ten, as (text, hint).
    """

    template: str
    rows: int = 0
    rows_used: int = 0
    examples: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    longest: int = 0
    cut_rows: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    cut_ends: int = 0
    open_rows: int = 0
    divided: int = 0
    dropped: int = 0
    dropped_rows: list[int] = field(default_factory=list)
    alike: int = 0
    refused: int = 0
    refusals: list[tuple[str, str]] = field(default_factory=list)

    def add(self, other: Report) -> None:
        """Count the rows of `other`, which come behind those of this one."""
        for name in ("rows", "rows_used", "examples", "tokens", "trained_tokens", "cut_rows", "cut_ends", "open_rows",
                     "divided", "dropped", "alike", "refused"):  # fmt: skip
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.template = self.template or other.template
        self.longest = max(self.longest, other.longest)
        for part, rows in other.lost.items():
            self.lost[part] = self.lost.get(part, 0) + rows
        self.dropped_rows = (self.dropped_rows + other.dropped_rows)[:NUMBERED]
        self.refusals = (self.refusals + other.refusals)[:NAMED]

    def lose(self, *parts: str) -> None:
        for part in parts:
            self.lost[part] = self.lost.get(part, 0) + 1

    def drop(self, number: int) -> None:
        self.dropped += 1
        self.dropped_rows += [number] if len(self.dropped_rows) < NUMBERED else []

    def refuse(self, problem: DataError) -> None:
        self.refused += 1
        self.refusals += [(problem.text, problem.hint)] if len(self.refusals) < NAMED else []

    def stop_if_refused(self) -> None:
        """Raise one DataError for all rows that cannot be rendered."""
        if not self.refused:
            return
        text, hint = self.refusals[0]
        if self.refused == 1:
            raise DataError(text, hint)
        lines = [f"  {said}" for said, _ in self.refusals]
        if self.refused > len(lines):
            lines.append(f"  and {self.refused - len(lines)} more")
        raise DataError(f"{self.refused} of {self.rows} rows cannot be rendered:\n" + "\n".join(lines), hint)

    def facts(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return asdict(self)

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Report:
        return cls(**{**facts, "refusals": [(text, hint) for text, hint in facts["refusals"]]})

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
            parts = "; ".join(f"{rows} of them {PARTS[part]}" for part, rows in self.lost.items())
            cut = f"{self.cut_rows} of {self.rows} rows are longer than the maximum and are cut"
            found.append(f"{cut}{'; ' if parts else ''}{parts}.")
        if self.divided:
            found.append(
                f"{self.divided} of {self.rows} texts are longer than the maximum and are divided into pieces; nothing "
                "of them is lost."
            )
        if dropped := self.dropped - self.lost.get("row", 0):
            subject = (
                "row has no trained token left and is" if dropped == 1 else "rows have no trained token left and are"
            )
            found.append(f"{dropped} {subject} not used{self._numbers(dropped)}.")
        if self.alike:
            found.append(f"Of these, {self.alike} have two answers that are the same, which teach nothing.")
        if self.refused:
            found.append(
                f"{self.refused} of {self.rows} rows cannot be rendered and are not used: {self.refusals[0][0]}"
            )
        if self.open_rows:
            found.append(
                f"In {self.open_rows} rows the template {self.template} ends a turn without a special token, "
                "so the model does not learn where to stop."
            )
        return found

    def _numbers(self, dropped: int) -> str:
        """The numbers of the dropped rows, where they are not mixed with rows left out for their length."""
        if dropped != self.dropped:
            return ""
        return ": " + ", ".join(map(str, self.dropped_rows[:NAMED])) + (", ..." if dropped > NAMED else "")
