"""From the rewards of whole answers to what each of their tokens did for them: the arithmetic of PPO, without a model.

Shapes: (rows, answer) is one number for each token of each answer; `said` of that shape is True at an answer's own
tokens, its end included, and False behind it. KL is in nats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


def mean(values: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
    """The mean of `values` where `said`: (); nothing said gives 0."""
    return (values * said).sum() / said.sum().clamp(min=1)


def whitened(
    values: torch.Tensor, said: torch.Tensor, totals: Callable[[list[float]], list[float]] = list
) -> torch.Tensor:
    """`values` moved and scaled to mean 0 and variance 1 over all tokens that are `said`; 0 elsewhere.

    totals: adds each of some numbers over all processes, where several share the answers.
    """
    kept = values[said].double()
    count, total = totals([float(len(kept)), float(kept.sum())])
    centre = total / count
    spread = totals([float(((kept - centre) ** 2).sum())])[0] / count
    return (values - centre) * (spread + 1e-8) ** -0.5 * said


def token_rewards(
    scores: torch.Tensor, logps: torch.Tensor, reference: torch.Tensor, said: torch.Tensor, coefficient: float
) -> torch.Tensor:
    """(rows, answer): each token's share of the KL penalty, and at an answer's last token its score on top.

    r_t = -coefficient (log pi(a_t) - log pi_ref(a_t)) + [t is last] score (Ziegler et al., 2019, and Stiennon et al.,
    2020, who put the score on the last token). scores: (rows,); logps, reference: (rows, answer).
    """
    rewards = -coefficient * (logps - reference) * said
    last = said.sum(1, keepdim=True) - 1
    return rewards.scatter_add(1, last, scores[:, None].to(rewards.dtype))


def advantages(
    rewards: torch.Tensor, values: torch.Tensor, said: torch.Tensor, gamma: float, decay: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantage estimation (Schulman et al., 2015): (advantages, returns), each (rows, answer).

    A_t = d_t + gamma decay A_{t+1} with d_t = r_t + gamma V(s_{t+1}) - V(s_t); behind the end V and A are 0.
    returns = A + V is what the value head is to learn. values: V(s_t), the worth of all before token t.
    """
    found = torch.zeros_like(values)
    values = values * said
    behind, worth = torch.zeros_like(values[:, 0]), torch.zeros_like(values[:, 0])
    for place in reversed(range(values.shape[1])):
        surprise = rewards[:, place] + gamma * worth - values[:, place]
        behind = (surprise + gamma * decay * behind) * said[:, place]
        worth = values[:, place]
        found[:, place] = behind
    return found, found + values


def policy_loss(
    logps: torch.Tensor, before: torch.Tensor, advantages: torch.Tensor, clip: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """PPO's clipped objective, to be made small (Schulman et al., 2017), and where the clip held it: (rows, answer).

    -min(q A, clamp(q, 1 - clip, 1 + clip) A) with q = pi(a_t) / pi_before(a_t).
    """
    ratio = (logps - before).exp()
    plain, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip)
    return torch.maximum(plain, clipped), clipped > plain


def value_loss(values: torch.Tensor, before: torch.Tensor, returns: torch.Tensor, clip: float) -> torch.Tensor:
    """Half the squared error of the value head, which gains nothing from moving further than `clip`: (rows, answer)."""
    near = before + (values - before).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (near - returns) ** 2)


def explained_variance(values: torch.Tensor, returns: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
    """The share of the returns' variance that the values foresaw: 1 all, 0 none, below 0 worse than their mean."""
    missed = returns - values
    rest, whole = (mean((one - mean(one, said)) ** 2, said) for one in (missed, returns))
    return torch.where(whole > 1e-8, 1 - rest / whole.clamp(min=1e-8), 0.0)


@dataclass
class Coefficient:
    """How much KL costs. With a target it is steered there: the proportional controller of Ziegler et al. (2019).

    coefficient *= 1 + gain * clamp(kl / target - 1, -0.2, 0.2), where kl is the mean over answers of their summed KL.
    """

    value: float
    target: float | None = None
    gain: float = 0.1

    def follow(self, kl: float) -> None:
        if self.target is not None:
            self.value *= 1 + self.gain * min(max(kl / self.target - 1, -0.2), 0.2)
