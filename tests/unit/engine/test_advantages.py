"""PPO's arithmetic against the papers' formulas, written out one token at a time."""

from __future__ import annotations

import math

import pytest
import torch

from engine.feedback.advantages import (
    Coefficient,
    advantages,
    explained_variance,
    mean,
    policy_loss,
    token_rewards,
    value_loss,
    whitened,
)

LENGTHS = [5, 1, 3]


def rows(seed: int = 0) -> torch.Tensor:
    """(3, 5) float64, with nonsense behind the end of each row."""
    return torch.randn(3, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SAID = torch.arange(5)[None] < torch.tensor(LENGTHS)[:, None]


@pytest.mark.parametrize(("gamma", "decay"), [(1.0, 0.95), (0.9, 0.5), (0.99, 1.0), (0.7, 0.0)])
def test_advantages_are_the_discounted_sum_of_surprises(gamma: float, decay: float) -> None:
    rewards, values = rows(1) * SAID, rows(2)
    found, returns = advantages(rewards, values, SAID, gamma, decay)
    for row, length in enumerate(LENGTHS):
        value = [*values[row, :length].tolist(), 0.0]  # nothing is worth anything behind the end
        surprise = [float(rewards[row, t]) + gamma * value[t + 1] - value[t] for t in range(length)]
        for t in range(length):
            wanted = sum((gamma * decay) ** (k - t) * surprise[k] for k in range(t, length))
            assert float(found[row, t]) == pytest.approx(wanted, abs=1e-10)
            assert float(returns[row, t]) == pytest.approx(wanted + value[t], abs=1e-10)
    assert not found[~SAID].any()


def test_with_lambda_1_the_return_is_what_was_really_earned() -> None:
    rewards = rows(1) * SAID
    _, returns = advantages(rewards, rows(2), SAID, 0.9, 1.0)
    for row, length in enumerate(LENGTHS):
        earned = [sum(0.9 ** (k - t) * float(rewards[row, k]) for k in range(t, length)) for t in range(length)]
        assert returns[row, :length].tolist() == pytest.approx(earned, abs=1e-10)


def test_what_stands_behind_an_end_changes_nothing() -> None:
    noise = torch.where(SAID, 0.0, 1e3)
    for one, other in zip(
        advantages(rows(1) * SAID, rows(2), SAID, 0.9, 0.9),
        advantages(rows(1) * SAID, rows(2) + noise, SAID, 0.9, 0.9), strict=True,
    ):  # fmt: skip
        assert torch.equal(one * SAID, other * SAID)
    assert torch.equal(whitened(rows(1), SAID), whitened(rows(1) + noise, SAID))


def test_each_token_pays_for_its_distance_and_the_last_one_earns_the_score() -> None:
    logps, reference, scores = rows(1), rows(2), torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    found = token_rewards(scores, logps, reference, SAID, 0.3)
    for row, length in enumerate(LENGTHS):
        wanted = [-0.3 * float(logps[row, t] - reference[row, t]) for t in range(length)]
        wanted[-1] += float(scores[row])
        assert found[row, :length].tolist() == pytest.approx(wanted, abs=1e-10)
    assert not found[~SAID].any()


def test_whitening_is_over_all_tokens_of_all_answers() -> None:
    found, kept = whitened(rows(1), SAID), rows(1)[SAID]
    assert torch.allclose(found[SAID], (kept - kept.mean()) / kept.std(correction=0), atol=1e-6)
    assert not found[~SAID].any()


def test_whitening_by_several_processes_is_that_by_one() -> None:
    kept = rows(1)[SAID]
    of_all = [[float(len(kept)), float(kept.sum())], [float(((kept - kept.mean()) ** 2).sum())]]
    own: list[list[list[float]]] = []

    def whiten(part: slice) -> torch.Tensor:
        answers, said = iter(of_all), list[list[float]]()
        own.append(said)
        return whitened(rows(1)[part], SAID[part], lambda numbers: (said.append(numbers), next(answers))[1])

    found = torch.cat([whiten(slice(0, 1)), whiten(slice(1, 3))])
    assert torch.allclose(found, whitened(rows(1), SAID), atol=1e-10)
    for wanted, *halves in zip(of_all, *own, strict=True):
        assert [sum(both) for both in zip(*halves, strict=True)] == pytest.approx(wanted)


def test_equal_advantages_whiten_to_nothing() -> None:
    assert not whitened(torch.full((3, 5), 2.5), SAID).any()


@pytest.mark.parametrize(("kl", "change"), [(6.0, 0.0), (6.6, 0.1), (60.0, 0.2), (3.0, -0.2), (-5.0, -0.2)])
def test_the_coefficient_follows_its_target_by_a_bounded_step(kl: float, change: float) -> None:
    coefficient = Coefficient(0.2, target=6.0, gain=0.1)
    coefficient.follow(kl)
    assert coefficient.value == pytest.approx(0.2 * (1 + 0.1 * change))


def test_a_coefficient_without_target_stays() -> None:
    coefficient = Coefficient(0.2)
    coefficient.follow(100.0)
    assert coefficient.value == 0.2


def test_the_policy_loss_and_its_gradient_equal_the_formula() -> None:
    before, gains = rows(1), rows(2)
    logps = (before + 0.5 * rows(3)).requires_grad_()
    found, held = policy_loss(logps, before, gains, 0.2)
    [gradient] = torch.autograd.grad(found.sum(), logps)
    for place in range(15):
        row, t = divmod(place, 5)
        ratio, gain = math.exp((logps[row, t] - before[row, t]).item()), gains[row, t].item()
        near = min(max(ratio, 0.8), 1.2)
        assert float(found[row, t]) == pytest.approx(-min(ratio * gain, near * gain), abs=1e-10)
        clipped = near * gain < ratio * gain
        assert bool(held[row, t]) == clipped
        assert float(gradient[row, t]) == pytest.approx(0.0 if clipped else -ratio * gain, abs=1e-10)
    assert held.any() and not held.all()


def test_the_value_loss_and_its_gradient_equal_the_formula() -> None:
    before, returns = rows(1), rows(2)
    values = (before + rows(3)).requires_grad_()
    found = value_loss(values, before, returns, 0.2)
    [gradient] = torch.autograd.grad(found.sum(), values)
    for place in range(15):
        row, t = divmod(place, 5)
        value, was, wanted = (float(one[row, t]) for one in (values, before, returns))
        near = was + min(max(value - was, -0.2), 0.2)
        plain, clipped = (value - wanted) ** 2, (near - wanted) ** 2
        assert float(found[row, t]) == pytest.approx(0.5 * max(plain, clipped), abs=1e-10)
        moves = plain > clipped or near == value
        assert float(gradient[row, t]) == pytest.approx(value - wanted if moves else 0.0, abs=1e-10)
    assert (gradient == 0).any()


def test_explained_variance_is_1_for_foresight_and_0_for_a_constant() -> None:
    returns = rows(1)
    assert float(explained_variance(returns + 3, returns, SAID)) == pytest.approx(1)
    assert float(explained_variance(torch.ones_like(returns), returns, SAID)) == pytest.approx(0, abs=1e-12)
    assert float(explained_variance(-returns, returns, SAID)) == pytest.approx(-3)
    assert float(explained_variance(returns, torch.ones_like(returns), SAID)) == 0


def test_the_mean_of_nothing_is_0() -> None:
    assert float(mean(rows(1), torch.zeros_like(SAID))) == 0
