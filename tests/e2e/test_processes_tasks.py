"""Every task in two processes over gloo: the curve of one where nothing is drawn by chance, and one run's rest after it
went on where something is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.contract.rundir import Run, records
from tests import tiny
from tests.e2e.test_processes import done, quiet  # noqa: F401 (a fixture)
from tests.e2e.training import events, losses, train, weights

SIZED = ["method.rank=4", "method.alpha=8", "steps.max_steps=4", "record.save_every=2", "record.evaluate_every=2"]
# Eleven rows, three of them held out: two steps an epoch, and a held-out share that two processes cannot halve evenly.
COMMON = [*SIZED, "data.split=rest/3/0", "steps.accumulation=1"]
ALONE = [*COMMON, "steps.batch_size=4"]  # not two batches: KTO looks at all that goes through the model at once
TWO = [*COMMON, "steps.batch_size=2", "launch.processes=2"]
PAIRS = [f"task={name}" for name in ("dpo", "simpo", "orpo", "cpo", "reward")]
RULE = ["data=asked.jsonl", "task.rewards.functions={regex: 1, length: 1}", "task.rewards.pattern=[a-m]",
        "task.rewards.length_in=characters", "task.max_new_tokens=6"]  # fmt: skip
WRITING = {
    "ppo": ["task=ppo", *RULE, "task.minibatches=2", "task.passes=2"],
    "grpo": ["task=grpo", *RULE, "task.group=2", "task.iterations=3"],
    "rloo": ["task=rloo", *RULE, "task.group=2"],
}
WROTE = {"ppo": {0, 1, 2, 3}, "grpo": {0, 3}, "rloo": {0, 1, 2, 3}}  # after how many steps answers were written
SPEED = {"train/tokens_per_second", "memory/peak_gb"}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("tasks")
    tiny.model_folder(folder / "models" / "tiny")
    (folder / "datasets").mkdir()
    asked = [{"prompt": f"Is it {number}?"} for number in range(11)]
    said = [f"It is {number}." + " Yes." * (number % 4) for number in range(11)]
    rows: dict[str, list[dict[str, Any]]] = {
        "asked": asked,
        "pairs": [{**one, "chosen": said[n], "rejected": "No, not at all."[: 4 + n]} for n, one in enumerate(asked)],
        "judged": [{**one, "completion": said[n], "label": n % 3 != 0} for n, one in enumerate(asked)],
        "scored": [{**one, "completion": said[n], "score": n % 3} for n, one in enumerate(asked)],
    }
    for name, lines in rows.items():
        (folder / "datasets" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    yield folder


def curves(run: Run, after: int = -1) -> dict[str, dict[int, float]]:
    """Every curve but those of the machine, by its steps behind `after`."""
    found: dict[str, dict[int, float]] = {}
    for record in records(run.metrics_path):
        for name in record["values"].keys() - SPEED if record["step"] > after else ():
            found.setdefault(name, {})[record["step"]] = record["values"][name]
    return found


def same(found: Run, wanted: Run) -> None:
    ours, theirs = curves(found), curves(wanted)
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        assert ours[name] == pytest.approx(values, abs=1e-4, rel=1e-4), name
    for name, tensor in weights(wanted.model_path).items():
        torch.testing.assert_close(weights(found.model_path)[name], tensor, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("task", [
    ["task=kto", "data=judged.jsonl"],
    *(pytest.param([one, "data=pairs.jsonl"], marks=pytest.mark.slow) for one in PAIRS),
    pytest.param(["task=ilql", "data=scored.jsonl"], marks=pytest.mark.slow),
    pytest.param(["task=dpo", "data=pairs.jsonl", "task.precompute_reference=true"], marks=pytest.mark.slow),
], ids=" ".join)  # fmt: skip
def test_two_processes_learn_from_judged_answers_what_one_learns(workspace: Path, task: list[str]) -> None:
    same(done(workspace, *TWO, *task), train(workspace, *ALONE, *task))


@pytest.mark.parametrize("task", [pytest.param(name, marks=() if name == "ppo" else pytest.mark.slow)
                                  for name in WRITING])  # fmt: skip
def test_two_processes_write_answers_of_their_own_and_count_them_all(workspace: Path, task: str) -> None:
    """What is greedy is what one process finds; a run that goes on draws in each process what it would have drawn."""
    said = WRITING[task]
    two = done(workspace, *TWO, *said)
    alone = train(workspace, *ALONE, *said, "steps.max_steps=1")
    for name in ("eval/reward", "eval/reward/length", "eval/length"):
        assert losses(two, name)[0] == pytest.approx(losses(alone, name)[0], abs=1e-6), name
    wrote = WROTE[task]
    assert curves(two)["train/reward"].keys() == {step + 1 for step in wrote}
    assert {event["step"] for event in events(two, "sample")} == wrote
    rest = done(workspace, *TWO, *said, f"resume.run={two.id}", "resume.checkpoint=step-2")
    ours, theirs = curves(rest, after=2), curves(two, after=2)
    for name in (name for name in theirs if name.startswith("train/") and name != "train/tokens"):
        assert ours[name] == pytest.approx(theirs[name], abs=1e-6), name
    assert {event["step"] for event in events(rest, "sample")} == wrote & {2, 3}
