"""Mixtures of experts: what is planned of them is what becomes of them, and adapters are whole without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from data import models
from data.checking import preflight
from data.planning import forecast
from data.planning.memory import frozen_bytes
from data.planning.shape import Subject
from engine.contract import text
from tests import tiny
from tests.e2e.test_methods import IDS, says, shaken
from tests.e2e.training import losses, train, weights

FEW = {"num_experts_per_tok": 2, "intermediate_size": 64}
FAMILIES: dict[str, dict[str, Any]] = {
    "Mixtral": {"num_local_experts": 4, "router_aux_loss_coef": 0.5},  # large, to be seen
    "Qwen3Moe": {"num_experts": 4, "moe_intermediate_size": 16, "head_dim": 8, "decoder_sparse_step": 1},
    "Qwen2Moe": {"num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 32,
                 "decoder_sparse_step": 1},
    "GptOss": {"num_local_experts": 4, "head_dim": 8},
    "Llama4Text": {"num_local_experts": 4, "head_dim": 8, "intermediate_size_mlp": 64, "interleave_moe_layer_step": 1},
    "DeepseekV3": {"n_routed_experts": 4, "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1,
                   "first_k_dense_replace": 1, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4,
                   "qk_nope_head_dim": 8, "v_head_dim": 8},
}  # fmt: skip
METHODS = [
    ["method.rank=4"], ["method.rank=4", "method.dora=true"], ["method=oft", "method.block_size=8"], ["method=full"],
    ["method=tuner", "method.tuner=lokr"], ["method=freeze", "method.layers=1"],
]  # fmt: skip


def made(family: str, folder: Path) -> Path:
    """A tiny model with random weights of that family, and the tiny tokenizer."""
    tiny.model_folder(folder)
    llama = transformers.AutoConfig.from_pretrained(folder)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=llama.vocab_size, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=256, eos_token_id=llama.eos_token_id, pad_token_id=llama.pad_token_id,
        bos_token_id=llama.bos_token_id, tie_word_embeddings=False, **FEW, **FAMILIES[family],
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def parsed(*said: str) -> Any:
    alpha = ["method.alpha=8"] if said[0] == "method.rank=4" else []
    return text.parse({}, ["model=mixed", "data=sums.jsonl", "data.max_length=128", *said, *alpha], kind="train")


@pytest.fixture
def mixed(workspace: Path) -> Path:
    return made("Mixtral", workspace / "models" / "mixed")


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_counted_is_what_is_trained(tmp_path: Path, family: str) -> None:
    from engine.models.model import model_of
    from engine.tuning import methods
    from engine.tuning.starts import Start

    folder = made(family, tmp_path / "mixed")
    shapes = models.card(folder).shapes
    for said in METHODS:
        args = parsed(*said)
        model = methods.prepared(model_of(folder, dtype=torch.float32, device=torch.device("cpu")), args, Start(10))
        moved, _ = methods.trained(model)
        held = 4 if family == "DeepseekV3" and said[0] in ("method=full", "method=freeze") else 0  # its router's state
        assert forecast.trained_parameters(shapes, args.method, tied=False) - held == moved, said


@pytest.mark.parametrize("packed", ["nf4", "int8"])
def test_experts_are_planned_in_the_precision_that_they_keep(mixed: Path, packed: str) -> None:
    from engine.models.model import model_of

    model = model_of(mixed, dtype=torch.bfloat16, device=torch.device("cpu"), quantisation=packed)
    held = sum(parameter.nbytes for parameter in model.parameters())
    args = parsed(f"model.quantisation={packed}", "model.dtype=bf16")
    assert frozen_bytes(Subject.of(models.card(mixed)), args, 0) == pytest.approx(held, rel=0.03)


def test_an_adapter_beside_experts_is_trained_found_again_and_merged(workspace: Path, mixed: Path) -> None:
    from engine.models.merging import merged
    from engine.models.model import model_of, with_adapter

    run = train(workspace, "model=mixed", "method.rank=4", "steps.max_steps=2")

    def tuned() -> Any:
        model = model_of(mixed, dtype=torch.float32, device=torch.device("cpu"))
        return with_adapter(model, run.model_path, trainable=True)

    names = {
        name.rpartition(".lora_")[0].rpartition(".")[2] for name, _ in tuned().named_parameters() if "lora" in name
    }
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert torch.equal(says(tuned()), says(tuned()))
    moved = shaken(tuned())
    said = says(moved)
    assert said.shape[1] == IDS.shape[1]
    assert (says(merged(moved)) - said).abs().max() < 1e-5


@pytest.mark.parametrize("loss", ["plain", "chunked"])
def test_the_balance_of_experts_is_the_same_without_padding(workspace: Path, mixed: Path, loss: str) -> None:
    words = ["model=mixed", "method=full", "steps.max_steps=3", "data.split=rest/3/0", f"compute.loss={loss}"]
    padded, apart = (train(workspace, *words, f"compute.padding_free={free}") for free in ("false", "true"))
    assert losses(apart) == pytest.approx(losses(padded), abs=1e-5)
    for name, weight in weights(padded.model_path).items():
        torch.testing.assert_close(weights(apart.model_path)[name], weight, atol=1e-5, rtol=1e-4)


def test_held_out_loss_and_learnt_prefixes_leave_the_balance_of_experts_out(workspace: Path, mixed: Path) -> None:
    words = ["model=mixed", "steps.max_steps=2", "data.split=rest/3/0", "record.evaluate_every=2"]
    plain, free = (train(workspace, *words, "method.rank=4", f"compute.loss={loss}") for loss in ("plain", "chunked"))
    assert losses(plain, "eval/loss") == pytest.approx(losses(free, "eval/loss"), abs=1e-5)
    assert losses(plain)[0] > losses(plain, "eval/loss")[0] + 0.4
    prefixed = train(workspace, *words, "method=prefix")
    assert len(losses(prefixed)) == 2


def test_a_family_that_says_nothing_of_its_balance_trains_without(workspace: Path) -> None:
    made("Llama4Text", workspace / "models" / "mixed")
    run = train(workspace, "model=mixed", "method=full", "steps.max_steps=2")
    assert len(losses(run)) == 2


def test_what_becomes_of_experts_is_said_before_the_start(workspace: Path, mixed: Path) -> None:
    (note,) = preflight.notes(parsed("method.rank=4"), workspace)
    assert note == "The adapter leaves the feed-forwards with experts as they are. Full and Freeze train them."
    (note,) = preflight.notes(parsed("model.quantisation=nf4"), workspace)
    assert "as they are, and in full precision: nf4 (model.quantisation) takes linear layers." in note
    assert preflight.notes(parsed("method=full"), workspace) == []
    (problem,) = preflight.problems(parsed("method.targets=[w1]"), workspace)
    assert str(problem) == (
        "method.targets: The model has no layer called w1. It has k_proj, o_proj, q_proj, v_proj. "
        "Adapters leave the feed-forwards with experts as they are."
    )
