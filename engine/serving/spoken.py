"""Token ids to text, as it is spoken: only what later tokens can no longer change, and nothing from a stop string on.

Knows neither models nor HTTP; a tokenizer is a function from ids to text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

UNFINISHED = "\ufffd"  # what a decoder writes for bytes that are no whole character yet


class Detokeniser:
    """Gives the text of each new token as soon as its characters are whole."""

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        # Decoded with their neighbours, because a piece's text may depend on the one before it (a leading space).
        self._context = 0
        self._given = 0

    def push(self, token: int) -> str:
        """The text that became certain with `token`; empty in the middle of a character."""
        self._ids.append(token)
        text = self._rest()
        if text.endswith(UNFINISHED):
            return ""
        self._context, self._given = self._given, len(self._ids)
        return text

    def end(self) -> str:
        """What was held back: bytes that never became a character."""
        text = self._rest()
        self._context = self._given = len(self._ids)
        return text

    def _rest(self) -> str:
        known = self._decode(self._ids[self._context : self._given])
        return self._decode(self._ids[self._context :])[len(known) :]


class StopStrings:
    """Lets text through until one of `stops` appears, however it is cut into pieces; the stop itself is never given."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.met = False

    def push(self, text: str) -> str:
        """The text that is certain not to be, or begin, a stop string. Nothing once one was met."""
        if self.met:
            return ""
        text = self._held + text
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self.met, self._held = True, ""
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def end(self) -> str:
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` with which `stop` begins."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-size:])), 0)
