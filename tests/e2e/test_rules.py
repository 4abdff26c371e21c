"""`check` accepts exactly what the engine builds: any arguments by chance either get a sentence or become a trainer."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.checking import preflight
from engine.contract import rundir, text
from engine.contract.args import TrainArgs
from engine.contract.errors import BoardError
from engine.contract.fields import Spec, walk
from engine.contract.text import checked
from engine.report import Report, Stop
from tests.arguments import put, value
from tests.e2e.test_every_way import TASKS, WAYS, said, workspace  # noqa: F401 (a fixture)
from tests.e2e.training import settle

SPECS = walk(TrainArgs)
# Decided for every draw, so that what is drawn is small and lies in the workspace.
FIXED = [
    "model.path=tiny", "model.dtype=fp32", "data.max_length=128", "data.split=75/25/0", "compute.device=cpu",
    "steps.max_steps=2",
]  # fmt: skip
# Fields that name something outside the arguments, or start processes; each has tests of its own.
OUTSIDE = ("model.path", "model.revision", "model.template", "data.", "launch.", "resume.", "extra", "vision.", "name",
           "description", "compute.device", "model.dtype", "task.rewards.model", "task.rewards.person",
           "task.rewards.label", "task.reference_model", "method.start_from", "task.general")  # fmt: skip
LARGEST = 16
# Fields that elsewhere keep to values that suit every other (tests/arguments.py), and here must not.
ANY = {"model.rope": ["none", "linear", "dynamic", "yarn", "llama3"], "compute.loss": ["auto", "plain", "chunked"],
       "compute.padding_free": ["auto", True, False]}  # fmt: skip


class Built(Exception):
    """A trainer stands, and would begin."""


def drawn(spec: Spec) -> st.SearchStrategy[Any]:
    """A value within a field's own limits: nothing is known of what it goes with."""
    if spec.path in ANY:
        return st.sampled_from(ANY[spec.path])
    if spec.type == "int":
        low = int(spec.low or 0)
        high = min(int(spec.high or LARGEST), max(low, LARGEST))
        numbers: st.SearchStrategy[Any] = st.integers(low, high)
        return st.one_of(numbers, *([st.just("auto")] if spec.auto else []), *([st.none()] if spec.optional else []))
    return value(spec)


@st.composite
def contents(draw: st.DrawFn) -> dict[str, Any]:
    """Any task by any method, with some fields away from their defaults."""
    task, way = draw(st.sampled_from(sorted(TASKS))), draw(st.sampled_from(sorted(WAYS)))
    words = [*FIXED, f"data.train=[{TASKS[task].takes[0]}.jsonl]", *said(task, way)]
    content, _ = text.overridden(TrainArgs, {"kind": "train"}, words)
    kinds = {"task.kind": task, "method.kind": content["method"]["kind"]}
    free = [
        spec for spec in SPECS
        if not spec.path.startswith(OUTSIDE) and not spec.path.endswith(".kind")
        and spec.type not in ("text", "list", "map") and spec.variant in ("", kinds.get(f"{spec.union}.kind"))
    ]  # fmt: skip
    for spec in draw(st.lists(st.sampled_from(free), max_size=6, unique_by=lambda one: one.path)):
        put(content, spec.path, draw(drawn(spec)))
    return content


def agree(workspace: Path, content: dict[str, Any]) -> None:  # noqa: F811
    from engine.recipes import run as recipe

    args, problems = checked(TrainArgs, content)
    if args is None:
        assert problems
        fields = {spec.path for spec in SPECS}  # and of a map (method.own) the name in it
        assert all({problem.path, problem.path.rpartition(".")[0]} & fields for problem in problems), problems
        assert all(problem.text.endswith((".", "?", ")")) or "pip install" in problem.text for problem in problems)
        return
    refused = preflight.problems(args, workspace)
    folder = rundir.make(workspace, "rules", text.dump(args))
    try:
        recipe.run(args, folder, Report(folder), Stop())
    except Built:
        assert not refused, (refused, content)
    except BoardError as problem:
        assert refused, (problem, content)
    finally:
        folder.delete()
    settle()


@pytest.fixture
def unstarted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer is built and not started. What no draw changes is asked once: which datasets there are, and which
    versions of packages."""
    from transformers import Trainer

    from data.datasets import registry
    from engine.recipes import ending

    def built(*_: Any, **__: Any) -> None:
        raise Built

    monkeypatch.setattr(Trainer, "train", built)
    for module, name in ((registry, "entries"), (ending, "version")):
        monkeypatch.setattr(module, name, cache(getattr(module, name)))


SHARED = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True}


@settings(max_examples=30, **SHARED)  # type: ignore[arg-type]
@given(content=contents())
def test_check_and_engine_agree_on_arguments_by_chance(
    workspace: Path,
    unstarted: None,
    content: dict[str, Any],  # noqa: F811
) -> None:
    agree(workspace, content)


@pytest.mark.slow
@settings(max_examples=3000, **SHARED)  # type: ignore[arg-type]
@given(content=contents())
def test_check_and_engine_agree_on_thousands_of_arguments_by_chance(
    workspace: Path,
    unstarted: None,
    content: dict[str, Any],  # noqa: F811
) -> None:
    agree(workspace, content)
