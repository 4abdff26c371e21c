"""How runs end: early, when nothing gets better, and with the best weights; over stops and resumes too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from data.checking.preflight import problems
from engine.contract import text
from engine.contract.errors import ArgsError
from engine.contract.rundir import Run
from tests.e2e.training import TINY, events, losses, train, weights

EVERY_STEP = ["data.split=80/20/0", "record.evaluate_every=1", "record.save_every=100"]
LORA = ["method.rank=4"]


def measured(monkeypatch: pytest.MonkeyPatch, *values: float) -> None:
    """Makes the held-out loss after step 1, 2, ... what is said; the weights go their way."""
    from engine.recipes.sft import Task

    step = Task.prediction_step

    def told(self: Any, *given: Any, **more: Any) -> Any:
        _, *rest = step(self, *given, **more)
        return torch.tensor((9.0, *values)[self.state.global_step]), *rest

    monkeypatch.setattr(Task, "prediction_step", told)


def saved(run: Run) -> list[str]:
    return [folder.name for _, folder in run.checkpoints()]


def same(first: Path, second: Path) -> bool:
    one, other = weights(first), weights(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_ends_early_as_done_when_nothing_gets_better(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, 5, 4, 4.5, 4, 3, 2)
    run = train(workspace, *EVERY_STEP, *LORA, "steps.max_steps=6", "record.patience=2")
    assert len(losses(run)) == 4 and run.model_path.is_dir()
    [said] = [event for event in events(run, "note") if "ends early" in event["text"]]
    assert said["text"] == ("The last 2 evaluations were no better than that at step 2 (eval/loss 4): the run ends "
                            "early, at step 4 of 6.")  # fmt: skip
    assert said["facts"]["best_step"] == 2
    [result] = events(run, "result")
    assert result["sentence"].endswith("It ended early: nothing was better than step 2.")
    assert result["facts"]["ended_early"] and result["facts"]["steps"] == 4


def test_a_run_that_gets_better_now_and_then_goes_on(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, 5, 6, 4, 6, 3, 6)
    run = train(workspace, *EVERY_STEP, *LORA, "steps.max_steps=6", "record.patience=2")
    assert len(losses(run)) == 6 and not events(run, "result")[0]["facts"]["ended_early"]


@pytest.mark.parametrize("method", [
    LORA, ["method=full"], pytest.param(["method=freeze", "method.layers=1"], marks=pytest.mark.slow)],
                         ids=["lora", "full", "freeze"])  # fmt: skip
def test_the_best_weights_are_kept_and_are_the_result(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, method: list[str]
) -> None:
    measured(monkeypatch, 5, 3, 4, 6, 6, 6)
    run = train(workspace, *EVERY_STEP, *method, "steps.max_steps=6", "record.keep_best=true", "record.keep=2",
                "record.save_every=1")  # fmt: skip
    assert saved(run) == ["step-2", "step-5", "step-6"]
    assert same(run.model_path, run.checkpoints_path / "step-2")
    assert not same(run.model_path, run.checkpoints_path / "step-6")
    assert any(event["text"] == "Kept the weights of step 2, the best (eval/loss 3)." for event in events(run, "note"))
    assert "The weights are those of step 2, the best (eval/loss 3)." in events(run, "result")[0]["sentence"]


def test_without_keeping_the_best_the_last_weights_are_the_result(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, 5, 3, 4, 6)
    run = train(workspace, *EVERY_STEP, *LORA, "record.keep=2", "record.save_every=1")
    assert saved(run) == ["step-3", "step-4"] and same(run.model_path, run.checkpoints_path / "step-4")


def test_the_best_is_saved_whenever_it_comes_and_older_ones_go(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, 5, 4, 3, 6)
    run = train(workspace, *EVERY_STEP, *LORA, "record.keep_best=true", "record.keep=1")
    assert saved(run) == ["step-3", "step-4"]  # the best, and the last as ever


def test_a_resumed_run_counts_on_and_knows_its_parents_best(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, 5, 3, 4, 4, 4, 4)
    common = [*EVERY_STEP, *LORA, "record.keep_best=true", "record.save_every=1", "record.keep=9"]
    parent = train(workspace, *common, "steps.max_steps=6")
    child = train(workspace, *common, "steps.max_steps=6", "record.patience=3", f"resume.run={parent.id}",
                  "resume.checkpoint=step-4")  # fmt: skip
    assert len(losses(child)) == 1  # evaluations 3 and 4 were the parent's, 5 is the third that is no better
    assert same(child.model_path, parent.checkpoints_path / "step-2")
    assert saved(child) == ["step-2", "step-5"]


def test_a_best_checkpoint_that_is_gone_is_said_and_the_next_best_counts(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, 5, 3, 6, 4, 6, 6)
    common = [*EVERY_STEP, *LORA, "steps.max_steps=6", "record.save_every=1", "record.keep=3"]
    parent = train(workspace, *common)
    child = train(workspace, *common, "record.keep_best=true", f"resume.run={parent.id}", "resume.checkpoint=step-4")
    assert "those of step 2, were not kept" in events(child, "warning")[-1]["text"]
    assert same(child.model_path, child.checkpoints_path / "step-5")


def test_what_is_watched_may_rise_where_a_recipe_says_so(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.recipes.sft import Task

    monkeypatch.setattr(Task, "BEST", ("eval/loss", "max"))
    measured(monkeypatch, 1, 3, 2, 2)
    run = train(workspace, *EVERY_STEP, *LORA, "record.keep_best=true")
    assert same(run.model_path, run.checkpoints_path / "step-2")


@pytest.mark.parametrize("wanted", ["record.patience=2", "record.keep_best=true"])
def test_without_held_out_rows_there_is_nothing_to_go_by(workspace: Path, wanted: str) -> None:
    with pytest.raises(ArgsError, match=f"{wanted.partition('=')[0]}: No row is held out.*name data.validation"):
        train(workspace, *LORA, wanted)
    lost = {"messages": [{"role": "user", "content": "Well, " * 100}, {"role": "assistant", "content": "No."}]}
    (workspace / "datasets" / "lost.jsonl").write_text(json.dumps(lost))
    with pytest.raises(ArgsError, match="No row that is held out can be used to measure by"):
        train(workspace, *LORA, wanted, "data.validation=[lost.jsonl]", "data.cut=answer")
    args = text.parse({}, [*TINY, wanted, "data.validation=[sums.jsonl]", "data.train=[other]"], kind="train")
    assert not [problem for problem in problems(args, workspace) if problem.path.startswith("record")]
