"""A text as tokens, with the characters that each of them covers.

Where tokens stand is what the tokenizer says, or, of a byte-level tokenizer, follows from how many bytes each of them
is: then it need not follow every character, which takes a tenth of its time. Only tokenizers that rewrite nothing are
taken for that, and that the bytes of the tokens add up to the text's is verified for each text. Knows nothing of
conversations.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property
from itertools import chain, pairwise
from typing import Any
from unicodedata import is_normalized

import numpy as np
from tokenizers import Encoding, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

Offsets = list[tuple[int, int]]


class Encoded:
    """A text of `length` characters as tokens.

    ids: the token ids; `numbers` has them as an array of int32.   offsets: the half-open span of characters that each
    covers; pieces of one character share its span. Both are lists that are made when they are asked for: for many rows,
    a few places are all that matters.
    """

    def __init__(self, encoding: Encoding, length: int) -> None:
        self._encoding, self._length = encoding, length

    @cached_property
    def ids(self) -> list[int]:
        return self._encoding.ids

    @cached_property
    def numbers(self) -> np.ndarray:
        return np.array(self.ids, np.int32)

    @cached_property
    def offsets(self) -> Offsets:
        return self._encoding.offsets

    def id(self, index: int) -> int:
        """`ids[index]`, alone."""
        return self.ids[index]

    def __len__(self) -> int:
        return len(self._encoding)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Encoded) and (self.ids, self.offsets) == (other.ids, other.offsets)

    def span(self, index: int) -> tuple[int, int]:
        """`offsets[index]`, alone."""
        start, end = self._encoding.token_to_chars(index)
        return start, end

    def at(self, place: int) -> int:
        """The first token that starts at the character `place` or behind it; `len(self)` when none does."""
        index: int | None = len(self) if place >= self._length else self._encoding.char_to_token(place)
        if index is None:  # no token covers this character
            return bisect_left([start for start, _ in self.offsets], place)
        while index < len(self) and self.span(index)[0] < place:
            index += 1
        while index and self.span(index - 1)[0] >= place:
            index -= 1
        return index


class Spelt(Encoded):
    """The same, out of the bytes of the tokens alone."""

    def __init__(self, text: str, numbers: np.ndarray, marks: memoryview, first: int) -> None:
        """`marks[first + i]` is where the token i begins, in bytes from some place on, and so on to the text's end."""
        self.numbers, self._text, self._marks, self._first = numbers, text, marks, first

    def __len__(self) -> int:
        return len(self.numbers)

    @cached_property
    def ids(self) -> list[int]:
        return list(self.numbers.tolist())

    def id(self, index: int) -> int:
        return int(self.numbers[index])

    @cached_property
    def offsets(self) -> Offsets:
        return [self.span(index) for index in range(len(self))]

    def span(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        base, at = self._marks[self._first], self._first + index
        begin, end = self._marks[at] - base, self._marks[at + 1] - base
        if self._text.isascii():
            return begin, end
        behind = np.searchsorted(self._characters, (begin, end - 1), side="right")
        return int(behind[0]) - 1, int(behind[1])

    def at(self, place: int) -> int:
        if place >= len(self._text):
            return len(self)
        byte = place if self._text.isascii() else int(self._characters[max(place, 0)])
        begin = self._marks[self._first] + byte
        return bisect_left(self._marks, begin, self._first, self._first + len(self)) - self._first

    @cached_property
    def _characters(self) -> np.ndarray:
        """The byte at which each character begins; a byte within a character is 10xxxxxx."""
        return np.flatnonzero(np.frombuffer(self._text.encode(), np.uint8) & 0xC0 != 0x80)


class Spelling:
    """How many bytes each token of a tokenizer stands for: (vocabulary,) int64."""

    def __init__(self, sizes: np.ndarray, composed: bool) -> None:
        self._sizes, self._composed = sizes, composed

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Spelling | None:
        """None for a tokenizer whose tokens may stand for more bytes than those that they are written with.

        For less they may: bytes that it has no token for are left out, and then the sum tells.
        """
        model, normalizer = tokenizer.model, _facts(tokenizer.normalizer)
        before = _facts(tokenizer.pre_tokenizer)
        steps = before.get("pretokenizers", [before])
        added = tokenizer.get_added_tokens_decoder()
        vocabulary = tokenizer.get_vocab(with_added_tokens=False)
        if (
            not isinstance(model, BPE)
            or model.continuing_subword_prefix
            or model.end_of_word_suffix
            or normalizer.get("type") not in (None, "NFC")
            or [step.get("type") for step in steps].count("ByteLevel") != 1
            or any(step.get("add_prefix_space") for step in steps)
            or model.byte_fallback
            or (model.unk_token is not None and not vocabulary.keys() >= set(ByteLevel.alphabet()))
            or any(token.lstrip or token.rstrip or not token.content for token in added.values())
        ):
            return None
        sizes = np.zeros(1 + max([*vocabulary.values(), *added]), np.int64)
        sizes[list(vocabulary.values())] = list(map(len, vocabulary))
        sizes[list(added)] = [len(token.content.encode()) for token in added.values()]
        return cls(sizes, composed=normalizer.get("type") == "NFC")

    def read(self, texts: Sequence[str], encodings: Sequence[Encoding]) -> list[Spelt | None]:
        """The texts with their tokens; None for one whose tokens do not add up to it."""
        bounds = np.cumsum([0, *map(len, encodings)])
        # Each text's ids are Python's numbers for a moment only: those of all together would not stay in the cache
        ids = np.fromiter(chain.from_iterable(one.ids for one in encodings), np.int32, bounds[-1])
        marks = np.concatenate([[0], np.cumsum(self._sizes[ids])])
        sums, seen, places = np.diff(marks[bounds]).tolist(), memoryview(marks), pairwise(bounds.tolist())
        return [
            Spelt(text, ids[first:end], seen, first) if self._spells(text, total) else None
            for text, (first, end), total in zip(texts, places, sums, strict=True)
        ]

    def _spells(self, text: str, size: int) -> bool:
        if text.isascii():
            return len(text) == size
        return len(text.encode()) == size and (not self._composed or is_normalized("NFC", text))


def _facts(part: Any) -> dict[str, Any]:
    return json.loads(part.__getstate__()) if part is not None else {}
