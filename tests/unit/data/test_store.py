"""What was tokenised once is found again, and only that: by content, whole, by one writer, within bounds."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from data.encoding import store
from data.encoding.batches import Batch, arrow, column
from data.encoding.outcome import Report
from data.encoding.store import Changed, Store


def batch(first: int, rows: int = 10) -> Batch:
    """Rows with one to three tokens that tell their number."""
    import pyarrow as pa

    lists = [[number] * (number % 3 + 1) for number in range(first, first + rows)]
    columns = {"input_ids": arrow(*column(lists)), "number": pa.array(range(first, first + rows), pa.int64())}
    return Batch(pa.RecordBatch.from_pydict(columns), Report("chatml", rows=rows, examples=rows, dropped_rows=[first]))


def make(rows: int, log: list[int] | None = None, fail_at: int | None = None):
    """A maker of `rows` rows, ten at a time, that writes down where it begins and may break off."""

    def made(done: Report):
        if log is not None:
            log.append(done.rows)
        for first in range(done.rows, rows, 10):
            if fail_at is not None and first >= fail_at:
                raise KeyboardInterrupt
            found = batch(first)
            done.add(found.report)
            yield found

    return made


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(store, "SHARD", 30)


def numbers(kept) -> list[int]:
    ids = kept.column("input_ids")
    assert [len(ids[index]) for index in range(len(ids))] == ids.lengths.tolist()
    return [int(ids[index][0]) for index in range(len(ids))]


def test_what_is_kept_is_made_once_and_read_back_whole(tmp_path):
    log: list[int] = []
    for made in (True, False):
        kept = Store(tmp_path).open("key", make(100, log))
        assert numbers(kept) == list(range(100)) and len(kept) == 100 and kept.made is made
        assert kept.report == Report("chatml", rows=100, examples=100, dropped_rows=list(range(0, 100, 10)))
    assert log == [0] and len(kept.paths) == 4


def test_an_interrupted_preparation_goes_on_behind_its_last_whole_shard(tmp_path):
    log: list[int] = []
    said: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).open("key", make(100, log, fail_at=80), said.append)
    assert said[-1] == 80
    kept = Store(tmp_path).open("key", make(100, log), said.append)
    assert log == [0, 60] and said[9] == 60 and said[-1] == 100
    whole = Store(tmp_path).open("other", make(100))
    assert numbers(kept) == numbers(whole) and kept.report == whole.report
    assert [path.read_bytes() for path in kept.paths] == [path.read_bytes() for path in whole.paths]


def test_a_shard_that_is_not_whole_is_made_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).open("key", make(100, fail_at=80))
    (tmp_path / "key" / "00001.json").write_text('{"torn')
    log: list[int] = []
    assert numbers(Store(tmp_path).open("key", make(100, log))) == list(range(100)) and log == [30]


def test_nothing_is_kept_when_what_was_read_has_changed(tmp_path):
    def changing(done: Report):
        yield from make(50)(done)
        raise Changed("the data changed while they were read.")

    with pytest.raises(Changed):
        Store(tmp_path).open("key", changing)
    log: list[int] = []
    Store(tmp_path).open("key", make(50, log))
    assert log == [0]


def test_no_rows_are_kept_as_no_rows(tmp_path):
    kept = Store(tmp_path).open("key", make(0))
    assert len(kept) == 0 and kept.paths == [] and kept.column("input_ids").lengths.tolist() == []


def test_a_key_changes_with_everything_that_matters(tmp_path, monkeypatch):
    keys = Store(tmp_path)
    found = {keys.key(template="a", limit=1), keys.key(template="b", limit=1), keys.key(template="a", limit=2)}
    assert len(found) == 3 and keys.key(limit=1, template="a") in found
    monkeypatch.setattr(store, "_program", lambda: "another version")
    assert keys.key(template="a", limit=1) not in found


def test_a_digest_follows_the_content_and_not_the_name(tmp_path):
    keys = Store(tmp_path / "store")
    file, copy = tmp_path / "rows.jsonl", tmp_path / "copy.jsonl"
    file.write_text("one")
    shutil.copy(file, copy)
    first = keys.digest(file)
    assert keys.digest(copy) == first != ""
    stat = file.stat()
    file.write_text("two")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # same size, same time of change
    assert keys.digest(file) != first
    assert keys.digest(None) == keys.digest(tmp_path / "absent") == ""


def test_a_file_that_has_settled_is_read_once(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SETTLED", -1.0)
    keys, file, opened = Store(tmp_path / "store"), tmp_path / "rows.jsonl", []
    file.write_text("one")
    digest = store.hashlib.file_digest
    monkeypatch.setattr(store.hashlib, "file_digest", lambda *given: opened.append(1) or digest(*given))
    first = keys.digest(file)
    assert keys.digest(file) == first and len(opened) == 1
    file.write_text("two")
    assert keys.digest(file) != first and len(opened) == 2


def test_a_folder_is_told_by_its_files_and_their_names(tmp_path):
    keys, folder = Store(tmp_path / "store"), tmp_path / "data"
    folder.mkdir()
    (folder / "a.jsonl").write_text("one")
    first = keys.digest(folder)
    (folder / "a.jsonl").rename(folder / "b.jsonl")
    renamed = keys.digest(folder)
    (folder / "c.jsonl").write_text("")
    assert len({first, renamed, keys.digest(folder)}) == 3


def test_what_was_used_least_recently_goes_and_what_is_in_use_stays(tmp_path):
    def entry(key: str, at: int) -> store.Kept:
        kept = Store(tmp_path).open(key, make(100))
        os.utime(tmp_path / key / "done.json", (at, at))
        return kept

    used = entry("used", 1)
    entry("old", 2), entry("older", 1)
    size = sum(file.stat().st_size for file in (tmp_path / "old").iterdir())
    Store(tmp_path, cap=3 * size + size // 2).open("new", make(100))
    assert {path.name for path in tmp_path.iterdir()} == {"used", "old", "new"}
    assert numbers(used) == list(range(100))
    del used
    Store(tmp_path, cap=0).open("newest", make(100))
    assert [path.name for path in tmp_path.iterdir()] == ["newest"]


def _open(folder: Path, begun, made) -> None:
    begun.wait()
    kept = Store(folder).open("key", make(2000))
    made.put((kept.made, len(kept), int(np.sum(kept.column("input_ids").lengths))))


def test_two_processes_that_ask_at_once_write_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    begun, made = context.Barrier(2), context.Queue()
    both = [context.Process(target=_open, args=(tmp_path, begun, made)) for _ in range(2)]
    for process in both:
        process.start()
    found = sorted(made.get(timeout=60) for _ in both)
    for process in both:
        process.join()
    assert [one[0] for one in found] == [False, True] and found[0][1:] == found[1][1:] == (2000, 3999)
