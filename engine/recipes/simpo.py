"""SimPO: the chosen answer's mean log-probability leads the rejected one's by a margin; no reference is asked.

With an SFT weight it is what its authors call CPO-SimPO.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainingArguments

from engine.contract.args import TrainArgs
from engine.contract.preference import Simpo
from engine.models.loading import language_model as load  # noqa: F401 (what a recipe offers)
from engine.recipes.judging import Collate as Collate  # what a recipe offers
from engine.recipes.pairwise import Pairwise, Sides, smoothed
from engine.recipes.setting import Setting

Config = TrainingArguments
SIDES = 2  # of each example in a batch: chosen and rejected


def settings(args: TrainArgs) -> dict[str, Any]:
    """Keywords of `Config` that do not go one to one."""
    return {}


def beside(setting: Setting, model: Any) -> dict[str, Any]:
    """Further keywords of `Task`."""
    return {"task": setting.args.task}


class Task(Pairwise):
    """SimPO (Meng et al., 2024, eq. 6)."""

    def loss(self, sides: Sides, before: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        task: Simpo = self.task
        rewards = task.beta * torch.stack(sides.means)
        return smoothed(rewards[0] - rewards[1] - task.margin, task.label_smoothing), rewards
