"""Memory runs out in the middle of a training, and the run goes on by itself: the same curve, with smaller batches."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from app.running.watch import Watch
from engine.contract import machine, rundir, start, text
from engine.contract.args import TrainArgs
from engine.contract.errors import ResourceError
from engine.contract.rundir import Run
from engine.contract.start import TRIES
from engine.report import Report
from engine.training import recovery
from tests.e2e.training import TINY, events, losses, train
from tests.processes import ended, kill_runs

STARVED = f"{sys.executable} {Path(__file__).parents[1] / 'starved_worker.py'}"
GIVEN = [*TINY, "steps.batch_size=4", "steps.accumulation=1", "steps.max_steps=6", "record.save_every=2",
         "record.keep=9", "data.split=80/20/0", "record.evaluate_every=3", "method.rank=4"]  # fmt: skip


def args(*overrides: str) -> TrainArgs:
    return text.parse({}, [*GIVEN, *overrides], kind="train")  # type: ignore[return-value]


def begun(workspace: Path, monkeypatch: pytest.MonkeyPatch, *, rows: int, at: int) -> Run:
    monkeypatch.setenv("TUNEBOARD_WORKER", STARVED)
    monkeypatch.setenv("STARVED_ROWS", str(rows))
    monkeypatch.setenv("STARVED_AT", str(at))
    return start.start(workspace, "starved", text.dump(args()), tries=TRIES)


def test_a_run_that_runs_out_of_memory_goes_on_and_draws_the_curve_of_one_that_did_not(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(workspace, *GIVEN)
    run = begun(workspace, monkeypatch, rows=2, at=3)
    try:
        assert ended(run, 300) == "done"
    finally:
        kill_runs(workspace)
    watch = Watch(run)
    watch.look()
    series = {one["name"]: one["raw"] for panel in watch.curve.picture("x")["panels"] for one in panel["series"]}
    assert series["train/loss"]["step"] == [1, 2, 3, 4, 5, 6]
    assert series["train/loss"]["y"] == pytest.approx(losses(whole), abs=1e-5)
    assert series["eval/loss"]["y"] == pytest.approx(losses(whole, "eval/loss"), abs=1e-5)
    assert series["train/loss"]["tokens"] == sorted(set(series["train/loss"]["tokens"]))
    attempts = [(record["attempt"], record["step"]) for record in rundir.records(run.metrics_path)
                if "train/loss" in record["values"]]  # fmt: skip
    assert attempts == [(1, 1), (1, 2), (1, 3), (2, 3), (2, 4), (2, 5), (2, 6)]
    [said] = [event for event in events(run, "warning") if "Memory ran out" in event["text"]]
    assert said["attempt"] == 2 and said["text"] == "Memory ran out with 4 rows at once."
    assert "takes 2 at once and adds up 2 batches" in said["hint"] and "from step-2 on" in said["hint"]
    assert run.model_path.is_dir() and run.status()["attempt"] == 2


def test_a_run_that_never_fits_gives_up_with_advice(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begun(workspace, monkeypatch, rows=0, at=0)
    try:
        assert ended(run, 300) == "failed"
    finally:
        kill_runs(workspace)
    [error] = events(run, "error")
    assert error["text"] == "Out of memory." and "data.max_length" in error["hint"] and not error["bug"]
    assert run.status()["attempt"] == 3  # 4 rows, 2, 1: there is nothing left to halve
    assert "from the beginning" in events(run, "warning")[0]["hint"]


@pytest.mark.parametrize(
    ("rows", "accumulation", "expected"),
    [(4, 1, [(4, 1), (2, 2), (1, 4), None]), (6, 2, [(6, 2), (3, 4), (1, 12), None]), (3, 2, [(3, 2), (1, 6), None]),
     (16, 1, [(16, 1), (8, 2), (4, 4), (2, 8)])],
)  # fmt: skip
def test_a_step_keeps_its_rows_however_often_the_batch_is_halved(rows: int, accumulation: int, expected: Any) -> None:
    given = args(f"steps.batch_size={rows}", f"steps.accumulation={accumulation}")
    assert [recovery.batches(given, attempt) for attempt in range(1, len(expected) + 1)] == expected


def test_tries_are_bounded_by_their_number_and_by_the_batch(workspace: Path) -> None:
    run = rundir.make(workspace, "tries", "{}")
    tries = [recovery.may_go_on(args("steps.batch_size=16"), run, attempt) for attempt in (1, 3, 4)]
    assert tries == [True, True, False]
    assert not recovery.may_go_on(args("steps.batch_size=1"), run, 1)


def test_a_batch_that_the_plan_chose_is_halved_from_what_it_was(workspace: Path) -> None:
    run = rundir.make(workspace, "chosen", "{}")
    given = args("compute.auto_batch=true", "steps.batch_size=1", "steps.accumulation=8")
    assert not recovery.may_go_on(given, run, 1)  # nothing was chosen yet
    Report(run).note("The plan takes 8 rows at once.", batch_size=8, accumulation=1)
    assert recovery.may_go_on(given, run, 1)
    eased = recovery.eased(given, run, Report(run, attempt=2), 2)
    assert (eased.steps.batch_size, eased.steps.accumulation, eased.compute.auto_batch) == (4, 2, False)
    assert events(run, "warning")[0]["text"] == "Memory ran out with 8 rows at once."


def test_a_run_takes_as_many_rows_at_once_as_fit_and_learns_the_same(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*GIVEN, "steps.max_steps=2", "data.split=100/0/0", "record.evaluate_every=auto"]
    plain = train(workspace, *words)
    monkeypatch.setattr("engine.training.batching.memory", lambda *_: machine.Memory(10**9, 10**8))
    least = train(workspace, *words, "compute.auto_batch=true")
    [said] = [note for note in events(least, "note") if "batch_size" in note["facts"]]
    assert said["facts"] == {"batch_size": 1, "accumulation": 4} and "and short" in said["text"]
    assert losses(least) == pytest.approx(losses(plain), abs=1e-5)
    assert json.loads(least.env_path.read_text())["args"]["steps"]["batch_size"] == 1


def test_an_attempt_of_a_run_that_went_on_from_another_does_so_again(workspace: Path) -> None:
    run = rundir.make(workspace, "child", "{}")
    eased = recovery.eased(args("resume.run=parent", "resume.checkpoint=step-2"), run, Report(run, attempt=2), 2)
    assert (eased.resume.run, eased.resume.checkpoint) == ("parent", "step-2")
    assert "It goes on from parent again, as nothing was saved yet." in events(run, "warning")[0]["hint"]


def test_an_attempt_after_a_kill_with_one_row_says_that_it_is_at_its_end(workspace: Path) -> None:
    run = rundir.make(workspace, "one", "{}")
    with pytest.raises(ResourceError, match="one row at a time"):
        recovery.eased(args("steps.batch_size=1"), run, Report(run, attempt=2), 2)


@pytest.mark.parametrize(
    ("problem", "lacked"),
    [(MemoryError(), True), (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
     (RuntimeError("CUDA out of memory. Tried to allocate"), True), (RuntimeError("shapes differ"), False)],
)  # fmt: skip
def test_lack_of_memory_is_told_from_other_faults(problem: Exception, lacked: bool) -> None:
    assert recovery.out_of_memory(problem) is lacked
