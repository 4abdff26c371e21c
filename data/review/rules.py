"""What can be said of one row by itself, and how such rows are counted into findings."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from data.review.finding import Finding, Level
from data.review.utterance import Utterance


class Rule(NamedTuple):
    """One fault. sees: what exactly of it a row has, empty when it has none.   one, many: the sentence after `1 row`
    and after `7 rows`.   hint, fix: as a finding has them.   said: what was seen is worth counting in the sentence."""

    kind: str
    level: Level
    one: str
    many: str
    sees: Callable[[Utterance], str]
    hint: str
    fix: str = "exclude"
    said: bool = False


class Tally:
    """The rows that a rule found: 8 bytes each."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.numbers = array("q")
        self._seen: Counter[str] = Counter()

    def look(self, utterance: Utterance) -> None:
        if found := self.rule.sees(utterance):
            self.numbers.append(utterance.row.number)
            self._seen[found] += 1

    def finding(self) -> Finding | None:
        if not self.numbers:
            return None
        rule, more = self.rule, ""
        if rule.said:
            more = ": " + ", ".join(f"{name} ({count:,})" for name, count in self._seen.most_common())
        text = f"{rows(len(self.numbers))} {rule.one if len(self.numbers) == 1 else rule.many}{more}."
        return about(rule.kind, rule.level, text, self.numbers, rule.hint, rule.fix)


def about(kind: str, level: Level, text: str, numbers: Iterable[int], hint: str, fix: str = "") -> Finding:
    """A finding that names all of the rows."""
    named = tuple(map(int, numbers))
    return Finding(kind, level, text, len(named), named, hint, fix)


def rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"
