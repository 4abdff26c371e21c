"""What makes training lean changes no number: each against the plain computation that it stands for, gradients too."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from data.checking import preflight
from engine.contract import kernels, text
from engine.contract.args import TrainArgs
from engine.contract.errors import ArgsError
from engine.training import apart, causal, likelihood, lowrank, offload
from engine.training.rows import Collate
from tests.e2e.training import TINY, events, losses, train, weights

ROWS = [
    {"input_ids": list(range(3, 3 + length)), "labels": [-100] * 2 + list(range(5, 3 + length))}
    for length in (9, 4, 13)
]


def tiny(**more: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, **more,
    ))  # fmt: skip


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    found = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("at_once", [2**24, 50 * 3])
@pytest.mark.parametrize("bias", [False, True])
def test_loss_in_chunks_and_its_gradients_equal_the_plain_loss(
    monkeypatch: pytest.MonkeyPatch, at_once: int, bias: bool
) -> None:
    monkeypatch.setattr(kernels, "logits_at_once", lambda device, whole: at_once)
    torch.manual_seed(0)
    head, states = nn.Linear(16, 50, bias=bias), torch.randn(11, 16, requires_grad=True)
    labels, given = torch.randint(50, (11,)), torch.rand(11)

    def made(loss: torch.Tensor) -> list[torch.Tensor]:
        loss.backward()
        found = [loss.detach(), states.grad.clone(), *gradients(head).values()]  # type: ignore[union-attr]
        states.grad = None
        return found

    logits = head(states)
    plain = made((functional.cross_entropy(logits, labels, reduction="none") * given).sum() / 7)
    loss, right = likelihood.summed(states, head, labels, given)
    for ours, theirs in zip(made(loss / 7), plain, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    assert right == (logits.argmax(-1) == labels).sum()


def test_chunks_are_not_taken_where_the_model_changes_its_logits() -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    soft = Gemma2ForCausalLM(Gemma2Config(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, final_logit_softcapping=0.5,
    ))  # fmt: skip
    assert likelihood.chunks(tiny()) == "" and "after the output layer" in likelihood.chunks(soft)


def test_a_model_is_asked_without_its_dropout() -> None:
    """An adapter that goes on from another says something already, and something else each time it is trained."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(target_modules="all-linear", lora_dropout=0.5, init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(tiny(), config)
    assert model.train().training and likelihood.chunks(model) == "" and model.training


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_lora_in_one_step_equals_pefts(rate: float) -> None:
    from peft import LoraConfig, get_peft_model

    models = []
    for _ in range(2):
        model = get_peft_model(tiny(), LoraConfig(r=4, lora_alpha=6, target_modules="all-linear", lora_dropout=rate))
        torch.manual_seed(1)
        for name, one in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(one, std=0.1)
        models.append(model.train())
    assert lowrank.fuse(models[0]) == 14
    ids, found = torch.arange(3, 12)[None], []
    for model in models:
        torch.manual_seed(2)
        logits = model(input_ids=ids).logits
        logits.square().mean().backward()
        found.append((logits.detach(), gradients(model)))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-5)
    assert found[0][1].keys() == found[1][1].keys()
    for name, grad in found[1][1].items():
        assert torch.allclose(found[0][1][name], grad, atol=1e-6), name
    with models[0].disable_adapter(), models[1].disable_adapter():
        assert torch.equal(models[0](input_ids=ids).logits, models[1](input_ids=ids).logits)
    merged = models[0].merge_and_unload().eval()(input_ids=ids).logits
    assert torch.allclose(merged, models[1].merge_and_unload().eval()(input_ids=ids).logits, atol=1e-6)


