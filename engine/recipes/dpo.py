"""Direct preference optimisation: the chosen answer grows likelier than the rejected one, against what the model was.

TRL's DPOTrainer does the arithmetic, on token ids and masks of our own. The reference is the base with its adapter off;
where the weights themselves move it is a frozen copy of those that do, beside which the others are shared.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from trl import DPOConfig, DPOTrainer

from engine.contract.args import TrainArgs
from engine.contract.preference import Dpo
from engine.loading import language_model as load  # noqa: F401 (what a recipe offers)
from engine.recipes.setting import Setting
from engine.trainer import Recording

Config = DPOConfig
SIDES = 2  # of each example in a batch: chosen and rejected


def settings(args: TrainArgs) -> dict[str, Any]:
    """Keywords of `Config` that do not go one to one."""
    task = args.task
    assert isinstance(task, Dpo)
    blend = {"loss_type": [task.loss, "sft"], "loss_weights": [1.0, task.sft_weight]}
    return {"max_length": None, "padding_free": False} | (blend if task.sft_weight else {"loss_type": [task.loss]})


def beside(setting: Setting, model: Any) -> dict[str, Any]:
    """Further keywords of `Task`: the reference that `model` is held to, before any step."""
    if hasattr(model, "peft_config"):
        return {}
    shared = {id(weights): weights for weights in model.parameters() if not weights.requires_grad}
    return {"ref_model": copy.deepcopy(model, shared).requires_grad_(False).eval()}


class Task(Recording, DPOTrainer):
    """DPO that records, evaluates exactly, and saves checkpoints whole."""

    NAMES = {
        **Recording.NAMES,
        "rewards/margins": "margin",
        "rewards/accuracies": "preferred",
        "logps/chosen": "chosen_logp",
        "logps/rejected": "rejected_logp",
    }

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        # The trainer keeps a copy of a fresh adapter as its reference. It would be saved with the model, and the base
        # with adapters off is the same reference for nothing.
        if "ref" in getattr(self.model, "peft_config", {}):
            self.model.delete_adapter("ref")

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset  # the rows come as token ids

    def weight(self, batch: dict[str, Any]) -> int:
        return len(batch["input_ids"]) // 2


@dataclass(frozen=True)
class Collate:
    """Pairs to a batch as DPOTrainer reads it: all chosen answers, then all rejected ones, each behind its prompt.

    (2 x pairs, longest) int64 tensors, padded on the right; `completion_mask` is 1 where the answer's own tokens are.
    """

    pad_id: int

    def __call__(self, pairs: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        sides = [(pair[f"{side}_ids"], pair[f"{side}_labels"]) for side in ("chosen", "rejected") for pair in pairs]
        longest = max(len(ids) for ids, _ in sides)

        def padded(rows: list[list[int]], fill: int) -> torch.Tensor:
            return torch.tensor([row + [fill] * (longest - len(row)) for row in rows])

        return {
            "input_ids": padded([ids for ids, _ in sides], self.pad_id),
            "attention_mask": padded([[1] * len(ids) for ids, _ in sides], 0),
            "completion_mask": padded([[int(label != -100) for label in labels] for _, labels in sides], 0),
        }
