"""From datasets to batches, through the cache: the same rows whichever way they come, and never stale ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from data.datasets import sets
from data.encoding import batches, pack, prepare, store
from data.encoding.render import ChatTemplate
from data.encoding.tokens import TextTokenizer
from data.rows.conversation import Row
from data.rows.formats import restored
from engine.contract import rundir, text
from engine.contract.errors import DataError
from engine.contract.rundir import Run, records
from engine.report import Report, Stopped
from engine.training import rows as rows_module
from engine.training.rows import Rows, rows_of
from tests import tiny
from tests.e2e.training import events

WORDS = ["model=tiny", "data=sums.jsonl", "data.split=100/0/0", "data.max_length=128"]


def made(workspace: Path, *overrides: str) -> tuple[Rows, Run]:
    """The rows of a run, as the worker makes them."""
    args = text.parse({}, [*WORDS, *overrides], kind="train")
    run = rundir.make(workspace, "test", text.dump(args))
    return rows_of(args, workspace / "models" / "tiny", run, Report(run)), run


def found_before(run: Run) -> list[bool]:
    return [not event["facts"]["made"] for event in events(run, "note")]


def columns(rows: Any) -> dict[str, Any]:
    return {name: rows[:][name] for name in rows.column_names}


def direct(workspace: Path, **options: Any) -> prepare.Prepared:
    args = text.parse({}, WORDS, kind="train")
    folder = workspace / "models" / "tiny"
    rows = sets.read(args, workspace).train
    return prepare.prepare(rows, ChatTemplate.of(folder), TextTokenizer.of(folder), max_length=128, **options)


def own_model(workspace: Path) -> Path:
    """The model's folder as one that may be written to."""
    folder = workspace / "models" / "tiny"
    kept = folder.resolve()
    folder.unlink()
    return Path(shutil.copytree(kept, folder))


def test_rows_are_those_of_prepare_made_or_found(workspace: Path) -> None:
    wanted = direct(workspace, cut="oldest")
    for before in (False, True):
        found, run = made(workspace)
        assert columns(found.train) == {
            name: [getattr(row, name) for row in wanted.rows] for name in ("input_ids", "labels", "weights")
        }
        assert found.validation is None and found.trained_rows == 12
        assert found_before(run) == [before]


