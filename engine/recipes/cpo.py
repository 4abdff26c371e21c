"""CPO: as DPO, with a reference that finds every answer equally likely, while the chosen answer is learnt as well."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainingArguments

from engine.contract.args import TrainArgs
from engine.contract.preference import Cpo
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
    """CPO (Xu et al., 2024, eq. 3 to 5)."""

    def loss(self, sides: Sides, before: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        task: Cpo = self.task
        said = torch.stack(sides.means if task.loss == "ipo" else sides.sums)
        lead = said[0] - said[1]
        if task.loss == "ipo":
            losses = (lead - 1 / (2 * task.beta)) ** 2
        elif task.loss == "hinge":
            losses = torch.relu(1 - task.beta * lead)
        else:
            losses = smoothed(task.beta * lead, task.label_smoothing)
        return losses, task.beta * said
