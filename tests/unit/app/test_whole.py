"""All rows of a large dataset looked at by a process of the engine, while the page holds a window of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app import errands
from app.datasets import dataset, headline, whole
from data.datasets import registry
from data.datasets.registry import Entry
from engine import look
from tests.processes import until


@pytest.fixture
def entry(tmp_path: Path, monkeypatch) -> Entry:
    """Ten rows seen through windows of four; the ninth is a copy of the second, and the last of the third."""
    monkeypatch.setattr(dataset, "ROWS", 4)
    lines = [{"prompt": f"What is {number}?", "completion": f"It is {number}."} for number in range(1, 9)]
    (tmp_path / "datasets").mkdir()
    text = "\n".join(map(json.dumps, [*lines, lines[1], lines[2]]))
    (tmp_path / "datasets" / "ten.jsonl").write_text(text)
    return registry.find("ten.jsonl", tmp_path)


def test_all_rows_are_looked_at_with_their_changes(entry, capfd):
    found = look.through(entry)
    (copies,) = [one for one in found.findings if one.kind == "duplicate"]
    assert (found.rows, copies.rows) == (10, (9, 10))
    assert "duplicate" not in dataset.look(entry)
    dataset.patch(entry).exclude(row for row in registry.rows(entry) if row.number == 9)
    found = look.through(entry)
    assert (found.rows, [one.count for one in found.findings if one.kind == "duplicate"]) == (9, [1])


def test_how_far_it_is_is_said(entry, capfd, monkeypatch):
    monkeypatch.setattr(look, "SAY_SECONDS", 0.0)
    look.through(entry)
    assert "4 of 10 rows" in capfd.readouterr().err.splitlines()


def test_the_page_asks_an_engine_process_and_mends_what_it_found_anywhere(entry, tmp_path):
    assert whole.known(entry, tmp_path) is None

    def answered() -> bool:
        whole.ask(entry, tmp_path)
        assert not whole.failed(entry, tmp_path)
        return whole.known(entry, tmp_path) is not None

    until(answered)
    answer = whole.known(entry, tmp_path)
    assert answer == look.through(entry)
    window = dataset.window(entry)
    assert set(dataset.looked_through(window, answer)) == set(dataset.known(window, through=True))
    assert dataset.known(window) == {}  # who looks at the window alone is told of the window alone

    rows = dataset.marks(answer)["duplicate"].rows
    assert [line.number for line in dataset.window(entry, 0, rows).lines] == [9, 10]
    dataset.mended(entry, 0, "duplicate", answer)
    assert [line.excluded for line in dataset.window(entry, 0, rows).lines] == [True, True]
    assert whole.known(entry, tmp_path) is None  # the rows are others now


def test_what_nobody_waits_for_is_ended(entry, tmp_path):
    whole.ask(entry, tmp_path)
    (work,) = whole._errands._work.values()
    whole.leave(entry, tmp_path)
    assert work.process.returncode is not None and not whole._errands._work
    assert not whole.failed(entry, tmp_path)


def test_what_ends_without_an_answer_says_why_and_is_not_tried_again(tmp_path):
    broken = errands.Errands("broken", look.LookedThrough)

    def ended() -> bool:
        said.append(broken.ask("key", tmp_path, "", lambda file: ["look"]))
        return broken.failed("key", tmp_path)

    said: list[str] = []
    until(ended)
    assert "look takes the file" in said[-1]
    assert not broken._work


def test_what_the_usual_split_gives_is_said(entry, tmp_path):
    assert headline.divided(entry, dataset.window(entry)) == "95/5/0 gives about 9 rows to train and 1 to validate"


def test_the_split_is_exact_where_all_rows_are_in_memory(entry, monkeypatch):
    monkeypatch.setattr(dataset, "ROWS", 100)
    dataset._read.cache_clear()
    dataset._patched.cache_clear()
    assert headline.divided(entry, dataset.window(entry)) == "95/5/0 gives 9 rows to train and 1 to validate"
    # The second row and its copy ask the same: neither can be held out alone.
    dataset.patch(entry).exclude(row for row in registry.rows(entry) if row.number not in (2, 9))
    said = headline.divided(entry, dataset.window(entry))
    assert said == "95/5/0: no rows can be held out for validation: all begin with the same question."
