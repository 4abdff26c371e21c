"""Run the engine's training in this process: the worker's own code without a process's ten seconds of imports."""

from __future__ import annotations

import gc
import json
from functools import cache
from pathlib import Path
from typing import Any

from engine.contract import rundir, text
from engine.contract.rundir import Run, records
from engine.report import Report, Stop

TINY = [
    "model=tiny", "data=sums.jsonl", "model.dtype=fp32", "optim.learning_rate=1e-3", "steps.max_steps=4",
    "data.split=100/0/0", "data.max_length=128", "compute.device=cpu",
    "steps.batch_size=2", "steps.accumulation=2",
]  # fmt: skip


def train(workspace: Path, *overrides: str, stop: Stop | None = None) -> Run:
    """A training run of the tiny model with `overrides` on top of TINY; returns when it has ended."""
    from engine.recipes import run as recipe

    args = text.parse({}, [*TINY, *overrides], kind="train")
    folder = rundir.make(workspace, "test", text.dump(args))
    recipe.run(args, folder, Report(folder), stop or Stop())
    settle()
    return folder


@cache
def settle() -> None:
    """What the libraries brought stays: each training collects garbage, and to look through that took half its time."""
    gc.collect()
    gc.freeze()


def asked(workspace: Path, model: Path) -> list[str]:
    """Sets the model of a folder and eight questions up in `workspace`; what a run of them says that rewards answers
    for how they begin."""
    for name in ("datasets", "models"):
        (workspace / name).mkdir()
    (workspace / "models" / "embedded").symlink_to(model)
    things = ["a cat", "the sea", "bread", "a train", "winter", "a book", "the moon", "tea"]
    rows = [json.dumps({"prompt": f"Tell me about {thing}."}) for thing in things]
    (workspace / "datasets" / "things.jsonl").write_text("\n".join(rows), encoding="utf-8")
    rule = ["task.rewards.functions=regex", "task.rewards.pattern=^[A-M]"]
    return ["model=embedded", "data=things.jsonl", "model.dtype=auto", "data.max_length=256", "method=lora", *rule]


def copied(workspace: Path, name: str) -> str:
    """The same rows as another dataset, to measure on what is trained: one file is refused on both sides."""
    rows = workspace / "datasets" / name
    other = rows.with_name(f"again-{name}")
    other.write_bytes(rows.read_bytes())
    return other.name


def losses(run: Run, name: str = "train/loss") -> list[float]:
    return [record["values"][name] for record in records(run.metrics_path) if name in record["values"]]


def events(run: Run, kind: str) -> list[dict[str, Any]]:
    return [record for record in records(run.events_path) if record["kind"] == kind]


def weights(folder: Path) -> dict[str, Any]:
    """Every tensor of the safetensors files in a folder, by name."""
    from safetensors.torch import load_file

    found: dict[str, Any] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found
