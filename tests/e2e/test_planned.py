"""What the plan says of runs in which the model writes, held to what such runs then count."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import plan
from engine.contract import text
from tests.e2e.test_every_way import RULE, unpictured, workspace  # noqa: F401 (fixtures)
from tests.e2e.training import TINY, losses, train

LONG = [one for one in RULE if "max_new_tokens" not in one] + ["task.max_new_tokens=24"]


@pytest.mark.parametrize(
    "task",
    [
        ["task=ppo"],
        ["task=grpo", "task.group=4"],
        pytest.param(["task=grpo", "task.group=2", "task.iterations=2"], marks=pytest.mark.slow),
        pytest.param(["task=rloo", "task.group=4", "steps.max_steps=null", "steps.epochs=1"], marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_the_tokens_of_the_plan_are_those_that_the_run_counts(
    workspace: Path,  # noqa: F811 (the fixture of that name)
    task: list[str],
) -> None:
    said = [task[0], "data=prompt.jsonl", *LONG, "method.rank=4", "record.save_every=99", *task[1:]]
    known = plan.made(text.parse({}, [*TINY, *said], kind="train"), workspace).work
    run = train(workspace, *said)
    counted = losses(run, "train/tokens")
    assert known is not None and known.steps == len(counted)
    # An answer may end before it has all its tokens, which at chance a few do.
    assert known.tokens - 0.25 * known.written <= counted[-1] <= known.tokens
    assert known.written > known.tokens / 4
