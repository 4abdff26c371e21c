"""Rows as tokens on disk, kept by all that they were made from, so that the same rows are tokenised once.

    <folder>/<key>/00000.arrow, 00000.json   a shard: its examples, and the report on its rows, which is written last
    <folder>/<key>/done.json                 present when all rows are in the shards; its time is that of the last use
    <folder>/<key>/using, writing            locks: shared by those who read, held by the one who writes
    <folder>/digests.json                    contents of files that were looked at, by their path, size and times

A preparation that was interrupted goes on behind its last whole shard. Several processes may ask for one key: one
writes, the others wait and read. What was used least recently goes when the cap is reached, except what is in use.
Knows nothing of templates, tokenizers or datasets: who asks says what matters.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data.encoding.batches import Batch
from data.encoding.outcome import Report
from engine.contract.errors import DataError
from engine.contract.rundir import write_json

CAP = 20 * 2**30  # bytes of all keys together
SHARD = 50_000  # rows
KEPT = ("number", "file")  # columns for people, which training does not need
REMEMBERED = 1000  # contents of files
SETTLED = 2.0  # seconds after which a file's time of change can be trusted to tell a further change

Make = Callable[[Report], Iterator[Batch]]
"""Goes on behind the rows that the report counts, and counts its own in it."""


class Changed(DataError):
    """What a key stands for is not what was read, so nothing of it is kept."""


class Store:
    """A folder of tokenised rows, of at most `cap` bytes."""

    def __init__(self, folder: Path, cap: int = CAP) -> None:
        self.folder, self.cap = folder, cap

    def key(self, **matters: Any) -> str:
        """A name for all that matters, and for this program: what another version of it wrote is not found again."""
        said = json.dumps({"program": _program(), **matters}, sort_keys=True, ensure_ascii=False, default=str)
        return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def digest(self, path: Path | None) -> str:
        """The content of a file, or of a folder with the names in it, as a short text; empty for None.

        Whole files are read, unless path, size, inode and times are those of a file that was read before.
        """
        if path is None or not path.exists():
            return ""
        memo_path = self.folder / "digests.json"
        memo = _json(memo_path) or {}
        files = sorted(found for found in path.rglob("*") if found.is_file()) if path.is_dir() else [path]
        known = dict(memo)
        named = [(str(file.relative_to(path)), _content(file, memo)) for file in files]
        if memo != known:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(memo_path, dict(list(memo.items())[-REMEMBERED:]))
        return named[0][1] if path.is_file() else hashlib.sha256(json.dumps(named).encode()).hexdigest()

    def open(self, key: str, make: Make, said: Callable[[int], None] = lambda rows: None) -> Kept:
        """What lies under `key`, once `make` has made what is missing of it; `said` hears how many rows are done.

        Waits while another process writes it. Whatever `make` raises goes through, and whole shards stay.
        """
        folder = self.folder / key
        using = _lock(folder, "using", fcntl.LOCK_SH)
        try:
            made = False
            if not (folder / "done.json").exists():
                writing = _lock(folder, "writing", fcntl.LOCK_EX)
                try:
                    if made := not (folder / "done.json").exists():
                        _fill(folder, make, said)
                finally:
                    os.close(writing)
            os.utime(folder / "done.json")
            kept = Kept(folder, using, made)
        except BaseException:
            os.close(using)
            raise
        if made:  # only so there is more than before
            self._sweep()
        return kept

    def _sweep(self) -> None:
        entries = sorted((_last_use(folder), folder) for folder in self.folder.iterdir() if folder.is_dir())
        sizes = {folder: _size(folder) for _, folder in entries}
        total = sum(sizes.values())
        for _, folder in entries:
            if total <= self.cap:
                break
            with suppress(BlockingIOError), _held(folder):  # in use: the next one goes
                shutil.rmtree(folder)
                total -= sizes[folder]


class Kept:
    """Tokenised rows, memory-mapped. They stay on disk at least for as long as this object lives.

    made: whether they were not there before.
    """

    def __init__(self, folder: Path, lock: int, made: bool) -> None:
        self.folder, self.made = folder, made
        done = json.loads((folder / "done.json").read_text(encoding="utf-8"))
        self.report = Report.of(done["report"])
        self.paths = [folder / f"{index:05d}.arrow" for index in range(done["shards"])]
        weakref.finalize(self, os.close, lock)

    def __len__(self) -> int:
        return sum(batch.num_rows for batch in self._batches)

    def column(self, name: str) -> Column:
        return Column([batch.column(name) for batch in self._batches])

    @cached_property
    def _batches(self) -> list[pa.RecordBatch]:
        return [batch for path in self.paths for batch in pa.ipc.open_stream(pa.memory_map(str(path)))]


class Column(Sequence[np.ndarray]):
    """A column of lists of int32, of which only what is asked for is read from the disk."""

    def __init__(self, parts: Sequence[pa.ListArray]) -> None:
        self._parts = [(part.offsets.to_numpy(), part.values.to_numpy()) for part in parts]
        self._starts = np.cumsum([0, *(len(part) for part in parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def lengths(self) -> np.ndarray:
        """(rows,) int32."""
        return np.concatenate([np.diff(bounds) for bounds, _ in self._parts] or [np.empty(0, np.int32)])

    def __getitem__(self, index: Any) -> Any:
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        bounds, values = self._parts[part]
        place = index - self._starts[part]
        return values[bounds[place] : bounds[place + 1]]


def _fill(folder: Path, make: Make, said: Callable[[int], None]) -> None:
    shards = _whole_shards(folder)
    total = Report("")
    for report in shards:
        total.add(report)
    said(total.rows)
    found, index, more = make(total), len(shards), True
    try:
        while more:
            more = _write_shard(folder, index, found, total, said)
            index += more
    except Changed:
        for file in folder.glob("*.json"):  # a shard without its report is none
            file.unlink()
        raise
    write_json(folder / "done.json", {"report": total.facts(), "shards": index})


def _whole_shards(folder: Path) -> list[Report]:
    """The reports of the shards that are there, up to the first that is not; what lies behind is removed."""
    reports: list[Report] = []
    while facts := _json(folder / f"{len(reports):05d}.json"):
        reports.append(Report.of(facts))
    whole = {f"{index:05d}" for index in range(len(reports))} | {"using", "writing"}
    for file in folder.iterdir():
        if file.stem not in whole:
            file.unlink()
    return reports


def _write_shard(folder: Path, index: int, found: Iterator[Batch], total: Report, said: Callable[[int], None]) -> bool:
    """One shard of what is left; False, and none is written, when nothing is."""
    report, partial = Report(""), folder / f".{index:05d}.arrow"
    writer = None
    try:
        for batch in found:
            columns = batch.columns.drop_columns([name for name in KEPT if name in batch.columns.schema.names])
            writer = writer or pa.ipc.new_stream(str(partial), columns.schema)
            writer.write_batch(columns)
            report.add(batch.report)
            said(total.rows)
            if report.rows >= SHARD:
                break
    finally:
        if writer:
            writer.close()
    if not writer:
        return False
    _flush(partial)
    partial.rename(folder / f"{index:05d}.arrow")
    write_json(folder / f"{index:05d}.json", report.facts())
    return True


def _flush(file: Path) -> None:
    with open(file, "rb") as written:
        os.fsync(written.fileno())


def _lock(folder: Path, name: str, how: int) -> int:
    """The lock as a descriptor; waits for it. Whoever removes an entry holds its lock, so it is looked for again."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, how)
            if os.stat(folder / name).st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """An entry that nobody uses; BlockingIOError when somebody does."""
    descriptor = _lock(folder, "using", fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield
    finally:
        os.close(descriptor)


def _last_use(folder: Path) -> float:
    """Seconds; 0 when another process has just removed it."""
    for path in (folder / "done.json", folder):
        with suppress(FileNotFoundError):
            return path.stat().st_mtime
    return 0.0


def _size(folder: Path) -> int:
    with suppress(FileNotFoundError):
        return sum(file.stat().st_size for file in folder.iterdir())
    return 0


def _content(file: Path, memo: dict[str, Any]) -> str:
    stat = file.stat()
    state = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    known = memo.get(str(file.resolve()))
    if known and known[0] == state:
        return str(known[1])
    with open(file, "rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    memo.pop(str(file.resolve()), None)
    if time.time() - max(stat.st_mtime, stat.st_ctime) > SETTLED:
        memo[str(file.resolve())] = [state, digest]
    return digest


def _json(path: Path) -> Any:
    """What a file holds, or None when it is absent or not whole."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


@cache
def _program() -> str:
    """The modules that turn files into tokens, and the libraries under them, as a short text."""
    said = hashlib.sha256()
    folder = Path(__file__).resolve().parents[1]
    for module in sorted(folder.rglob("*.py")):
        said.update(str(module.relative_to(folder)).encode() + b"\0" + module.read_bytes() + b"\0")
    for library in ("tokenizers", "jinja2", "pyarrow"):
        said.update(version(library).encode() + b"\0")
    return said.hexdigest()
