"""A frozen table of embeddings that lies in main memory (`compute.offload`) changes where it lies, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from engine.contract.rundir import Run
from engine.training import offload
from tests.e2e.test_every_way import TASKS, said, unpictured, workspace  # noqa: F401 (fixtures)
from tests.e2e.test_methods import prepared
from tests.e2e.training import copied, events, losses, train, weights

LORA = ["method.rank=4"]
SHORT = ["model=untied", "data=conversation.jsonl", "steps.max_steps=2", "record.save_every=99"]
MEASURED = ("train/loss", "train/reward", "train/grad_norm", "eval/loss", "eval/reward")


@pytest.fixture(scope="module")
def untied(workspace: Path) -> Path:  # noqa: F811 (the fixture of that name)
    """Rows of every kind, and a model whose output layer is its own."""
    from transformers import AutoModelForCausalLM

    folder = workspace / "models" / "untied"
    shutil.copytree(workspace / "models" / "tiny", folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach() * 0.9)
    model.config.tie_word_embeddings = False
    model.save_pretrained(folder)
    return workspace


@pytest.fixture(autouse=True)
def let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no accelerator to offload from: without this rule it is done on the processor."""
    monkeypatch.setattr("data.checking.preflight.unmet", lambda args, here: [])


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of every table that is housed."""
    found, house = list[int](), offload.housed

    def housed(model: nn.Module) -> int:
        found.append(house(model))
        return found[-1]

    monkeypatch.setattr(offload, "housed", housed)
    return found


def same(plain: Run, ours: Run) -> None:
    for name in MEASURED:
        assert losses(ours, name) == losses(plain, name), name
    kept, found = weights(plain.model_path), weights(ours.model_path)
    assert kept and kept.keys() == found.keys()
    assert all(torch.equal(found[name], one) for name, one in kept.items())


def test_the_table_is_no_parameter_any_more_and_stays_when_the_model_moves(untied: Path) -> None:
    from transformers import AutoModelForCausalLM

    model, tied = (AutoModelForCausalLM.from_pretrained(untied / "models" / name) for name in ("untied", "tiny"))
    assert not offload.housed(tied.requires_grad_(False)) and not offload.housed(model)  # shared, or trained
    table = model.requires_grad_(False).get_input_embeddings()
    held, weight, ids = sum(one.numel() for one in model.parameters()), table.weight, torch.arange(8)[None]
    before = model(ids).logits
    assert offload.housed(model) == weight.nbytes
    assert torch.equal(model(ids).logits, before)
    assert sum(one.numel() for one in model.parameters()) == held - weight.numel()
    assert model.to("meta").get_input_embeddings().weight.device.type == "cpu"
    assert torch.equal(table(ids)[0], weight[:8])


def test_evaluation_samples_the_best_weights_and_a_resumed_run_are_what_they_were(untied: Path) -> None:
    words = ["model=untied", "data=conversation.jsonl", *LORA,
             f"data.validation=[{copied(untied, 'conversation.jsonl')}]", "record.evaluate_every=1",
             "record.save_every=2", "record.keep=9", "record.keep_best=true", "record.samples=['What is 3 and 4?']",
             "optim.learning_rate=5e-2"]  # fmt: skip
    plain = train(untied, *words)
    ours = train(untied, *words, "compute.offload=true")
    same(plain, ours)
    asked = [[event["answer"] for event in events(run, "sample")] for run in (plain, ours)]
    assert asked[0] and asked[0] == asked[1]
    again = train(untied, *words, "compute.offload=true", f"resume.run={ours.id}", "resume.checkpoint=step-2")
    assert losses(again) == losses(ours)[2:]
    assert all(torch.equal(weights(again.model_path)[name], one) for name, one in weights(ours.model_path).items())


@pytest.mark.parametrize("method", [
    ["method=prompt"], ["method=ia3"], [*LORA, "model.quantisation=nf4"], [*LORA, "task.neftune=5"],
    pytest.param(["method=prefix"], marks=pytest.mark.slow), pytest.param(["method=oft"], marks=pytest.mark.slow),
    pytest.param([*LORA, "model.quantisation=int8"], marks=pytest.mark.slow),
], ids=" ".join)  # fmt: skip
def test_every_adapter_learns_the_same(untied: Path, tables: list[int], method: list[str]) -> None:
    plain = train(untied, *SHORT, *method)
    assert not tables
    same(plain, train(untied, *SHORT, *method, "compute.offload=true"))
    assert all(tables) and len(tables) == 1


@pytest.mark.parametrize("task", [
    "reward", "dpo", *(
        pytest.param(task, marks=pytest.mark.slow) for task in TASKS if task not in ("reward", "dpo", "sft")
    ),
])  # fmt: skip
def test_every_task_learns_the_same(untied: Path, tables: list[int], task: str) -> None:
    reference = ["task.reference_model=tiny"] if task == "dpo" else []
    words = [f"data={TASKS[task].takes[0]}.jsonl", *said(task, "lora"), "model=untied", *reference]
    same(train(untied, *words), train(untied, *words, "compute.offload=true"))
    assert all(tables) and len(tables) == 1


def test_a_table_that_learns_new_tokens_stays_where_it_is(untied: Path, tables: list[int]) -> None:
    words = [*SHORT, *LORA, "model.new_tokens=[What]"]
    same(train(untied, *words), train(untied, *words, "compute.offload=true"))
    assert tables == [0]


def test_the_parameters_that_a_run_tells_count_the_table(untied: Path) -> None:
    told = [
        next(event for event in events(train(untied, *SHORT, *LORA, *more), "note") if "parameters" in event["facts"])
        for more in ([], ["compute.offload=true"])
    ]
    assert told[0]["text"] == told[1]["text"]


def test_processes_that_share_their_gradients_pass_the_table_by(untied: Path, tmp_path: Path) -> None:
    from torch import distributed

    model = prepared(untied / "models" / "untied", *LORA, "method.alpha=8")
    assert offload.housed(model)
    table = model.get_input_embeddings().weight
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        learn_shared(model)
    finally:
        distributed.destroy_process_group()
    assert model.get_input_embeddings().weight is table and table.grad is None
    assert all(one.grad is not None for one in model.parameters() if one.requires_grad)


def learn_shared(model: nn.Module) -> None:
    """One way back with gradients that are shared.

    What shares them is gone before its group is: as the last to hold the group it would wait, with Python's lock in
    hand, for the group's threads, one of which may want that lock to let go of a gradient.
    """
    shared = nn.parallel.DistributedDataParallel(model)
    shared(input_ids=torch.arange(8)[None]).logits.sum().backward()
