"""SimPO, ORPO and CPO against references written by hand, and what all tasks on pairs do alike."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copyfile
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.contract.errors import ArgsError, DataError
from tests.e2e.preferring import LORA, PAIRS, PROMPT, ROWS, answer_logps, compare, shake, trainer
from tests.e2e.training import events, losses, train, weights

TASKS = ("dpo", "simpo", "orpo", "cpo", "reward")


def log_sigmoid(x: Tensor) -> Tensor:
    return -torch.log1p(torch.exp(-x))


def prepared(workspace: Path, kind: str, *overrides: str) -> tuple[Any, list[list[Tensor]]]:
    """A trainer, and for each pair the log-probabilities of the tokens of both answers."""
    made = trainer(workspace, kind, ROWS, *LORA, *overrides)
    made.model.eval()
    shake(made.model)
    return made, [[answer_logps(made.model, PROMPT + answer) for answer in row] for row in PAIRS]


@pytest.mark.parametrize(("smoothing", "weight"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.5)])
def test_simpo_is_its_formula(workspace: Path, smoothing: float, weight: float) -> None:
    made, said = prepared(
        workspace, "simpo", "task.beta=2.5", "task.margin=0.8", f"task.label_smoothing={smoothing}",
        f"task.sft_weight={weight}",
    )  # fmt: skip
    found = []
    for chosen, rejected in said:
        lead = 2.5 * (chosen.mean() - rejected.mean()) - 0.8
        loss = -(1 - smoothing) * log_sigmoid(lead) - smoothing * log_sigmoid(-lead)
        found.append(loss - weight * chosen.mean())
    compare(made, ROWS, torch.stack(found).mean())


def test_orpo_is_its_formula(workspace: Path) -> None:
    made, said = prepared(workspace, "orpo", "task.beta=0.3")
    found = []
    for chosen, rejected in said:
        likely = [torch.exp(one.mean()) for one in (chosen, rejected)]
        odds = [one / (1 - one) for one in likely]
        found.append(-chosen.mean() - 0.3 * log_sigmoid(torch.log(odds[0] / odds[1])))
    compare(made, ROWS, torch.stack(found).mean())


def test_orpo_is_a_number_where_an_answer_is_certain() -> None:
    from engine.recipes.orpo import log_not

    sure = torch.tensor([-1e-12, 0.0], requires_grad=True)
    log_not(sure).sum().backward()
    assert torch.isfinite(log_not(sure)).all()
    assert torch.isfinite(sure.grad).all()  # type: ignore[arg-type]


@pytest.mark.parametrize(("loss", "smoothing"), [("sigmoid", 0.0), ("sigmoid", 0.1), ("hinge", 0.0), ("ipo", 0.0)])
def test_cpo_is_its_formula(workspace: Path, loss: str, smoothing: float) -> None:
    made, said = prepared(
        workspace, "cpo", "task.beta=0.2", f"task.loss={loss}", f"task.label_smoothing={smoothing}",
        "task.sft_weight=0.7",
    )  # fmt: skip
    found = []
    for chosen, rejected in said:
        lead = 0.2 * (chosen.sum() - rejected.sum())
        one = {
            "sigmoid": -(1 - smoothing) * log_sigmoid(lead) - smoothing * log_sigmoid(-lead),
            "hinge": torch.clamp(1 - lead, min=0),
            "ipo": (chosen.mean() - rejected.mean() - 1 / 0.4) ** 2,
        }[loss]
        found.append(one - 0.7 * chosen.mean())
    compare(made, ROWS, torch.stack(found).mean())


@pytest.mark.parametrize("kind", ["simpo", "orpo", "cpo"])
def test_training_widens_the_margin(workspace: Path, kind: str) -> None:
    made = trainer(workspace, kind, ROWS, *LORA)
    made.train()
    assert losses(made.run, "eval/margin")[-1] > losses(made.run, "eval/margin")[0]
    assert losses(made.run, "eval/loss")[-1] < losses(made.run, "eval/loss")[0]


@pytest.fixture
def pairs(workspace: Path) -> Path:
    """The workspace, with twelve preferences in `pairs.jsonl`."""
    lines = [
        {"prompt": f"Is {n} even?", "chosen": "No, it is odd." if n % 2 else "Yes.", "rejected": "Who?" * (n % 3 + 1)}
        for n in range(12)
    ]  # fmt: skip
    (workspace / "datasets" / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return workspace


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if kind in ("simpo", "orpo") else ()) for kind in TASKS]
)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(pairs: Path, kind: str) -> None:
    said = [f"task={kind}", "data=pairs.jsonl", "data.split=75/25/0", "method.rank=4", "record.save_every=2"]
    said += ["task.precompute_reference=yes"] if kind == "dpo" else []
    whole = train(pairs, *said)
    rest = train(pairs, *said, f"resume.run={whole.id}", "resume.checkpoint=step-2")
    assert losses(rest) == losses(whole)[2:]
    assert losses(rest, "eval/loss")[-1] == losses(whole, "eval/loss")[-1]
    first, second = (weights(run.model_path) for run in (whole, rest))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kind", ["orpo", "simpo", "reward"])  # the library's own ORPO and SimPO break here
def test_a_prompt_that_fills_the_length_is_left_out_aloud_and_no_number_breaks(pairs: Path, kind: str) -> None:
    long = {"prompt": "word " * 300, "chosen": "Yes.", "rejected": "No."}
    file = pairs / "datasets" / "pairs.jsonl"
    file.write_text(file.read_text() + "\n" + json.dumps(long), encoding="utf-8")
    run = train(pairs, f"task={kind}", "data=pairs.jsonl", "data.max_length=64", "data.cut=answer", "method.rank=4")
    assert all(value == value for value in losses(run, "train/grad_norm"))
    assert any("no trained token left" in event["text"] for event in events(run, "warning"))


@pytest.mark.parametrize("kind", TASKS)
def test_rows_that_are_all_too_long_are_refused_before_training(pairs: Path, kind: str) -> None:
    file = pairs / "datasets" / "long.jsonl"
    file.write_text(json.dumps({"prompt": "word " * 300, "chosen": "Yes.", "rejected": "No."}), encoding="utf-8")
    with pytest.raises(DataError, match="No row has a token to train on"):
        train(pairs, f"task={kind}", "data=long.jsonl", "data.max_length=64", "data.cut=answer")


def test_pairs_of_equal_answers_are_refused_as_such(pairs: Path) -> None:
    file = pairs / "datasets" / "same.jsonl"
    file.write_text(json.dumps({"prompt": "Why?", "chosen": "So.", "rejected": "So."}), encoding="utf-8")
    with pytest.raises(DataError, match="In every row the two answers are the same"):
        train(pairs, "task=dpo", "data=same.jsonl")


def test_questions_that_leave_no_room_for_an_answer_say_what_to_lower(pairs: Path) -> None:
    rewards = "task.rewards.functions={length: 1}"
    with pytest.raises(DataError, match="No question leaves room for an answer of 127 tokens") as refused:
        train(pairs, "task=grpo", "data=sums.jsonl", "task.max_new_tokens=127", "task.group=4", rewards)
    assert refused.value.hint == "Lower it, or raise data.max_length (128)."


def test_a_loss_without_label_smoothing_refuses_it(workspace: Path) -> None:
    for kind, loss in (("dpo", "hinge"), ("cpo", "ipo")):
        with pytest.raises(ArgsError, match=f"loss {loss}.* has no label smoothing"):
            trainer(workspace, kind, ROWS, f"task.loss={loss}", "task.label_smoothing=0.1")


def test_a_divergence_is_refused_for_losses_that_judge_each_answer_alone(workspace: Path) -> None:
    with pytest.raises(ArgsError, match=r"The loss nca_pair \(task.loss\) judges each answer alone"):
        trainer(workspace, "dpo", ROWS, "task.loss=nca_pair", "task.divergence=js")


@pytest.mark.shared
@pytest.mark.parametrize("kind", ["dpo", "reward"])
def test_what_is_learnt_holds_for_pairs_that_were_held_out(workspace: Path, shared: Path, kind: str) -> None:
    """A model of random weights that reads bytes learns enough from 200 real pairs to beat a coin on others."""
    from tests import tiny

    tiny.model_folder(workspace / "models" / "small", hidden=64)
    copyfile(shared / "preference" / "dpo_en_demo.json", workspace / "datasets" / "real.json")
    run = train(
        workspace, f"task={kind}", "model=small", "data=real.json", "method=full", "optim.learning_rate=3e-4",
        "data.max_length=224", "data.cut=prompt", "data.split=rest/100/0", "steps.batch_size=8", "steps.accumulation=1",
        "steps.max_steps=50", "record.evaluate_every=25", "record.save_every=1000",
    )  # fmt: skip
    pairs = next(event["facts"]["rows"] for event in events(run, "note") if event["facts"].get("which") == "held out")
    by_chance = 0.5 + 1.645 * (0.25 / pairs) ** 0.5  # a coin does better one time in twenty
    assert losses(run, "eval/preferred")[-1] > by_chance
    assert losses(run, "eval/preferred")[-1] > losses(run, "eval/preferred")[0]
    assert losses(run, "eval/loss")[-1] < losses(run, "eval/loss")[0] - 0.02
