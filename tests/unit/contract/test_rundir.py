"""The run folder: how it is made, how its state is read, and that nobody ever sees half of anything."""

from __future__ import annotations

import json
import os
import threading
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from engine.contract import rundir
from engine.contract.errors import ResourceError
from engine.contract.rundir import Run, make, make_locked, records, runs, slug, take_lock, write_json


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make(tmp_path, "test", "kind: train\n")


def test_a_run_is_a_folder_with_its_arguments_in_it(tmp_path: Path) -> None:
    run = make(tmp_path, "My run: SFT!", "kind: train\n")
    assert run.path.parent == tmp_path / "runs" and run.workspace == tmp_path
    assert run.id[8] == "-" and run.id[15:] == "-my-run-sft"
    assert run.args_path.read_text() == "kind: train\n"


def test_runs_made_in_the_same_second_get_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rundir.time, "strftime", lambda _: "20261121-143205")
    made = [make(tmp_path, "a", "").id for _ in range(11)]
    assert made[:2] == ["20261121-143205-a", "20261121-143205-a-2"] and made[-1] == "20261121-143205-a-11"
    assert [run.id for run in runs(tmp_path)] == made[::-1]


def test_a_run_appears_whole_and_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def unseen(self: Path, target: Path) -> Path:
        assert runs(tmp_path) == []
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", unseen)
    run, lock = make_locked(tmp_path, "a", "kind: train\n")
    assert run.state() == "queued" and run.args_path.read_text() == "kind: train\n"
    os.close(lock)
    assert run.state() == "lost"


def test_many_starters_at_once_never_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rundir.time, "strftime", lambda _: "20261121-143205")
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.append(make(tmp_path, "a", "").id)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 20


@pytest.mark.parametrize(
    ("label", "name"),
    [("SFT of Qwen/Qwen3-0.6B", "sft-of-qwen-qwen3-0-6b"), ("../../etc", "etc"), ("你好", "run"), ("", "run"),
     ("x" * 99, "x" * 40), ("a" * 39 + " b", "a" * 39), ("a\n/\0b", "a-b")],
)  # fmt: skip
def test_a_label_becomes_a_harmless_part_of_a_name(label: str, name: str) -> None:
    assert slug(label) == name


@pytest.mark.parametrize("said", ["done", "failed", "stopped"])
def test_an_ended_run_is_what_its_status_says(run: Run, said: str) -> None:
    write_json(run.status_path, {"state": said})
    assert run.state() == said


@pytest.mark.parametrize("status", [{"state": "queued"}, {"state": "running"}, None])
def test_a_run_that_nobody_holds_any_more_is_lost(run: Run, status: dict[str, Any] | None) -> None:
    if status:
        write_json(run.status_path, status)
    lock = take_lock(run)
    assert run.alive() and run.state() == (status or {"state": "queued"})["state"]
    os.close(lock)
    assert not run.alive() and run.state() == "lost"


def test_a_last_word_written_between_two_looks_counts(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(run.status_path, {"state": "running"})

    def ends(self: Run) -> bool:
        write_json(run.status_path, {"state": "done"})
        return False

    monkeypatch.setattr(Run, "alive", ends)
    assert run.state() == "done"


def test_many_observers_do_not_take_each_other_for_the_owner(run: Run) -> None:
    take = take_lock(run)
    os.close(take)
    seen: list[bool] = []
    threads = [threading.Thread(target=lambda: seen.extend(run.alive() for _ in range(200))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 1600 and not any(seen)


def test_a_reader_never_sees_a_part_of_a_status_that_is_being_replaced(run: Run) -> None:
    write_json(run.status_path, {"n": 0, "padding": ["x" * 50] * 400})
    done = threading.Event()

    def replace() -> None:
        for n in count():
            write_json(run.status_path, {"n": n, "padding": ["x" * 50] * 400})
            if done.is_set():
                return

    writer = threading.Thread(target=replace)
    writer.start()
    seen: list[int] = []
    try:
        while len(set(seen)) < 30:
            assert writer.is_alive()
            status = run.status()
            assert len(status["padding"]) == 400
            seen.append(status["n"])
    finally:
        done.set()
        writer.join()
    assert seen == sorted(seen)
    assert [path.name for path in run.path.glob(".status*")] == []


def test_a_replacement_that_fails_leaves_the_old_file_and_no_litter(run: Run) -> None:
    write_json(run.status_path, {"state": "running"})
    with pytest.raises(TypeError):
        write_json(run.status_path, {"state": object()})
    assert run.status() == {"state": "running"}
    assert sorted(path.name for path in run.path.iterdir()) == ["args.yaml", "lock", "status.json"]


def test_only_whole_lines_that_are_objects_are_read(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"n": 1}\nnonsense\n[2]\n\xff\xfe\n{"n": 3}\n{"n": 4')
    assert list(records(path)) == [{"n": 1}, {"n": 3}]
    assert list(records(tmp_path / "absent.jsonl")) == []


def test_checkpoints_are_those_that_have_their_last_name_in_order_of_steps(run: Run) -> None:
    for name in ("step-100", "step-20", ".partial", "step-3.partial", "checkpoint-5"):
        (run.checkpoints_path / name).mkdir(parents=True)
    assert [step for step, _ in run.checkpoints()] == [20, 100]


def test_a_run_is_not_deleted_while_anybody_works_in_it(run: Run) -> None:
    lock = take_lock(run)
    with pytest.raises(RuntimeError, match="is still queued; stop it first"):
        run.delete()
    assert run.args_path.exists()
    os.close(lock)
    run.delete()
    assert not run.path.exists() and runs(run.workspace) == []


def test_runs_are_newest_first_and_hidden_folders_and_files_are_no_runs(tmp_path: Path) -> None:
    assert runs(tmp_path) == []
    for name in ("20261121-100000-b", "20261122-100000-a", ".deleted-x"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    (tmp_path / "runs" / "notes.txt").write_text("")
    assert [run.id for run in runs(tmp_path)] == ["20261122-100000-a", "20261121-100000-b"]


def test_what_is_written_is_plain_json(run: Run) -> None:
    write_json(run.env_path, {"name": "Zoë", "n": [1, 2]})
    assert json.loads(run.env_path.read_text(encoding="utf-8")) == {"name": "Zoë", "n": [1, 2]}


def test_a_workspace_that_cannot_be_written_to_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="file cannot be written to: Not a directory") as caught:
        rundir.make(tmp_path / "file", "x", "kind: train\n")
    assert "WORKSPACE=" in caught.value.hint
