"""Two measured steps: what is asked for, how their end is read, and what they change in the plan."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from data.planning import past
from data.planning.past import Measured
from engine import measure, plan
from engine.contract import rundir, text
from engine.contract.errors import BoardError
from engine.contract.events import Failure, Journal
from engine.supervise import FAILED, OUT_OF_MEMORY

GIVEN = ["model=tiny", "data=sums.jsonl", "data.max_length=128", "steps.batch_size=2", "compute.device=cpu"]


def args(*overrides: str) -> Any:
    return text.parse({}, [*GIVEN, *overrides], kind="train")


def test_a_trial_is_the_same_training_two_steps_long() -> None:
    given = args("data.split=80/20/0", "record.samples=[Hello]", "steps.epochs=9", "method.rank=3")
    trial = measure.trial(given)
    assert (trial.steps.max_steps, trial.data.split, trial.record.samples) == (2, "100/0/0", [])
    assert (trial.method, trial.compute) == (given.method, given.compute)
    assert trial.optim == given.optim.model_copy(update={"warmup": 0.0})


def test_a_trial_of_a_run_with_a_long_warm_up_leaves_it_out() -> None:
    assert measure.trial(args("optim.warmup=500")).steps.max_steps == 2


@pytest.mark.parametrize("code", [OUT_OF_MEMORY, -signal.SIGKILL])
def test_running_out_of_memory_is_a_result(workspace: Path, code: int) -> None:
    run = rundir.make(workspace, "trial", "{}")
    assert measure._result(run, code) == Measured(out_of_memory=True)


def test_a_trial_that_fails_says_why(workspace: Path) -> None:
    run = rundir.make(workspace, "trial", "{}")
    Journal(run.events_path).write(Failure("The model has no layer called q_prj.", "It has q_proj."))
    with pytest.raises(BoardError, match="no layer called q_prj"):
        measure._result(run, FAILED)


def test_what_was_measured_replaces_the_estimate_for_these_arguments_alone(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure, "measured", lambda args, workspace: Measured(peak=10**9, speed=50.0, seconds=2.0))
    assert plan.made(args(), workspace).basis == "estimate"
    assert measure.measure(args(), workspace) == 0
    assert "1 GB needed (measured in two steps)" in capsys.readouterr().out
    found = plan.made(args("optim.learning_rate=0.01"), workspace)  # takes as much
    assert (found.basis, found.needed, found.work.basis) == ("measured", 10**9, "measured")
    assert found.work.seconds == pytest.approx(found.work.tokens / 50)
    for other in ("steps.batch_size=4", "method=full", "data.max_length=100", "compute.checkpointing=true"):
        assert plan.made(args(other), workspace).basis == "estimate", other


def test_a_measurement_waits_for_its_device_like_a_run(state_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from engine.contract import queue

    with measure.alone(["cpu"]):
        assert queue.held(queue.device_lock("cpu"))
    assert not queue.held(queue.device_lock("cpu"))
    assert list((state_folder / "device-cpu.queue").iterdir()) == []
    assert "waiting" not in capsys.readouterr().err


def test_several_processes_are_not_measured(workspace: Path) -> None:
    with pytest.raises(BoardError, match="launch wants 2"):
        measure.measure(args("launch.processes=2"), workspace)


def test_a_damaged_measurement_counts_for_nothing(workspace: Path) -> None:
    found = plan.made(args(), workspace)
    file = workspace / "cache" / past.KEPT / f"{past.key(found.args)}.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}x")
    assert past.measured(found.args, workspace) is None
