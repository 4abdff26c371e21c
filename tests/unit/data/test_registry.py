"""Datasets by name or path, and the confinement of paths."""

from __future__ import annotations

import json
import os

import pytest

from data.datasets import registry
from data.paths import inside
from engine.contract.errors import BoardError, DataError

RECORD = json.dumps({"prompt": "a", "completion": "b"}) + "\n"


@pytest.fixture
def workspace(tmp_path):
    (tmp_path / "work" / "datasets").mkdir(parents=True)
    return tmp_path / "work"


def test_shipped_datasets_are_listed_and_resolve(workspace):
    listed = {entry.name: entry for entry in registry.entries(workspace)}
    assert list(listed) == ["identity", "sql"]
    for entry in listed.values():
        assert entry.title and entry.description and entry.licence == "Apache-2.0"
        assert registry.count(entry).rows == len(registry.load(entry)) > 0
    assert listed["identity"].fill == {"name": "Tuney", "author": "the Tuneboard project"}
    assert not any("{{" in message["content"] for row in registry.load(listed["identity"]) for message in row.messages)


def test_files_and_the_list_in_the_workspace_are_found(workspace):
    folder = workspace / "datasets"
    (folder / "mine.jsonl").write_text(RECORD * 3)
    (folder / "more").mkdir()
    (folder / "more" / "listed.jsonl").write_text(RECORD)
    (folder / "notes.docx").write_text("no dataset")
    (folder / "datasets.yaml").write_text(
        "house:\n  title: House style\n  path: more/listed.jsonl\n  fill: {name: X}\n"
    )
    listed = {entry.name: entry for entry in registry.entries(workspace)}
    assert set(listed) == {"identity", "sql", "house", "mine.jsonl"}
    assert registry.count(listed["mine.jsonl"]) == (3, "prompt_completion")
    assert registry.find("house", workspace).path == (folder / "more" / "listed.jsonl").resolve()


def test_each_split_of_a_folder_is_a_dataset_of_its_own(workspace):
    folder = workspace / "datasets" / "set"
    folder.mkdir()
    (folder / "train.jsonl").write_text(RECORD * 3)
    assert registry.find("set", workspace).split == ""
    (folder / "test.jsonl").write_text(RECORD)
    names = [entry.name for entry in registry.entries(workspace)]
    assert names[-2:] == ["set/train", "set/test"]
    assert [registry.count(registry.find(name, workspace)).rows for name in names[-2:]] == [3, 1]
    assert len(registry.load(registry.find("set/train", workspace))) == 3
    (folder / "more.jsonl").write_text(RECORD)
    assert registry.count(registry.find("set", workspace)).rows == 5  # what no split claims is not lost


def test_a_count_is_taken_again_only_when_the_file_has_changed(workspace, monkeypatch):
    file = workspace / "datasets" / "mine.jsonl"
    file.write_text(RECORD)
    entry = registry.find("mine.jsonl", workspace)
    assert registry.count(entry).rows == 1
    monkeypatch.setattr(registry.files, "read", lambda path: pytest.fail("read again"))
    assert registry.count(entry).rows == 1
    monkeypatch.undo()
    file.write_text(RECORD * 2)
    assert registry.count(entry).rows == 2
    file.unlink()
    with pytest.raises(DataError, match="does not exist"):
        registry.count(entry)


def test_an_unknown_name_suggests_the_nearest(workspace):
    with pytest.raises(DataError, match="Did you mean 'identity'"):
        registry.find("identiy", workspace)
    with pytest.raises(DataError, match="Choose one of identity, sql"):
        registry.find("zebra", workspace)


def test_a_path_works_where_it_is_allowed(workspace, tmp_path, monkeypatch):
    file = tmp_path / "my.jsonl"
    file.write_text(RECORD)
    with pytest.raises(BoardError, match="outside the folders"):
        registry.find(str(file), workspace)
    assert registry.find(str(file), workspace, [tmp_path]).path == file.resolve()
    monkeypatch.chdir(tmp_path)
    assert registry.find("my.jsonl", workspace, [tmp_path]).path == file.resolve()
    with pytest.raises(DataError, match="does not exist"):
        registry.find("other.jsonl", workspace, [tmp_path])


