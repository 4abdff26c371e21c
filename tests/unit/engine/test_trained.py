"""What a method is said to train is what it trains, and what an optimiser is said to hold is what it holds: PEFT, the
model and the optimiser themselves are asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from data import models
from data.planning import forecast
from data.planning.memory import memory
from data.planning.shape import Subject
from engine.contract import text
from engine.contract.tuners import TUNERS
from engine.tuning import optimisers

# What does not fit the tiny model's layers as it is.
SMALL = {
    "c3a": "block_size=8", "fourierft": "n_frequency=50", "miss": "r=8", "psoft": "r=4", "shira": "r=4",
    "vblora": "vector_length=8", "waveft": "n_frequency=50",
}  # fmt: skip
TUNED = [
    ["method=tuner", f"method.tuner={name}", *([f"method.own.{SMALL[name]}"] if name in SMALL else [])]
    for name in TUNERS
]
OTHERS = [
    ["method.rank=4"], ["method.rank=4", "method.dora=true"], ["method.rank=4", "method.init=pissa"],
    ["method.rank=4", "method.targets=[q_proj, v_proj]"], ["method.rank=4", "method.extra_modules=[embed_tokens]"],
    ["method.rank=4", "method.replicate=[0-1, 1-1]"], ["method=oft", "method.block_size=8"],
    ["method=oft", "method.block_size=12", "method.shared=true"], ["method=ia3"], ["method=prompt"], ["method=prefix"],
    ["method=full"], ["method=freeze", "method.layers=1"], ["method=freeze", "method.layers=1", "method.which=first"],
    ["method=freeze", "method.layers=0", "method.modules=['*.mlp.*']"],
    ["method=freeze", "method.which=spectrum"], ["method=freeze", "method.which=spectrum", "method.share=0.75"],
    ["method=freeze", "method.which=spectrum", "method.modules=['*.0.mlp.*', '*norm*']", "method.head=true"],
    ["method=freeze", "method.layers=1", "method.head=true"],
    ["method=freeze", "method.layers=0", "method.embeddings=true"], ["method=expand", "method.layers=1"],
    ["method=expand", "method.layers=2"],
    ["method=tuner", "method.tuner=lokr", "method.own.r=2", "method.own.decompose_both=true"],
    ["method=tuner", "method.tuner=lokr", "method.own.decompose_factor=4"],
    ["method=tuner", "method.tuner=road", "method.own.variant=road_2"],
    ["method=tuner", "method.tuner=peanut", "method.own.depth=2", "method.own.r=4"],
    ["method=tuner", "method.tuner=boft", "method.own.boft_block_size=8", "method.targets=[up_proj]"],
]  # fmt: skip


@pytest.mark.parametrize("said", [*OTHERS, *TUNED], ids=" ".join)
def test_the_count_is_that_of_the_model_itself(tiny_model: Path, said: list[str]) -> None:
    from engine.models.model import model_of
    from engine.tuning import methods
    from engine.tuning.starts import Start

    given = [*said, "method.alpha=8"] if said[0].startswith("method.") else said
    args: Any = text.parse({}, ["model=tiny", "data=x", *given], kind="train")
    model = model_of(tiny_model, dtype=torch.float32, device=torch.device("cpu"))
    moved, _ = methods.trained(methods.prepared(model, args, Start(steps=10)))
    assert forecast.trained_parameters(models.card(tiny_model).shapes, args.method, tied=True) == moved


PARTS = [[], ["vision.projector=true"], ["vision.tower=true"], ["vision.tower=true", "vision.language=false"]]


@pytest.fixture(scope="module", params=["gemma3", "qwen2-vl"])
def seeing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests import tiny_sight

    folder = tmp_path_factory.mktemp("seeing") / request.param
    tiny_sight.make(request.param, folder)
    return folder


@pytest.mark.parametrize("said", [
    ["method.rank=4", "method.alpha=8"], ["method=full"], ["method=freeze", "method.layers=1"],
    ["method=tuner", "method.tuner=ln_tuning"],
], ids=" ".join)  # fmt: skip
def test_of_a_model_that_sees_the_parts_that_are_trained_are_counted(seeing: Path, said: list[str]) -> None:
    from engine.models.model import model_of
    from engine.tuning import methods
    from engine.tuning.starts import Start

    for parts in PARTS:
        args: Any = text.parse({}, ["model=tiny", "data=x", *said, *parts], kind="train")
        model = model_of(seeing, dtype=torch.float32, device=torch.device("cpu"))
        moved, _ = methods.trained(methods.prepared(model, args, Start(steps=10)))
        assert Subject.of(models.card(seeing)).trained(args.method, args.vision) == moved, parts


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "name", ["adamw_torch", "adamw_bnb_8bit", "lion_8bit", "muon", "sgd: {momentum: 0.9}", "badam"]
)
def test_the_plan_knows_the_state_and_the_gradients_that_it_holds(name: str, tied: bool, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

    name, _, own = name.partition(": ")
    if name == "badam":  # begins with its largest block: a layer, or what is in none
        own = f"{{order: {'descending' if tied else 'ascending'}}}"
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=800, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=tied,
    ))  # fmt: skip
    model.save_pretrained(tmp_path)
    words = ["method=full", f"optim.optimiser={name}", *([f"optim.own={own}"] if own else []), "compute.offload=false"]
    args: Any = text.parse({}, [*words, "compute.checkpointing=false"], kind="train")
    optimiser = optimisers.made(model, args, TrainingArguments("unused", learning_rate=1e-3, use_cpu=True))
    model(input_ids=torch.arange(40)[None], labels=torch.arange(40)[None]).loss.backward()
    gradients = sum(one.grad.nbytes for one in model.parameters() if one.grad is not None)
    optimiser.step()
    held = [one for part in getattr(optimiser, "parts", [optimiser]) for one in part.state.values()]
    state = sum(one.nbytes for values in held for one in values.values() if isinstance(one, torch.Tensor))
    planned = memory(Subject.of(models.card(tmp_path)), args, longest=40).parts
    assert planned["optimiser"] == pytest.approx(state, rel=0.03)  # beside single numbers, and norms in 32 bits
    assert planned["gradients"] == gradients
