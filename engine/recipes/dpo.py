"""Direct preference optimisation: the chosen answer grows likelier than the rejected one, against what the model was.

Each loss is a function of how much likelier the two answers have become (`Scores`); a test holds every one, and its
gradient, to the papers' formulas.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch.nn.functional import logsigmoid

from engine.contract.preference import Dpo
from engine.feedback.anchor import anchor
from engine.models.loading import language_model as load  # noqa: F401 (what a recipe offers)
from engine.recipes.judging import Collate as Collate  # what a recipe offers
from engine.recipes.judging import Config as Config
from engine.recipes.judging import settings as settings
from engine.recipes.pairwise import Pairwise, Sides, smoothed
from engine.recipes.setting import Setting

SIDES = 2  # of each example in a batch: chosen and rejected
SURE = 1e-3  # the least label smoothing of exo_pair, as its paper has it
FAR = 80.0  # whose exponential fp32 still holds
TEMPERATURE = 0.05  # of discopop's mixture, as its paper has it


def beside(setting: Setting, model: Any) -> dict[str, Any]:
    """Further keywords of `Task`."""
    return {"task": setting.args.task, "anchor": anchor(setting, model)}


class Scores(NamedTuple):
    """(pairs,) each: how much likelier an answer is than in the reference, as a logarithm, or as the divergence has it.

    own, other: of the chosen and the rejected answer together, for losses that sort them: their log-probabilities'
    difference now, and in the reference.   means: `chosen - rejected` per token.
    """

    chosen: torch.Tensor
    rejected: torch.Tensor
    own: torch.Tensor
    other: torch.Tensor
    means: torch.Tensor


def _exo_pair(scores: Scores, beta: float, smoothing: float) -> torch.Tensor:
    """KL from the pair's own preference to the labelled one (eq. 16)."""
    sure, lead = max(smoothing, SURE), beta * (scores.chosen - scores.rejected)
    won, lost = logsigmoid(lead), logsigmoid(-lead)
    return won.exp() * (won - math.log1p(-sure)) + lost.exp() * (lost - math.log(sure))


def _robust(scores: Scores, beta: float, smoothing: float) -> torch.Tensor:
    """An unbiased estimate of the loss under the true labels (eq. 12)."""
    lead = beta * (scores.chosen - scores.rejected)
    return (-(1 - smoothing) * logsigmoid(lead) + smoothing * logsigmoid(-lead)) / (1 - 2 * smoothing)


def _nca_pair(scores: Scores, beta: float, smoothing: float) -> torch.Tensor:
    chosen, rejected = beta * scores.chosen, beta * scores.rejected
    return -logsigmoid(chosen) - 0.5 * logsigmoid(-chosen) - 0.5 * logsigmoid(-rejected)


def _discopop(scores: Scores, beta: float, smoothing: float) -> torch.Tensor:
    """A mixture of the logistic and the exponential loss (eq. 5)."""
    lead = beta * (scores.chosen - scores.rejected)
    share = torch.sigmoid(lead / TEMPERATURE)
    # The exponential grows slower than its share falls, and is taken with it: by itself it would be infinite.
    return -logsigmoid(lead) * (1 - share) + torch.exp(logsigmoid(lead / TEMPERATURE) - lead)


LOSSES: dict[str, Callable[[Scores, float, float], torch.Tensor]] = {
    "sigmoid": lambda said, beta, smoothing: smoothed(beta * (said.chosen - said.rejected), smoothing),
    "hinge": lambda said, beta, _: torch.relu(1 - beta * (said.chosen - said.rejected)),
    "ipo": lambda said, beta, _: (said.means - 1 / (2 * beta)) ** 2,
    "robust": _robust,
    "exo_pair": _exo_pair,
    "nca_pair": _nca_pair,
    "bco_pair": lambda said, beta, _: -logsigmoid(beta * said.chosen) - logsigmoid(-beta * said.rejected),
    "sppo_hard": lambda said, beta, _: (said.chosen - 0.5 / beta) ** 2 + (said.rejected + 0.5 / beta) ** 2,
    "aot": lambda said, beta, smoothing: smoothed(beta * (said.own.sort()[0] - said.other.sort()[0]), smoothing),
    "aot_unpaired": lambda said, beta, smoothing: smoothed(
        beta * (said.chosen.sort()[0] - said.rejected.sort()[0]), smoothing
    ),
    "apo_zero": lambda said, beta, _: torch.sigmoid(-beta * said.chosen) + torch.sigmoid(beta * said.rejected),
    "apo_down": lambda said, beta, _: (
        torch.sigmoid(beta * said.chosen) + torch.sigmoid(-beta * (said.chosen - said.rejected))
    ),
    "discopop": _discopop,
}  # fmt: skip


def diverged(ratio: torch.Tensor, divergence: str, alpha: float) -> torch.Tensor:
    """f'(t) of the divergence's f, at t = exp(`ratio`): what the ratio of two likelihoods counts for (table 1)."""
    if divergence == "forward_kl":
        return -torch.expm1((-ratio).clamp(max=FAR))
    if divergence == "js":
        return math.log(2) + logsigmoid(ratio)
    if divergence == "alpha" and alpha < 1:
        return -torch.expm1(((alpha - 1) * ratio).clamp(max=FAR)) / (1 - alpha)
    return ratio


class Task(Pairwise):
    """DPO."""

    held = True

    def scores(self, logps: torch.Tensor, inputs: Mapping[str, Any]) -> torch.Tensor:
        """What an answer has beyond the length of the other one counts `tail_weight`."""
        task: Dpo = self.task
        if task.tail_weight == 1:
            return logps.sum(1)
        asked = inputs["completion_mask"][:, 1:]
        shorter = asked.sum(1).view(2, -1).amin(0).repeat(2)
        tail = (asked.cumsum(1) > shorter[:, None]) * asked
        return (logps * (1 - (1 - task.tail_weight) * tail)).sum(1)

    def loss(self, sides: Sides, before: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        assert before is not None
        task: Dpo = self.task
        now = torch.stack(sides.sums)
        ratios = [diverged(ratio, task.divergence, task.alpha) for ratio in now - before]
        means = [ratio / length for ratio, length in zip(ratios, sides.lengths, strict=True)]
        if task.per_token:
            ratios, lengths = means, torch.stack(sides.lengths)
            now, before = now / lengths, before / lengths
        said = Scores(*ratios, now[0] - now[1], before[0] - before[1], means[0] - means[1])
        losses = LOSSES[task.loss](said, task.beta, task.label_smoothing)
        return losses, task.beta * (now - before)
