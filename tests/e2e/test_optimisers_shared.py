"""Optimisers on weights that FSDP2 shares out: each steps as on whole ones, or is refused before the run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from engine.contract import text
from engine.contract.errors import ArgsError
from engine.contract.needs import _installed
from engine.contract.solvers import SOLVERS
from engine.tuning import optimisers

HERE = [
    name for name, solver in SOLVERS.items()
    if not solver.alone and not solver.device and name not in ("adamw_torch_xla", "adamw_anyprecision")
]  # fmt: skip


@pytest.fixture
def alone() -> Iterator[Any]:
    """A group of one process: its share is all of a weight, but a share all the same."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def words(name: str) -> list[str]:
    free = ["optim.schedule=constant"] if name.startswith("schedule_free") else []
    return ["method=full", f"optim.optimiser={name}", *free]


def stepped(name: str, mesh: Any = None) -> torch.Tensor:
    """The weights of a small network after two steps; with `mesh`, of one that is shared out."""
    from transformers import LlamaConfig, TrainingArguments

    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model.config = LlamaConfig(hidden_size=8, num_attention_heads=2)  # Adam-mini asks how large a head is
    if mesh is not None:
        fully_shard(model, mesh=mesh)
    optimiser = optimisers.made(
        model, text.parse({}, words(name), kind="train"), TrainingArguments("unused", learning_rate=1e-2, use_cpu=True)
    )
    if callable(getattr(optimiser, "train", None)):
        optimiser.train()  # type: ignore[attr-defined]
    for _ in range(2):
        model(torch.arange(16.0).view(2, 8)).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    whole = [weights.full_tensor() if mesh is not None else weights for weights in model.parameters()]
    return torch.cat([weights.detach().flatten() for weights in whole])


@pytest.mark.parametrize("name", HERE)
def test_an_optimiser_steps_on_shares_as_on_whole_weights_or_is_refused(alone: Any, name: str) -> None:
    if SOLVERS[name].package and not _installed(SOLVERS[name].package):
        pytest.skip(f"{name} needs: {SOLVERS[name].install}")
    shared = [*words(name), "launch.processes=2", "launch.strategy=fsdp"]
    if "fsdp" not in SOLVERS[name].whole:
        text.parse({}, shared, kind="train")
        assert torch.allclose(stepped(name), stepped(name, alone), atol=1e-6)
        return
    with pytest.raises(ArgsError, match="steps on whole weights alone") as found:
        text.parse({}, shared, kind="train")
    assert [problem.path for problem in found.value.problems] == ["optim.optimiser"]
    if name != "muon":  # which would take a share for a matrix
        with pytest.raises((NotImplementedError, RuntimeError), match="sharding strategy|DTensor"):
            stepped(name, alone)