def test_every_mistake_in_a_list_is_named(workspace):
    (workspace / "datasets" / "datasets.yaml").write_text(
        "a:\n  path: a.jsonl\n  licens: MIT\nb:\n  title: B\nc:\n  path: c.jsonl\n  format: alpacca\nd: text\n"
    )
    wrong = registry.mistakes(workspace)
    assert wrong and all(part in wrong.text for part in ("datasets.yaml", "a.licens", "b.path", "c: ", "d: "))


def test_a_mistake_in_a_list_takes_nothing_else_away(workspace):
    (workspace / "datasets" / "right.jsonl").write_text(RECORD)
    (workspace / "datasets" / "datasets.yaml").write_text("a: 7\nb: {path: right.jsonl}\n")
    assert {"identity", "sql", "b"} <= {entry.name for entry in registry.entries(workspace)}
    assert registry.find("b", workspace).path.name == "right.jsonl"
    with pytest.raises(DataError, match="a: it must hold fields"):
        registry.find("a", workspace)
    (workspace / "datasets" / "datasets.yaml").write_text("b: {path: right.jsonl}\n")
    assert registry.mistakes(workspace) is None


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("a: 7", "a: it must hold fields"),
        ("a:", "a: it must hold fields"),
        ("a: {format: alpaca}", "a.path: it is missing"),
        ("a: {path: 3}", "a.path: it must be a path"),
        ("a: {path: x, colour: red}", "a.colour: there is no such field"),
        ("a: {path: x, options: {encodin: utf-8}}", "a.options.encodin: there is no such field"),
    ],
)
def test_a_mistake_in_a_list_is_said_in_plain_words(workspace, written, said):
    (workspace / "datasets" / "datasets.yaml").write_text(written)
    wrong = registry.mistakes(workspace)
    assert wrong and said in wrong.text and "nput" not in wrong.text


def test_a_list_that_is_no_yaml_is_named(workspace):
    for text in ("a: [", "- a\n"):
        (workspace / "datasets" / "datasets.yaml").write_text(text)
        wrong = registry.mistakes(workspace)
        assert wrong and "list of datasets" in wrong.text


def test_a_listed_path_may_not_leave_the_workspace(workspace):
    (workspace / "datasets" / "datasets.yaml").write_text("leak:\n  path: ../../../../etc/passwd\n")
    with pytest.raises(BoardError, match="outside the folders"):
        registry.find("leak", workspace)


def test_paths_inside_a_root_are_resolved(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert inside(tmp_path / "a" / ".." / "a" / "b", [tmp_path / "a"]) == (tmp_path / "a" / "b").resolve()
    os.symlink(tmp_path / "a", tmp_path / "again")
    assert inside(tmp_path / "again" / "b", [tmp_path / "a"]) == (tmp_path / "a" / "b").resolve()
    assert inside(tmp_path / "a", [tmp_path / "again"]) == (tmp_path / "a").resolve()


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "work/../../x", "work/link/x", "workplace", "a\0b", "loop"])
def test_paths_out_of_the_roots_are_refused(tmp_path, monkeypatch, path):
    (tmp_path / "work").mkdir()
    (tmp_path / "workplace").mkdir()
    os.symlink("/etc", tmp_path / "work" / "link")
    os.symlink(tmp_path / "loop", tmp_path / "loop")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BoardError) as caught:
        inside(path, [tmp_path / "work"])
    assert caught.value.hint


def test_a_refused_symlink_says_where_it_leads(tmp_path):
    os.symlink("/etc/hosts", tmp_path / "link")
    with pytest.raises(BoardError, match="which is really '/etc/hosts'"):
        inside(tmp_path / "link", [tmp_path])


def test_a_folder_with_splits_is_answered_with_all_of_them(workspace):
    for split in ("test", "train"):
        folder = workspace / "datasets" / "both"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{split}.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(DataError, match="choose both/train or both/test"):
        registry.find("both", workspace)


def test_a_file_out_of_bounds_is_not_to_be_moved_among_the_boards_own(workspace):
    (workspace / "datasets" / "datasets.yaml").write_text("far: {path: /nowhere/x.jsonl}\n")
    with pytest.raises(BoardError, match=f"Move it into '{workspace.resolve()}'"):
        registry.find("far", workspace)
