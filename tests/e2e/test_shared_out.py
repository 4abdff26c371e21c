"""Every method on weights that FSDP2 shares out: it learns there, or is refused before the run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from engine.contract import rundir, text
from engine.contract.args import TrainArgs
from engine.contract.text import checked
from engine.contract.tuners import ONE_FOR_ALL
from engine.report import Report, Stop
from tests.e2e.test_every_way import WAYS, said, workspace  # noqa: F401 (a fixture)
from tests.e2e.test_rules import FIXED, Built
from tests.e2e.training import settle

QUICK = ("full", "lora", "prompt", "unilora")


@pytest.fixture
def alone() -> Iterator[Any]:
    """A group of one process: its share is all of a weight, but a share all the same."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def losses(model: Any, mesh: Any) -> list[float]:
    """Before and after one step, once the model has been shared out."""
    for layer in [one for one in model.modules() if type(one).__name__.endswith("DecoderLayer")]:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    ids, found = torch.arange(30, 50)[None], []
    optimiser = torch.optim.AdamW([weights for weights in model.parameters() if weights.requires_grad], lr=1e-2)
    for _ in range(2):
        loss = model(input_ids=ids, labels=ids, attention_mask=torch.ones_like(ids)).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        found.append(loss.item())
    return found


@pytest.mark.parametrize(
    "way", [way if way in QUICK else pytest.param(way, marks=pytest.mark.slow) for way in sorted(WAYS)]
)
def test_a_method_learns_on_shares_or_is_refused(
    workspace: Path,  # noqa: F811
    alone: Any,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    from transformers import Trainer

    from engine.recipes import run as recipe

    content, _ = text.overridden(
        TrainArgs, {"kind": "train"}, [*FIXED, "data.train=[conversation.jsonl]", *said("sft", way)]
    )
    shared, problems = checked(TrainArgs, {**content, "launch": {"processes": 2, "strategy": "fsdp"}})
    refused = ["launch.strategy" in problem.text or problem.path == "launch.strategy" for problem in problems]
    assert all(refused)
    built: list[Any] = []

    def stop(self: Any, *_: Any, **__: Any) -> None:
        built.append(self.model)
        raise Built

    monkeypatch.setattr(Trainer, "train", stop)
    folder = rundir.make(workspace, "shares", text.dump(text.parse(content, [], kind="train")))
    with pytest.raises(Built):
        recipe.run(text.parse(content, [], kind="train"), folder, Report(folder), Stop())
    settle()
    model = built[0].train()
    if way in ONE_FOR_ALL:
        assert shared is None
        with pytest.raises(TypeError):
            losses(model, alone)
    elif shared is not None:
        before, after = losses(model, alone)
        assert after < before
