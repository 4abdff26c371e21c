"""ORPO: the chosen answer is learnt as in supervised fine-tuning, while its odds outgrow the rejected one's."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

from engine.contract.preference import Orpo
from engine.models.loading import language_model as load  # noqa: F401 (what a recipe offers)
from engine.recipes.judging import Collate as Collate  # what a recipe offers
from engine.recipes.judging import Config as Config
from engine.recipes.judging import beside as beside
from engine.recipes.judging import settings as settings
from engine.recipes.pairwise import Pairwise, Sides

SIDES = 2  # of each example in a batch: chosen and rejected


class Task(Pairwise):
    """ORPO (Hong et al., 2024, eq. 6 and 7)."""

    def loss(self, sides: Sides, before: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        task: Orpo = self.task
        means = torch.stack(sides.means)
        odds = means - log_not(means)
        return -sides.means[0] - task.beta * logsigmoid(odds[0] - odds[1]), task.beta * means


def log_not(logp: torch.Tensor) -> torch.Tensor:
    """log(1 - p) out of log p, which is held away from p = 1, where it has no value and no gradient."""
    return torch.log(-torch.expm1(logp.clamp(max=-1e-7)))
