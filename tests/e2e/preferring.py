"""Pairs and judged answers on the tiny model: a trainer as a run makes it, and likelihoods without batches."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from engine.contract import rundir, text
from engine.report import Report, Stop

LORA = ["method=lora", "method.rank=4", "method.alpha=8"]
PROMPT = [3, 4, 5, 6, 7]
PAIRS = [([8, 9, 10, 11], [12, 13]), ([14], [15, 16, 17]), ([18, 19], [20, 21])]
MARGINS = [0.0, 0.5, 1.0]


def pair(chosen: list[int], rejected: list[int], margin: float = 0.0) -> dict[str, Any]:
    found: dict[str, Any] = {"margin": margin}
    for side, answer in (("chosen", chosen), ("rejected", rejected)):
        found[f"{side}_ids"] = PROMPT + answer
        found[f"{side}_labels"] = [-100] * len(PROMPT) + answer
    return found


ROWS = [pair(*sides, margin) for sides, margin in zip(PAIRS, MARGINS, strict=True)]


def answer_logps(model: Any, ids: list[int], prompt: int = len(PROMPT)) -> torch.Tensor:
    """The log-probability of each token of the answer, one row at a time, without padding."""
    logps = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    return logps[torch.arange(len(ids) - 1), torch.tensor(ids[1:])][prompt - 1 :]


def trainer(workspace: Path, kind: str, rows: Sequence[dict[str, Any]], *overrides: str) -> Any:
    """A trainer of the task `kind` on `rows`, in fp32, three steps long; `overrides` are those of the command line."""
    from datasets import Dataset
    from transformers import set_seed

    from engine.models.model import tokenizer_of
    from engine.recipes.run import _config
    from engine.recipes.setting import Setting
    from engine.training.rows import Rows
    from engine.tuning import methods

    recipe: Any = importlib.import_module(f"engine.recipes.{kind}")
    said = [
        "model=tiny", "data=x", f"task={kind}", "optim.learning_rate=1e-2", "steps.max_steps=3", "steps.accumulation=1",
        "steps.batch_size=4", "record.evaluate_every=1", "record.save_every=3", "compute.checkpointing=false",
        "compute.device=cpu", *overrides,
    ]  # fmt: skip
    args: Any = text.parse({}, said, kind="train")
    content = args.model_dump()
    content["steps"]["global_batch"] = args.steps.batch_size
    if content["method"].get("alpha") == "auto":
        content["method"]["alpha"] = 8.0
    args = type(args).model_validate(content)
    run, data, device = rundir.make(workspace, "test", text.dump(args)), Dataset.from_list(list(rows)), "cpu"
    folder = workspace / "models" / "tiny"
    setting = Setting(
        args, run, Report(run), Stop(), folder, tokenizer_of(folder), torch.device(device), torch.float32,
        Rows(data, data, len(data)),
    )  # fmt: skip
    set_seed(1)
    model = methods.prepared(recipe.load(setting), args)
    made = recipe.Task(
        model=model, args=_config(recipe, args, run, setting.rows, setting.dtype, setting.device), train_dataset=data,
        eval_dataset=data, data_collator=recipe.Collate(setting.tokenizer.pad_token_id),
        processing_class=setting.tokenizer, **recipe.beside(setting, model),
    )  # fmt: skip
    made.record(run, setting.report, setting.stop, keep=1)
    return made


def shake(model: Any, seed: int = 5) -> None:
    """Away from the start, where every margin is nothing."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.requires_grad:
                weights += 0.05 * torch.randn_like(weights)


def compare(made: Any, rows: Sequence[dict[str, Any]], wanted: torch.Tensor) -> None:
    """The trainer's loss on `rows` and its gradient are those of `wanted`, to 1e-5."""
    moved = [weights for weights in made.model.parameters() if weights.requires_grad]
    found = made.compute_loss(made.model, made.data_collator(list(rows)))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    ours = torch.autograd.grad(found, moved, allow_unused=True)
    theirs = torch.autograd.grad(wanted, moved, allow_unused=True)
    assert any(one is not None and one.abs().max() > 1e-4 for one in theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
