"""What is done for accelerators, as far as it can be told without one: the devices seen, rows by borders, chunks."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engine.contract import kernels, machine
from engine.devices import sharing
from engine.training import apart, pieces


@pytest.mark.parametrize(
    ("device", "before", "numbers", "after"),
    [
        ("cuda", None, [], "0"), ("cuda", None, ["1"], "1"), ("cuda", "3,2", [], "3"), ("cuda", "3,2", ["2"], "2"),
        ("npu", None, ["1"], "1"),
    ],
)  # fmt: skip
def test_a_run_of_one_process_sees_one_device(
    monkeypatch: pytest.MonkeyPatch, device: str, before: str | None, numbers: list[str], after: str
) -> None:
    name = machine.VISIBLE[device]
    monkeypatch.setenv(name, before or "")
    if before is None:
        monkeypatch.delenv(name)
    machine.keep_to_one(device, numbers)
    assert os.environ[name] == after


def test_on_a_processor_no_device_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in machine.VISIBLE.values():
        monkeypatch.delenv(name, raising=False)
    machine.keep_to_one("cpu", ["1"])
    assert not set(machine.VISIBLE.values()) & set(os.environ)


def test_memory_is_that_of_the_fullest_of_the_devices_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[str]()

    def answer(query: str, numbers: list[str]) -> list[str]:
        asked.extend(numbers)
        return ["81920, 70000", "81920, 500"]

    monkeypatch.setattr(machine, "machine", lambda: machine.Machine("cuda", "some GPU", 8, True))
    monkeypatch.setattr(machine, "_nvidia", answer)
    assert machine.memory(["2", "3"]).free == 500 * 2**20 and asked == ["2", "3"]
    assert machine.memory(["2"], "cpu").total == machine.main_memory().total  # of a run on the processor beside it


@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize("window", [None, 4])
def test_the_kernel_for_all_rows_at_once_takes_what_it_is_given(
    monkeypatch: pytest.MonkeyPatch, heads: int, window: int | None
) -> None:
    """By torch's own shapes of that kernel, which computes on accelerators alone."""
    monkeypatch.setattr(apart, "_narrow", lambda query: query.dtype)

    def some(many: int) -> torch.Tensor:
        return torch.empty(1, many, 16, 64, dtype=torch.bfloat16, device="meta", requires_grad=True)

    query, key, value = some(4), some(heads), some(heads)
    borders = torch.empty(3, dtype=torch.int32, device="meta")
    output = apart._at_once(query, key, value, borders, 9, window, 0.1)
    assert output.shape == (1, 16, 4, 64)
    output.sum().backward()
    assert query.grad.shape == query.shape and key.grad.shape == key.shape  # type: ignore[union-attr]


def test_packed_rows_keep_the_borders_inside_them() -> None:
    packed = [
        {"input_ids": [5, 6, 7, 8, 9], "labels": [5, 6, 7, 8, 9], "position_ids": [0, 1, 2, 0, 1]},
        {"input_ids": [1, 2], "labels": [1, 2], "position_ids": [0, 1]},
    ]
    batch = apart.Collate(0)(packed)
    assert batch["cu_seq_lens_q"].tolist() == [0, 3, 5, 7] and batch["max_length_q"] == 3
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1]]
    assert batch["labels"].tolist() == [[-100, 6, 7, -100, 9, -100, 2]]


def test_an_accelerator_takes_more_logits_at_once_where_there_are_many() -> None:
    found = [kernels.logits_at_once("cuda", tokens * 128_256) // 128_256 for tokens in (512, 2048, 8192, 160_000)]
    assert found == [130, 130, 256, 261]
    assert kernels.logits_at_once("cpu", 2**40) == 2**22


def tiny(kind: str, **more: Any) -> Any:
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, **more,
    )  # fmt: skip
    return getattr(transformers, f"{kind}ForCausalLM")(config)


