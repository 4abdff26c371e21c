"""Datasets as rows that can be gone through again and again: small ones from memory, large ones from their files.

Knows nothing of how rows are chosen or mixed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import overload

from data.datasets import registry
from data.datasets.lots import Numbers
from data.datasets.splitting import openings
from data.rows.conversation import Row
from engine.contract.errors import DataError

IN_MEMORY = 16 * 2**20  # bytes of files whose rows are held, in all; as rows they take some four times as much
AT_ONCE = 65_536  # places that are turned into Python's own numbers at a time

State = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Source:
    """One dataset: `name` as the arguments say it, `most` rows from its head at most, whether its rows are `held` in
    memory, and the state of its files, by which one knows that what was read before still holds."""

    name: str
    entry: registry.Entry
    most: int | None
    held: bool
    state: State

    def __iter__(self) -> Iterator[Row]:
        """The rows from the first on."""
        return iter(self.rows()) if self.held else islice(registry.rows(self.entry), self.most)

    def rows(self) -> list[Row]:
        """All rows, read once."""
        return _rows(self.entry.model_dump_json(), self.most, self.state)

    def openings(self) -> Numbers:
        """What each row asks; (rows,) uint64, read once."""
        return _openings(self.entry.model_dump_json(), self.most, self.held, self.state)


def opened(names: Sequence[str], entries: Sequence[registry.Entry], most: int | None) -> list[Source]:
    """The datasets, each with the name that the arguments call it by; the smallest are held in memory."""
    states = [_state(entry) for entry in entries]
    sizes = [sum(size for _, _, size in state) for state in states]
    held, room = set(), IN_MEMORY
    for which in sorted(range(len(entries)), key=sizes.__getitem__):
        room -= sizes[which]
        if room >= 0:
            held.add(which)
    both = enumerate(zip(names, entries, strict=True))
    return [Source(name, entry, most, which in held, states[which]) for which, (name, entry) in both]


def drawn(sources: Sequence[Source], of: Numbers, place: Numbers) -> Sequence[Row]:
    """The rows at the given places of the given datasets; in memory when all of the datasets are."""
    rows = Drawn(sources, of, place)
    return list(rows) if all(source.held for source in sources) else rows


class Drawn(Sequence[Row]):
    """Rows read from their files each time they are iterated over, so that memory holds ten bytes of each.

    Go through them in their order: a single one, or a slice, is found by reading its dataset up to there.
    """

    def __init__(self, sources: Sequence[Source], of: Numbers, place: Numbers) -> None:
        self._sources, self._of, self._place = sources, of, place

    def __len__(self) -> int:
        return len(self._of)

    def __iter__(self) -> Iterator[Row]:
        """Raises DataError when a file has become shorter since it was counted."""
        held = [source.rows() if source.held else None for source in self._sources]
        streams: list[Iterator[Row]] = [iter(()) for _ in self._sources]
        reached = [-1] * len(self._sources)
        for start in range(0, len(self), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            for which, at in zip(self._of[part].tolist(), self._place[part].tolist(), strict=True):
                if (rows := held[which]) is not None:
                    yield rows[at]
                    continue
                if reached[which] < 0 or at < reached[which]:
                    streams[which], reached[which] = iter(self._sources[which]), 0
                row = next(islice(streams[which], at - reached[which], None), None)
                if row is None:
                    file = self._sources[which].entry.path
                    raise DataError("the file has become shorter while it was read.", "Start again.", file=file)
                reached[which] = at + 1
                yield row

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return list(Drawn(self._sources, self._of[index], self._place[index]))
        at = range(len(self))[index]  # counts a negative index from the end, and refuses one that is out of range
        return self[at : at + 1][0]


def _state(entry: registry.Entry) -> State:
    """Path, time of change and size of every file that the rows come from."""
    places = [entry.path, entry.patch] if entry.patch else [entry.path]
    below = [file for place in places for file in (sorted(place.rglob("*")) if place.is_dir() else [place])]
    stats = [(str(file), file.stat()) for file in below if file.is_file()]
    return tuple((file, stat.st_mtime_ns, stat.st_size) for file, stat in stats)


@lru_cache(maxsize=16)
def _rows(entry: str, most: int | None, state: State) -> list[Row]:
    return list(islice(registry.rows(registry.Entry.model_validate_json(entry)), most))


@lru_cache(maxsize=64)
def _openings(entry: str, most: int | None, held: bool, state: State) -> Numbers:
    return openings(Source("", registry.Entry.model_validate_json(entry), most, held, state))