def test_packed_rows_are_those_of_pack_in_many_shards(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SHARD", 20)
    for module in (batches, pack):
        monkeypatch.setattr(module, "CHUNK", 7)
    tiny.rows(workspace / "datasets" / "sums.jsonl", 100)
    wanted = pack.packed(direct(workspace, cut="oldest").rows, 128)
    found, _ = made(workspace, "data.packing=true")
    assert len(found.kept[0].paths) > 1
    wanted_columns = {name: [getattr(row, name) for row in wanted] for name in ("input_ids", "labels", "position_ids")}
    assert columns(found.train) == {**wanted_columns, "weights": [[]] * len(wanted)}


@pytest.mark.parametrize(
    "change",
    ["data.cut=answer", "data.train_on=last", "data.thoughts=drop", "data.max_length=64", "steps.seed=1",
     "data.fill={four: five}", "data.max_rows=5", "data.split=50/50/0", "model.template=chatml"],
)  # fmt: skip
def test_whatever_matters_is_prepared_anew(workspace: Path, change: str) -> None:
    made(workspace)
    _, run = made(workspace, change)
    assert found_before(run)[0] is False


def test_what_does_not_matter_is_found_again(workspace: Path) -> None:
    made(workspace)
    _, run = made(workspace, "data.workers=0", "optim.learning_rate=1e-5", "data.packing=true", "steps.batch_size=3")
    assert found_before(run) == [True]


@pytest.mark.parametrize("file", ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json"])
def test_a_changed_template_or_tokenizer_never_meets_a_stale_cache(workspace: Path, file: str) -> None:
    folder = own_model(workspace)
    before, _ = made(workspace)
    path = folder / file
    content = path.read_text(encoding="utf-8")
    changed = "Hello " + content if "jinja" in file else content + " "
    path.write_text(changed, encoding="utf-8")
    after, run = made(workspace)
    assert found_before(run) == [False]
    assert (columns(before.train) != columns(after.train)) is ("jinja" in file)


def test_changed_data_never_meet_a_stale_cache_and_a_copy_of_them_does(workspace: Path) -> None:
    file = workspace / "datasets" / "sums.jsonl"
    made(workspace)
    file.write_text(file.read_text().replace("Yes", "Yea"))
    after, run = made(workspace)
    assert found_before(run) == [False]
    assert columns(after.train)["labels"] == [row.labels for row in direct(workspace).rows]
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content)
    assert found_before(made(workspace)[1]) == [True]


def test_a_template_that_prints_the_day_is_prepared_anew_on_the_next(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = own_model(workspace)
    template = folder / "chat_template.jinja"
    template.write_text("{{ strftime_now('%d') }} " + template.read_text())
    made(workspace)
    assert found_before(made(workspace)[1]) == [True]

    class Tomorrow(rows_module.date):
        @classmethod
        def today(cls) -> Any:
            return cls(2099, 1, 1)

    monkeypatch.setattr(rows_module, "date", Tomorrow)
    assert found_before(made(workspace)[1]) == [False]


def test_a_stop_while_preparing_keeps_what_was_done(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SHARD", 20)
    monkeypatch.setattr(batches, "CHUNK", 10)
    monkeypatch.setattr(rows_module, "SAID_EVERY", 0.0)
    tiny.rows(workspace / "datasets" / "sums.jsonl", 100)
    finish, seen = prepare.Examples.finish, []

    def stopping(self: Any, *given: Any) -> Any:
        if len(seen) == 7:
            raise Stopped
        seen.append(1)
        return finish(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(prepare.Examples, "finish", stopping)
        with pytest.raises(Stopped):
            made(workspace)
    again, run = made(workspace)
    said = [(event["step"], event["steps"]) for event in events(run, "progress")]
    assert said[0] == (60, 100) and said[-1] == (100, 100)
    assert {event["unit"] for event in events(run, "progress")} == {"rows"}
    assert columns(again.train)["input_ids"] == [row.input_ids for row in direct(workspace).rows]
    assert again.trained_rows == 100


def test_data_that_change_while_they_are_read_are_refused(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = workspace / "datasets" / "sums.jsonl"
    finish = prepare.Examples.finish

    def changing(self: Any, *given: Any) -> Any:
        tiny.rows(file, 13)
        return finish(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(prepare.Examples, "finish", changing)
        with pytest.raises(DataError, match="changed while they were read"):
            made(workspace)
    assert len(made(workspace)[0].train) == 13


def test_rows_of_other_files_are_told_apart_although_they_hold_the_same(workspace: Path) -> None:
    copy = workspace / "datasets" / "copy.jsonl"
    copy.write_bytes((workspace / "datasets" / "sums.jsonl").read_bytes())
    made(workspace)
    _, run = made(workspace, "data=[sums.jsonl,copy.jsonl]")
    assert found_before(run) == [False]


def test_the_sides_of_a_split_are_written_down_whole(workspace: Path) -> None:
    tiny.rows(workspace / "datasets" / "sums.jsonl", 40)
    found, run = made(workspace, "data.split=60/20/20")
    held, test = ([record["number"] for record in records(path)] for path in (run.heldout_path, run.test_path))
    assert len(held) == len(test) == 8 and not set(held) & set(test)
    assert len(found.train) == 24 and found.validation is not None and len(found.validation) == 8
    original = {row.number: row for row in sets.read(text.parse({}, WORDS, kind="train"), workspace).train}
    for record in records(run.test_path):
        row = restored(record, record["kind"], record["file"], record["number"])
        assert (row.messages, row.tools) == (original[row.number].messages, None)


def test_what_is_found_again_needs_no_reading_and_writes_the_same_sides_down(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.rows(workspace / "datasets" / "sums.jsonl", 40)
    found, run = made(workspace, "data.split=60/20/20")
    monkeypatch.setattr(sets, "read", None)
    again, later = made(workspace, "data.split=60/20/20")
    assert later.heldout_path.read_bytes() == run.heldout_path.read_bytes() != b""
    assert later.test_path.read_bytes() == run.test_path.read_bytes() != b""
    assert again.validation is not None and columns(again.train) == columns(found.train)


def test_pairs_come_with_both_sides(workspace: Path) -> None:
    asked = [{"role": "user", "content": "Hi"}]
    lines = [
        Row(asked, None, "", number, "preference", [{"role": "assistant", "content": "Good " * number}],
            [{"role": "assistant", "content": "Bad"}]).record()
        for number in range(1, 7)
    ]  # fmt: skip
    file = workspace / "datasets" / "pairs.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found, run = made(workspace, "task=dpo", "data=pairs.jsonl")
    sides = {f"{side}_{part}" for side in ("chosen", "rejected") for part in ("ids", "labels")}
    assert set(found.train.column_names) == {*sides, "margin"}
    assert len(found.train) == 6 and events(run, "note")[0]["facts"]["rows"] == 6


def test_rows_that_are_left_out_with_consent_are_counted(workspace: Path) -> None:
    with open(workspace / "datasets" / "sums.jsonl", "a") as file:
        file.write("no row\n{}\n")
    _, run = made(workspace, "data.bad_rows=skip")
    said = [event["text"] for event in events(run, "warning")]
    assert len(said) == 1 and said[0].startswith("2 rows cannot be read and are left out: sums.jsonl, row ")
