"""A reward model: a number for each answer, higher for the chosen one of a pair (Bradley and Terry, 1952).

The number is read at the answer's last token, through a head that begins by chance and is trained with every method.
The result is an ordinary sequence classifier with one label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import logsigmoid

from engine.contract.preference import Reward
from engine.feedback.logps import BESIDE
from engine.models.loading import classifier as load  # noqa: F401 (what a recipe offers)
from engine.recipes.judging import Collate as Pairs
from engine.recipes.judging import Config as Config  # what a recipe offers
from engine.recipes.judging import Judging
from engine.recipes.judging import beside as beside
from engine.recipes.judging import settings as settings

SIDES = 2  # of each example in a batch: chosen and rejected


@dataclass(frozen=True)
class Collate(Pairs):
    """Pairs to a batch, with `margin` (pairs,): by how much the rows say that the better answer is better."""

    def __call__(self, pairs: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {**super().__call__(pairs), "margin": torch.tensor([pair["margin"] for pair in pairs])}


class Task(Judging):
    """Reward modelling, with a margin (Touvron et al., 2023) and a pull towards zero (Eisenstein et al., 2023)."""

    NAMES = {
        **Judging.NAMES,
        "margin": "margin",
        "preferred": "preferred",
        "chosen_reward": "chosen_reward",
        "rejected_reward": "rejected_reward",
    }

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        task: Reward = self.task
        given = {name: value for name, value in inputs.items() if name not in BESIDE}
        chosen, rejected = model(**given, use_cache=False).logits[:, 0].float().chunk(2)
        losses = -logsigmoid(chosen - rejected - task.margin - inputs["margin"])
        losses = losses + task.centring * (chosen + rejected) ** 2
        self.note(
            margin=chosen - rejected, preferred=(chosen > rejected).double(), chosen_reward=chosen,
            rejected_reward=rejected,
        )  # fmt: skip
        return losses.mean()
