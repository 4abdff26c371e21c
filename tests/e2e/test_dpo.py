"""DPO against a reference written by hand: the loss of every kind, its gradient, and what it is held to."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from engine.contract import rundir, text
from engine.contract.rundir import Run
from engine.report import Report, Stop
from tests.e2e.training import losses

LORA = ["method=lora", "method.rank=4", "method.alpha=8"]
PROMPT = [3, 4, 5, 6, 7]
PAIRS = [([8, 9, 10, 11], [12, 13]), ([14], [15, 16, 17]), ([18, 19], [20, 21])]


def pair(chosen: list[int], rejected: list[int]) -> dict[str, list[int]]:
    found = {}
    for side, answer in (("chosen", chosen), ("rejected", rejected)):
        found[f"{side}_ids"] = PROMPT + answer
        found[f"{side}_labels"] = [-100] * len(PROMPT) + answer
    return found


def answer_logps(model: Any, ids: list[int]) -> torch.Tensor:
    """The log-probability of each token of the answer, one row at a time, without padding."""
    logps = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    return logps[torch.arange(len(ids) - 1), torch.tensor(ids[1:])][len(PROMPT) - 1 :]


def reference(model: Any, base: Any, loss: str, beta: float, smoothing: float, weight: float) -> torch.Tensor:
    """The mean loss over PAIRS as the papers write it."""
    losses, said = [], []
    for row in PAIRS:
        sides = [answer_logps(model, PROMPT + answer) for answer in row]
        with torch.no_grad():
            before = [answer_logps(base, PROMPT + answer) for answer in row]
        ratios = [now.sum() - then.sum() for now, then in zip(sides, before, strict=True)]
        margin = beta * (ratios[0] - ratios[1])
        if loss == "sigmoid":
            losses.append(-functional.logsigmoid(margin))
        elif loss == "hinge":
            losses.append(functional.relu(1 - margin))
        elif loss == "robust":
            kept, turned = -functional.logsigmoid(margin), -functional.logsigmoid(-margin)
            losses.append(((1 - smoothing) * kept - smoothing * turned) / (1 - 2 * smoothing))
        else:  # ipo, on the mean over an answer's tokens
            means = [ratio / len(answer) for ratio, answer in zip(ratios, row, strict=True)]
            losses.append((means[0] - means[1] - 1 / (2 * beta)) ** 2)
        said.append(sides[0])
    return torch.stack(losses).mean() - weight * torch.cat(said).mean()


@pytest.fixture
def made(workspace: Path) -> Callable[..., Any]:
    """A trainer on PAIRS, as a run makes it; `overrides` are those of the command line."""
    from datasets import Dataset
    from transformers import set_seed

    from engine import methods
    from engine.model import model_of
    from engine.recipes import dpo
    from engine.recipes.run import _config
    from engine.rows import Rows

    def make(*overrides: str) -> Any:
        args: Any = text.parse(
            {}, ["model=tiny", "data=x", "task=dpo", "optim.learning_rate=1e-2", *overrides], kind="train"
        )
        content = args.model_dump() | {"steps": args.steps.model_dump() | {"accumulation": 1, "max_steps": 3}}
        content["record"] |= {"evaluate_every": 1, "save_every": 3}
        content["compute"] |= {"checkpointing": False}
        args = type(args).model_validate(content)
        run = Run(rundir.make(workspace, "test", text.dump(args)).path)
        device, dtype = torch.device("cpu"), torch.float32
        set_seed(1)
        model = methods.prepared(model_of(workspace / "models" / "tiny", dtype=dtype, device=device), args)
        data = Dataset.from_list([pair(*row) for row in PAIRS])
        trainer = dpo.Task(
            model=model, args=_config(dpo, args, run, Rows(data, data, len(data)), dtype, device), train_dataset=data,
            eval_dataset=data, data_collator=dpo.Collate(0), processing_class=_tokenizer(workspace),
            **dpo.beside(None, model),
        )  # fmt: skip
        trainer.record(run, Report(run), Stop(), keep=1)
        return trainer

    return make


def _tokenizer(workspace: Path) -> Any:
    from engine.model import tokenizer_of

    return tokenizer_of(workspace / "models" / "tiny")


def shake(model: Any) -> None:
    """Away from the start, where every margin is nothing."""
    torch.manual_seed(5)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.requires_grad:
                weights += 0.05 * torch.randn_like(weights)


@pytest.mark.parametrize("method", [["method=full"], LORA], ids=["full", "lora"])
@pytest.mark.parametrize(
    ("loss", "smoothing", "weight"),
    [("sigmoid", 0.0, 0.0), ("hinge", 0.0, 0.0), ("ipo", 0.0, 0.0), ("robust", 0.2, 0.0), ("sigmoid", 0.0, 0.5)],
)
def test_loss_and_gradient_equal_the_formula(
    made: Callable[..., Any], workspace: Path, method: list[str], loss: str, smoothing: float, weight: float
) -> None:
    from engine.model import model_of

    said = [f"task.loss={loss}", f"task.label_smoothing={smoothing}", f"task.sft_weight={weight}", "task.beta=0.3"]
    trainer = made(*method, *said)
    base = model_of(workspace / "models" / "tiny", dtype=torch.float32, device=torch.device("cpu"))
    trainer.model.eval()
    shake(trainer.model)
    moved = [weights for weights in trainer.model.parameters() if weights.requires_grad]
    found = trainer.compute_loss(trainer.model, trainer.data_collator([pair(*row) for row in PAIRS]))
    gradient = torch.autograd.grad(found, moved)
    wanted = reference(trainer.model, base, loss, 0.3, smoothing, weight)
    assert found.item() == pytest.approx(wanted.item(), abs=1e-5)
    for ours, theirs in zip(gradient, torch.autograd.grad(wanted, moved), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "method", [["method=full"], LORA, ["method=freeze", "method.layers=1"]], ids=["full", "lora", "freeze"]
)
def test_training_starts_from_no_margin_and_widens_it(made: Callable[..., Any], method: list[str]) -> None:
    trainer = made(*method)
    base = copy.deepcopy(trainer.model.state_dict())
    trainer.train()
    assert losses(trainer.run)[0] == pytest.approx(0.693147, abs=1e-5)
    assert losses(trainer.run, "eval/margin")[0] == pytest.approx(0, abs=1e-6)
    assert losses(trainer.run, "eval/margin")[-1] > 0.01
    assert losses(trainer.run, "eval/preferred")[-1] == 1.0
    moved = {name for name, weights in trainer.model.state_dict().items() if not torch.equal(weights, base[name])}
    free = {name for name, one in trainer.model.named_parameters(remove_duplicate=False) if one.requires_grad}
    assert moved == free


def test_the_reference_does_not_move_and_shares_what_stands_still(made: Callable[..., Any]) -> None:
    trainer = made("method=freeze", "method.layers=1")
    ours, theirs = (dict(model.named_parameters()) for model in (trainer.model, trainer.ref_model))
    shared = {name for name in ours if ours[name].data_ptr() == theirs[name].data_ptr()}
    assert shared == {name for name in ours if ".layers.1." not in name}
    before = {name: weights.clone() for name, weights in theirs.items()}
    trainer.train()
    assert all(torch.equal(before[name], theirs[name]) for name in theirs)


def test_no_copy_of_the_adapter_is_kept_or_saved(made: Callable[..., Any], tmp_path: Path) -> None:
    trainer = made(*LORA)
    assert list(trainer.model.peft_config) == ["default"]
    assert all(weights.requires_grad for name, weights in trainer.model.named_parameters() if "lora_" in name)
    trainer.model.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "ref").exists()