@pytest.mark.parametrize("length", [1, 64, 65, 200])
@pytest.mark.parametrize("groups", [1, 3])
def test_own_backward_of_attention_equals_the_plain_one(length: int, groups: int) -> None:
    torch.manual_seed(0)
    given = [torch.randn(1, heads, length, 16, requires_grad=True) for heads in (3, groups, groups)]
    upstream = torch.randn(1, 3, length, 16)

    def made(output: torch.Tensor) -> list[torch.Tensor]:
        output.backward(upstream)
        found = [output.detach(), *(one.grad.clone() for one in given)]  # type: ignore[union-attr]
        for one in given:
            one.grad = None
        return found

    q, k, v = given
    wide = [one.repeat_interleave(3 // groups, 1) for one in (k, v)]
    scores = (q @ wide[0].transpose(2, 3)) * 0.3 + torch.full((length, length), float("-inf")).triu(1)
    plain = made(scores.softmax(-1) @ wide[1])
    for ours, theirs in zip(made(causal.Causal.apply(q, k, v, 0.3)), plain, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("more", [{}, {"sliding": 5}])
def test_rows_side_by_side_give_the_loss_and_gradients_of_padded_rows(more: dict[str, int]) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    def make() -> Any:
        if not more:
            return tiny()
        torch.manual_seed(0)
        return MistralForCausalLM(MistralConfig(
            vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, sliding_window=more["sliding"],
        ))  # fmt: skip

    found = []
    for together in (False, True):
        model = make()
        if together:
            assert apart.settled(model) == ""
        batch = (apart.Collate(0, apart.unmasked(model)) if together else Collate(0))([dict(row) for row in ROWS])
        labels = batch.pop("labels")
        logits = model(**batch, use_cache=False).logits
        loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        loss.backward()
        found.append((loss.item(), gradients(model)))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    for name, grad in found[0][1].items():
        assert torch.allclose(found[1][1][name], grad, atol=1e-5), name


def test_rows_are_padded_where_a_model_would_mix_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    model = MambaForCausalLM(MambaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, state_size=4))
    assert apart.settled(model)
    assert (
        apart.settled(tiny(attn_implementation="eager")) == "eager attention would compute a mask of all tokens by all"
    )


def test_a_lean_run_ends_as_a_plain_one(workspace: Path) -> None:
    plain = train(workspace, "method.rank=4", "compute.padding_free=false", "compute.loss=plain")
    ours = train(workspace, "method.rank=4", "compute.padding_free=true", "compute.loss=chunked")
    assert losses(ours) == pytest.approx(losses(plain), abs=1e-5)
    for name, tensor in weights(plain.model_path).items():
        assert torch.allclose(weights(ours.model_path)[name], tensor, atol=1e-5), name


def test_what_is_demanded_and_cannot_be_done_is_refused_and_else_said(workspace: Path) -> None:
    with pytest.raises(ArgsError, match="compute.padding_free"):
        train(workspace, "method=prompt", "compute.padding_free=true", "steps.max_steps=1")
    run = train(workspace, "method=prompt", "steps.max_steps=1")
    assert any("padded" in event["text"] for event in events(run, "note"))


def test_liger_is_refused_on_a_processor() -> None:
    from engine.contract.needs import Here, unmet

    args = text.parse({}, ["compute.loss=liger"], kind="train")
    assert any("liger" in problem.text for problem in unmet(args, Here("cpu")))


@pytest.mark.parametrize("checkpointing", ["false", "true"])
def test_activations_in_main_memory_change_no_number(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, checkpointing: str
) -> None:
    packed, real = list[int](), offload.moved

    def counting(tensor: torch.Tensor) -> torch.Tensor:
        packed.append(tensor.numel())
        return real(tensor)

    # There is no accelerator to offload from: without this rule it is done on the processor.
    monkeypatch.setattr("data.checking.preflight.unmet", lambda args, here: [])
    words = ["method.rank=4", "steps.max_steps=2", f"compute.checkpointing={checkpointing}"]
    plain = train(workspace, *words)
    assert not packed
    monkeypatch.setattr(offload, "moved", counting)
    monkeypatch.setattr(offload, "SMALL", 0)
    ours = train(workspace, *words, "compute.offload=true")
    assert packed and losses(ours) == losses(plain)


def test_new_layers_keep_rows_apart_as_the_others_do(workspace: Path) -> None:
    words = ["method=expand", "method.layers=1", "steps.max_steps=2"]
    padded, apart = (train(workspace, *words, f"compute.padding_free={on}") for on in ("false", "true"))
    assert losses(apart) == pytest.approx(losses(padded), abs=1e-5)


def test_the_output_layer_works_in_the_precision_of_the_model(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What leaves the model is widened to fp32; the products of the output layer must not be."""
    seen, linear = [], functional.linear

    def watched(some: torch.Tensor, weight: torch.Tensor, *more: Any) -> torch.Tensor:
        seen.append((some.dtype, weight.dtype))
        return linear(some, weight, *more)

    monkeypatch.setattr(likelihood, "functional", type("Watched", (), {"linear": staticmethod(watched)}))
    train(workspace, "method.rank=4", "steps.max_steps=1", "model.dtype=bf16", "compute.loss=chunked")
    assert set(seen) == {(torch.bfloat16, torch.bfloat16)}


CHUNKED, FREE = "compute.loss=chunked", "compute.padding_free=true"


@pytest.mark.parametrize(("said", "config", "why"), [
    ([CHUNKED, "model.new_tokens=[What]"], {}, "The output layer learns single tokens .model.new_tokens."),
    ([CHUNKED, "method.extra_modules=[lm_head]"], {}, "kept beside another .method.extra_modules: lm_head"),
    ([CHUNKED], {"final_logit_softcapping": 30.0}, "it changes its logits after the output layer .final_logit"),
    ([CHUNKED, "task=dpo"], {}, "DPO .task.kind. asks for the logits of each token. Set compute.loss to auto"),
    ([CHUNKED, "launch.strategy=fsdp"], {}, "The output layer or its rows are shared out .launch.strategy, launch.con"),
    ([FREE, "task=dpo"], {}, "The rows of DPO .task.kind. come padded"),
    ([FREE, "method=prompt"], {}, "A learnt prompt .Prompt tuning, method.kind. stands before each row"),
    ([FREE, "model.attention=eager"], {}, "eager attention .model.attention. would compute a mask"),
    ([FREE, "task.neftune=5"], {}, "goes by the length of a row .task.neftune., which needs rows apart"),
])  # fmt: skip
def test_what_the_loaded_model_could_not_do_is_refused_by_check(
    workspace: Path, said: list[str], config: dict[str, Any], why: str
) -> None:
    other = workspace / "models" / "other"
    shutil.copytree(workspace / "models" / "tiny", other)
    own = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(own | config))
    content, _ = text.overridden(TrainArgs, {"kind": "train"}, [*TINY, *said, "model=other"])
    args, problems = text.checked(TrainArgs, content)
    found = [*problems, *(preflight.problems(args, workspace) if args else [])]
    assert any(re.search(why, one.text) for one in found), found


@pytest.mark.slow
def test_compiled_layers_train_as_others_do(workspace: Path) -> None:
    words = ["method.rank=4", "steps.max_steps=2"]
    plain, ours = train(workspace, *words), train(workspace, *words, "compute.compile=true")
    assert losses(ours) == pytest.approx(losses(plain), abs=1e-4)
    assert weights(ours.model_path).keys() == weights(plain.model_path).keys()


def test_offloading_is_refused_on_a_processor() -> None:
    from engine.contract.needs import Here, unmet

    args = text.parse({}, ["compute.offload=true"], kind="train")
    assert any("main memory already" in problem.text for problem in unmet(args, Here("cpu")))


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn", "llama3"])
def test_stretched_positions_take_longer_rows_and_stay_with_the_model(workspace: Path, kind: str) -> None:
    words = ["method=freeze", "data.max_length=400", "steps.max_steps=1"]
    with pytest.raises(ArgsError, match="data.max_length"):
        train(workspace, *words)
    before = (workspace / "models" / "tiny" / "config.json").read_bytes()
    run = train(workspace, *words, f"model.rope={kind}", "model.rope_factor=2")
    assert (workspace / "models" / "tiny" / "config.json").read_bytes() == before
    config = json.loads((run.model_path / "config.json").read_text())
    assert config["max_position_embeddings"] == 512
    assert config["rope_parameters"]["rope_type"] == kind and config["rope_parameters"]["factor"] == 2
    from transformers import AutoModelForCausalLM

    ids = torch.arange(300)[None] % 200
    assert AutoModelForCausalLM.from_pretrained(run.model_path)(input_ids=ids).logits.isfinite().all()


def test_the_choice_of_attention_says_why() -> None:
    from engine.contract.kernels import attention
    from engine.contract.needs import Here

    class Has(Here):
        def lacks(self, package: str) -> bool:
            return package != "flash_attn"

    assert attention("auto", Here("cpu")) == (None, "PyTorch's own attention (sdpa): on a CPU there is none faster.")
    assert attention("auto", Has("cuda"))[0] == "flash_attention_2"
    assert attention("eager", Here("cuda"))[0] == "eager"
    assert attention("auto", Has("cuda"), apart=True)[0] is None  # as fsdp has it: nothing else runs in main memory
