"""Finds rows that say the same, nearly the same, or that answer the same question in different ways.

Some forty bytes a row for copies, and 256 for near ones, which are looked for in the first half million rows only.
Near copies: MinHash (Broder 1997) over runs of five words, for questions and answers apart, so that a long prompt that
all rows share does not make them alike; candidates by bands of equal hashes.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from array import array
from collections.abc import Iterator, Sequence

import numpy as np

from data.datasets.lots import Numbers, lots
from data.review.finding import Finding
from data.review.rules import about, rows
from data.review.utterance import Utterance

# A sign of Chinese or Japanese counts as a word, and so does any other that is no mere punctuation: 1+2 is not 1-2.
WORD = re.compile(
    r"[^\W\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+"
    r"|[^\s.,!?;:'\"`*\u2018-\u201d\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f]"
)
RUN = 5  # words
HASHES = 32  # of each side
ALIKE = 26  # of these must agree on both sides: four fifths of the runs in common, give or take a twentieth
BANDS = 16
VOCABULARY = 500_000  # words that are remembered
LONGEST = 8_000  # characters of each side that are compared
WIDEST = 500_000  # rows among which near copies are looked for
BATCH = 256
FACTORS = lots(np.arange(1, HASHES + 1), 0, "minhash") | np.uint64(1)
POWERS = lots(np.arange(1, RUN + 1), 0, "runs") | np.uint64(1)


def key(*parts: str) -> int:
    """What is said as a signed number of 64 bits."""
    said = "\0".join(parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(said, digest_size=8).digest(), "little", signed=True)


def later(keys: Numbers) -> Numbers:
    """The places of the values that were there before."""
    _, first = np.unique(keys, return_index=True)
    again = np.ones(len(keys), bool)
    again[first] = False
    return np.flatnonzero(again)


class Copies:
    """Exact copies of rows, and questions that are answered in several ways."""

    def __init__(self) -> None:
        self._numbers, self._wholes = array("q"), array("q")
        self._asked, self._answers, self._places = array("q"), array("q"), array("q")

    def look(self, utterance: Utterance, whole: int) -> None:
        row = utterance.row
        self._numbers.append(row.number)
        self._wholes.append(whole)
        if row.kind == "conversation" and [turn["role"] for turn in row.messages[-2:]] == ["user", "assistant"]:
            answer = row.messages[-1]
            self._asked.append(key(json.dumps(row.messages[:-1], ensure_ascii=False, default=str).casefold()))
            self._answers.append(key(str(answer["content"]), str(answer.get("tool_calls"))))
            self._places.append(row.number)

    def findings(self) -> Iterator[Finding]:
        numbers = np.array(self._numbers)
        if len(copies := later(np.array(self._wholes))):
            verb = "is an exact copy of an earlier one" if len(copies) == 1 else "are exact copies of earlier ones"
            hint = "Keep the first of each. To have rows count more, raise data.repeat."
            yield about("duplicate", "warning", f"{rows(len(copies))} {verb}.", numbers[copies], hint, "keep_first")
        asked = np.array(self._asked).view(np.uint64)
        both = asked ^ lots(np.array(self._answers).view(np.uint64), 0, "answer")
        _, first = np.unique(both, return_index=True)  # one row for each question and answer
        first = np.sort(first)
        several = first[later(asked[first])]
        if len(several):
            verb = (
                "asks what an earlier one asks, and is" if len(several) == 1 else "ask what earlier ones ask, and are"
            )
            text = f"{rows(len(several))} {verb} answered in another way."
            hint = "Good if several answers are right; else keep the one that is."
            yield about("answers", "note", text, np.array(self._places)[several], hint, "keep_first")


class NearCopies:
    """Rows that differ from an earlier one by little more than a few words."""

    def __init__(self) -> None:
        self._numbers, self._wholes = array("q"), array("q")
        self._hashes = bytearray()  # grows in place, and is read as an array without a copy
        self._waiting: list[tuple[str, str]] = []
        self._known = _Words()

    def look(self, utterance: Utterance, whole: int) -> None:
        if len(self._numbers) == WIDEST:
            return
        self._numbers.append(utterance.row.number)
        self._wholes.append(whole)
        self._waiting.append((utterance.asked, utterance.answered))
        if len(self._waiting) == BATCH:
            self._hash()

    def findings(self) -> Iterator[Finding]:
        self._hash()
        if not self._hashes:
            return
        hashes = np.frombuffer(self._hashes, np.uint32).reshape(-1, 2 * HASHES)
        found = np.array(self._numbers)[_near(hashes, np.array(self._wholes))]
        if len(found):
            verb = "is nearly the same as an earlier one" if len(found) == 1 else "are nearly the same as earlier ones"
            among = f" Looked for among the first {WIDEST:,} rows." if len(self._numbers) == WIDEST else ""
            yield about("near_duplicate", "note", f"{rows(len(found))} {verb}.{among}", found,
                        "Keep the first of each, if they teach nothing new.", "keep_first")  # fmt: skip

    def _hash(self) -> None:
        if self._waiting:
            sides = [self._minhash([pair[side] for pair in self._waiting]) for side in range(2)]
            self._hashes += np.concatenate(sides, axis=1).tobytes()
            self._waiting.clear()

    def _minhash(self, texts: Sequence[str]) -> Numbers:
        """(texts, HASHES) uint32: of each text the smallest hashes of its runs of words."""
        words = [self._words(text) for text in texts]
        lengths = np.array([len(each) for each in words])
        flat = np.array([word for each in words for word in each], np.uint64)
        runs = np.zeros(len(flat) - RUN + 1, np.uint64)
        for place, power in enumerate(POWERS):
            runs += flat[place : place + len(runs)] * power
        runs ^= runs >> np.uint64(29)
        counts = lengths - RUN + 1
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        shift = np.repeat(np.concatenate([[0], np.cumsum(lengths)[:-1]]) - starts, counts)
        runs = runs[np.arange(len(shift)) + shift]  # without those that reach from one text into the next
        return np.stack(
            [np.minimum.reduceat(runs * factor >> np.uint64(32), starts).astype(np.uint32) for factor in FACTORS],
            axis=1,
        )

    def _words(self, text: str) -> list[int]:
        if len(self._known) > VOCABULARY:
            self._known.clear()
        found = list(map(self._known.__getitem__, WORD.findall(text[:LONGEST].casefold())))
        return found + [0] * (RUN - len(found))


class _Words(dict[str, int]):
    """A number for each word, worked out once."""

    def __missing__(self, word: str) -> int:
        self[word] = number = zlib.crc32(word.encode("utf-8", "surrogatepass")) + 1
        return number


def _near(hashes: Numbers, wholes: Numbers) -> Numbers:
    """The places of rows that are alike to an earlier one, and no exact copies of it."""
    alike = np.zeros(len(hashes), bool)
    step = HASHES // BANDS
    for band in range(BANDS):
        columns = [side * HASHES + band * step + place for side in range(2) for place in range(step)]
        together = hashes[:, columns].astype(np.uint64)
        keys = (together * POWERS[: together.shape[1]]).sum(axis=1, dtype=np.uint64)
        order = np.argsort(keys, kind="stable")
        same = keys[order][1:] == keys[order][:-1]
        group = np.concatenate([[0], np.cumsum(~same)])
        firsts = order[np.concatenate([[True], ~same])][group]  # for each row the first of its group
        for one, other in ((firsts, order), (order[:-1][same], order[1:][same])):
            differ = wholes[one] != wholes[other]
            one, other = one[differ], other[differ]
            agree = hashes[one] == hashes[other]
            close = (agree[:, :HASHES].sum(axis=1) >= ALIKE) & (agree[:, HASHES:].sum(axis=1) >= ALIKE)
            alike[np.maximum(one, other)[close]] = True
    alike[later(wholes)] = False
    return np.flatnonzero(alike)


def whole(utterance: Utterance) -> int:
    """A key for all that can be learnt from a row; not for where it was read, nor for columns such as its id. Of a
    prompt alone the columns beside it count: the right answer is there."""
    row = utterance.row
    own = {name: value for name, value in row.record().items() if row.kind == "prompt" or name not in row.extra}
    return key(row.kind, json.dumps(own, ensure_ascii=False, sort_keys=True, default=str))
