"""SimPO: the chosen answer's mean log-probability leads the rejected one's by a margin; no reference is asked.

With an SFT weight it is what its authors call CPO-SimPO.
"""

from __future__ import annotations

import torch

from engine.contract.preference import Simpo
from engine.models.loading import language_model as load  # noqa: F401 (what a recipe offers)
from engine.recipes.judging import Collate as Collate  # what a recipe offers
from engine.recipes.judging import Config as Config
from engine.recipes.judging import beside as beside
from engine.recipes.judging import settings as settings
from engine.recipes.pairwise import Pairwise, Sides, smoothed

SIDES = 2  # of each example in a batch: chosen and rejected


class Task(Pairwise):
    """SimPO (Meng et al., 2024, eq. 6)."""

    def loss(self, sides: Sides, before: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        task: Simpo = self.task
        rewards = task.beta * torch.stack(sides.means)
        return smoothed(rewards[0] - rewards[1] - task.margin, task.label_smoothing), rewards
