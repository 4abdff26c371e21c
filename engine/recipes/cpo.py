"""CPO: as DPO, with a reference that finds every answer equally likely, while the chosen answer is learnt as well."""

from __future__ import annotations

import torch

from engine.contract.preference import Cpo
from engine.models.loading import language_model as load  # noqa: F401 (what a recipe offers)
from engine.recipes.judging import Collate as Collate  # what a recipe offers
from engine.recipes.judging import Config as Config
from engine.recipes.judging import beside as beside
from engine.recipes.judging import settings as settings
from engine.recipes.pairwise import Pairwise, Sides, smoothed

SIDES = 2  # of each example in a batch: chosen and rejected


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
