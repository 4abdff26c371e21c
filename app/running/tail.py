"""New whole lines of a growing file, from a byte offset: each poll costs what was written since the last one.

Between polls only the offset and the file's identity are held, so every browser session can have a `Tail` of its own.
This module knows lines and JSON; it does not know what a run is, nor what a record means.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHUNK = 1 << 20  # bytes read at once


class Tail:
    """Follows one file. A file that is not there yet is an empty file; one that was cut short or replaced starts again.

    Invariant: `offset` is 0 or lies just behind a newline, so a torn last line is read when it is whole.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        self.skipped = 0  # lines that were whole but no JSON object
        self.restarts = 0  # how often the file began anew: whoever keeps what came before must forget it
        self._identity: tuple[int, int] | None = None

    def lines(self) -> Iterator[bytes]:
        """The lines that became whole since the last call, without their newline. Exhaust it: a block counts as read
        once its first line is handed out."""
        try:
            file = open(self.path, "rb")
        except FileNotFoundError:
            self._start_again(None)
            return
        with file:
            self._recognise(file.fileno())
            file.seek(self.offset)
            torn = b""
            while block := file.read(CHUNK):
                whole, newline, rest = block.rpartition(b"\n")
                if not newline:
                    torn += block
                    continue
                found = (torn + whole).split(b"\n")
                self.offset += len(torn) + len(whole) + 1
                torn = rest
                yield from found

    def records(self) -> Iterator[dict[str, Any]]:
        """The new lines as JSON objects; anything else is skipped and counted, blank lines are passed over."""
        for line in self.lines():
            try:
                record = json.loads(line.decode())
            except ValueError:
                self.skipped += bool(line.strip())
                continue
            if isinstance(record, dict):
                yield record
            else:
                self.skipped += 1

    def _recognise(self, descriptor: int) -> None:
        """Start again unless the open file still is the one that `offset` was counted in."""
        seen = os.fstat(descriptor)
        identity = (seen.st_dev, seen.st_ino)
        replaced = self._identity not in (None, identity)
        if replaced or seen.st_size < self.offset or not self._behind_newline(descriptor):
            self._start_again(identity)
        self._identity = identity

    def _behind_newline(self, descriptor: int) -> bool:
        return self.offset == 0 or os.pread(descriptor, 1, self.offset - 1) == b"\n"

    def _start_again(self, identity: tuple[int, int] | None) -> None:
        if self.offset:
            self.restarts += 1
        self.offset = 0
        self._identity = identity


def last_lines(path: Path, count: int, *, most_bytes: int = 4 * CHUNK) -> list[str]:
    """The last `count` lines of a log, a torn one included, read from its end; at most `most_bytes` are read.

    Of a line that a progress bar rewrote with carriage returns, the last writing is kept, as a terminal would show it.
    """
    try:
        file = open(path, "rb")
    except FileNotFoundError:
        return []
    with file:
        start = file.seek(0, os.SEEK_END)
        floor = max(0, start - most_bytes)
        blocks: list[bytes] = []
        newlines = 0
        while start > floor and newlines <= count:
            size = min(65536, start - floor)
            start -= size
            file.seek(start)
            blocks.append(file.read(size))
            newlines += blocks[-1].count(b"\n")
    text = b"".join(reversed(blocks)).removesuffix(b"\n").decode("utf-8", errors="replace")
    if not text:
        return []
    return [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")[-count:]]
