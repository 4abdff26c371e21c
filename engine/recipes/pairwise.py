"""Pairs of a better and a worse answer, compared by how likely the model finds them: for dpo, simpo, orpo and cpo.

Both sides go through the model at once. Knows no loss: a task gives one for the two sides of a batch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from engine.feedback.logps import logps
from engine.recipes.judging import Judging


class Sides(NamedTuple):
    """Log-probabilities of the chosen and of the rejected answers, (pairs,) each, and their tokens, (pairs,) each.

    sums: of all tokens of an answer, or as the task weighs them.   means: per token, of all of them alike.
    """

    sums: tuple[torch.Tensor, torch.Tensor]
    means: tuple[torch.Tensor, torch.Tensor]
    lengths: tuple[torch.Tensor, torch.Tensor]


class Pairwise(Judging):
    """Trains on pairs; `loss` is the task's own."""

    NAMES = {
        **Judging.NAMES,
        "margin": "margin",
        "preferred": "preferred",
        "chosen_reward": "chosen_reward",
        "rejected_reward": "rejected_reward",
        "chosen_logp": "chosen_logp",
        "rejected_logp": "rejected_logp",
        "sft_loss": "sft_loss",
    }
    held = False  # whether the loss knows a reference

    def loss(self, sides: Sides, before: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of each pair, (pairs,), and the rewards that it compares, (2, pairs).

        before: (2, pairs), what the reference gives the answers; for tasks that are `held` to one.
        """
        raise NotImplementedError

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        before = self.before(inputs).view(2, -1) if self.held else None
        said = logps(model, inputs)
        sums, lengths = self.scores(said, inputs), inputs["completion_mask"][:, 1:].sum(1)
        chosen, rejected = (tuple(values.chunk(2)) for values in (sums, said.sum(1) / lengths))
        sides = Sides(chosen, rejected, tuple(lengths.chunk(2)))  # type: ignore[arg-type]
        losses, rewards = self.loss(sides, before)
        learnt = -sides.means[0]
        weight = getattr(self.task, "sft_weight", 0.0)
        if weight:
            losses = losses + weight * learnt
        self.note(
            margin=rewards[0] - rewards[1], preferred=(rewards[0] > rewards[1]).double(),
            chosen_reward=rewards[0], rejected_reward=rewards[1],
            chosen_logp=sides.sums[0], rejected_logp=sides.sums[1], sft_loss=learnt,
        )  # fmt: skip
        return losses.mean()


def smoothed(scores: torch.Tensor, smoothing: float) -> torch.Tensor:
    """-log sigmoid of the scores, where this share of the labels is expected to be wrong."""
    sigmoid = torch.nn.functional.logsigmoid
    return -(1 - smoothing) * sigmoid(scores) - smoothing * sigmoid(-scores)