@pytest.mark.parametrize("reentrant", [False, True])
def test_the_feed_forward_in_pieces_changes_no_number(monkeypatch: pytest.MonkeyPatch, reentrant: bool) -> None:
    monkeypatch.setattr(pieces, "PIECE", 4)
    ids, found = torch.arange(3, 14)[None], []
    for divided in (False, True):
        model = tiny("Llama").train()
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()
        assert not divided or pieces.in_pieces(model) == 2
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        found.append((loss.detach(), {name: one.grad for name, one in model.named_parameters()}))
    (plain, grads), (ours, again) = found
    assert torch.allclose(ours, plain, atol=1e-6) and grads.keys() == again.keys()
    for name, grad in grads.items():
        assert torch.allclose(again[name], grad, atol=1e-6), name


def test_norms_in_one_kernel_say_what_they_said() -> None:
    model = tiny("Llama").requires_grad_(False)
    ids = torch.arange(3, 14)[None]
    before = model(input_ids=ids).logits
    assert pieces.fused_norms(model) == 5
    assert torch.allclose(model(input_ids=ids).logits, before, atol=1e-5)


def test_norms_of_another_formula_and_trained_ones_stay() -> None:
    gemma = tiny("Gemma").requires_grad_(False)
    for module in gemma.modules():
        if "RMSNorm" in type(module).__name__:
            torch.nn.init.constant_(module.weight, 0.5)
    assert pieces.fused_norms(gemma) == 0 and pieces.fused_norms(tiny("Llama")) == 0


def test_what_the_driver_holds_is_added_to_what_was_measured_of_tensors() -> None:
    from data.planning.memory import Memory
    from data.planning.past import Measured
    from data.planning.plan import Plan

    given: Any = None
    plan = Plan(given, given, 1, 8, Memory({"weights": 7}), 100, 100, measured=Measured(peak=90), driver=11)
    assert plan.needed == 101 and not plan.fits
    assert Plan(given, given, 1, 8, Memory({"weights": 7}), 100, 100, earlier=80, driver=11).needed == 91
    assert Plan(given, given, 1, 8, Memory({"weights": 7}), 100, 100, driver=11).needed == 7


def test_what_is_shared_out_waits_in_main_memory() -> None:
    from engine.contract import text
    from engine.recipes.setting import Setting

    def home(*words: str) -> str:
        args: Any = text.parse({}, ["model=x", "data=y", "launch.processes=2", *words], kind="train")
        nothing: Any = None
        rest = [nothing] * 5
        return str(Setting(args, *rest, torch.device("cuda"), torch.bfloat16, nothing).home)

    assert [home(f"launch.strategy={one}") for one in ("fsdp", "zero3", "zero2", "ddp")] == ["cpu"] * 2 + ["cuda"] * 2


def test_with_zero_3_each_process_takes_its_share_before_deepspeed_can_put_all_on_one_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All weights are in the precision of the arithmetic by then, as DeepSpeed wants them; `zero.Init` is its own."""
    seen = []

    class Init:
        def __init__(self, module: torch.nn.Module, config_dict_or_path: dict[str, Any]) -> None:
            seen.append(({one.dtype for one in module.parameters()}, config_dict_or_path))

    monkeypatch.setitem(sys.modules, "deepspeed", SimpleNamespace(zero=SimpleNamespace(Init=Init)))
    model = tiny("Llama").to(torch.bfloat16)
    model.lm_head.to(torch.float32)  # as what is trained is held

    def share(stage: int | None) -> None:
        held = None if stage is None else SimpleNamespace(config={"zero_optimization": {"stage": stage}})
        sharing.share_out(SimpleNamespace(args=SimpleNamespace(hf_deepspeed_config=held), model=model), torch.bfloat16)

    share(None)
    share(2)
    assert not seen and model.lm_head.weight.dtype is torch.float32
    share(3)
    assert seen == [({torch.bfloat16}, {"zero_optimization": {"stage": 3}})]


def test_flash_attention_is_not_asked_of_a_model_in_main_memory_whose_rows_come_padded() -> None:
    model = tiny("Llama")
    model.config._attn_implementation = "flash_attention_2"  # as it is loaded for devices that it is shared out to
    assert apart.settled(model).startswith("flash attention cannot be asked in main memory")
    assert model.config._attn_implementation == "flash_attention_2"
