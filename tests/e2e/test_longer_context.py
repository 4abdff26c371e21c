"""Adapters on a base whose positions are stretched: the same logits wherever they are used, and whatever goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from data import weights as named
from engine.contract.args import ServeArgs
from engine.contract.errors import ArgsError
from engine.contract.rundir import Run
from engine.exporting import lineage
from engine.serving import roster
from tests.e2e.test_export import do
from tests.e2e.training import events, losses, train, weights

LONG = ["method.rank=4", "data.max_length=400", "model.rope=yarn", "model.rope_factor=2", "record.save_every=2"]


def logits_of(folder: Path, adapter: Path | None = None) -> torch.Tensor:
    """As anybody's program has them, of more tokens than the model could read before."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, adapter) if adapter else model
    with torch.no_grad():
        return model.eval()(torch.arange(300)[None] % 200).logits


@pytest.fixture
def stretched(workspace: Path) -> Run:
    return train(workspace, *LONG)


def test_an_adapter_stands_on_the_stretched_base_wherever_it_is_used(workspace: Path, stretched: Run) -> None:
    found = named.find(stretched.id, workspace)
    assert found.base == str(stretched.start_path) and lineage.of(stretched.id, workspace).origin == "tiny"
    said = json.loads((stretched.model_path / "adapter_config.json").read_text())
    assert said["base_model_name_or_path"] == str(stretched.start_path)
    whole = logits_of(stretched.start_path, stretched.model_path)
    assert not torch.allclose(whole, logits_of(workspace / "models" / "tiny", stretched.model_path), atol=1e-3)

    roster_of = roster.load(ServeArgs(models=[stretched.id], device="cpu", dtype="fp32"), workspace)
    voice = roster_of.find(stretched.id)
    assert voice.context == 512
    with voice.speaking() as model, torch.no_grad():
        torch.testing.assert_close(model(torch.arange(300)[None] % 200).logits, whole, atol=1e-5, rtol=0)

    do(workspace, tuned=stretched.id, to="long", dtype="fp32")
    export = workspace / "exports" / "long"
    config = json.loads((export / "config.json").read_text())
    assert config["max_position_embeddings"] == 512 and config["rope_parameters"]["rope_type"] == "yarn"
    torch.testing.assert_close(logits_of(export), whole, atol=1e-4, rtol=0)
    said = events(do(workspace, tuned=stretched.id, to="aside", form="adapter"), "warning")
    assert any("the longer context alone" in one["text"] for one in said)


def test_what_goes_on_from_a_stretched_run_keeps_its_positions(workspace: Path, stretched: Run) -> None:
    at = f"resume.run={stretched.id}"
    resumed = train(workspace, *LONG, at, "resume.checkpoint=step-2")
    assert losses(resumed) == losses(stretched)[2:]
    expected, found = weights(stretched.model_path), weights(resumed.model_path)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    with pytest.raises(ArgsError, match="model.rope: .* was trained with another value"):
        train(workspace, *LONG, at, "resume.checkpoint=step-2", "model.rope=linear")
    goes_on = [*LONG, f"method.start_from={stretched.id}", f"model={stretched.start_path}", "steps.max_steps=1"]
    with pytest.raises(ArgsError, match="has its positions stretched already. Set it to none"):
        train(workspace, *goes_on)
    further = train(workspace, *goes_on, "model.rope=none")
    assert losses(further)[0] < losses(stretched)[0]
    with pytest.raises(ArgsError, match="was trained from .*start.* Choose that model"):
        train(workspace, *LONG, f"method.start_from={stretched.id}")


def test_new_tokens_and_a_longer_context_go_together(workspace: Path) -> None:
    run = train(workspace, *LONG, "model.new_tokens=[What]", "steps.max_steps=1")
    config = json.loads((run.start_path / "config.json").read_text())
    assert config["max_position_embeddings"] == 512
    assert config["vocab_size"] > json.loads((workspace / "models" / "tiny" / "config.json").read_text())["vocab_size"]
