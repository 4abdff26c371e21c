"""Tasks that compare several answers of the model to the same question: grpo and rloo."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from engine.contract.errors import Problem
from engine.contract.fields import arg
from engine.contract.learning import Learning
from engine.contract.rewards import Rewards


class Grpo(Learning):
    """Write a group of answers to each question and learn from those above its mean (Shao et al., 2024)."""

    title: ClassVar[str] = "GRPO"
    takes: ClassVar[tuple[str, ...]] = ("prompt", "conversation")
    generates: ClassVar[bool] = True
    decides: ClassVar[tuple[str, ...]] = ("max_new_tokens", "rewards")
    kind: Literal["grpo"] = "grpo"

    rewards: Rewards = Rewards()
    max_new_tokens: int = arg(
        128,
        "Longest answer that is written.",
        when="As long as good answers are: every token costs time.",
        usual="64 to 1,024",
        unit="tokens",
        label="Longest answer",
        to="trainer.max_completion_length",
        basic=True,
        ge=1,
        le=32768,
    )

    def problems(self) -> Iterator[Problem]:
        yield from self.rewards.problems("task.rewards")


class Rloo(Learning):
    """Write several answers to each question and judge each by the mean of the others (Ahmadian et al., 2024)."""

    title: ClassVar[str] = "RLOO"
    takes: ClassVar[tuple[str, ...]] = ("prompt", "conversation")
    generates: ClassVar[bool] = True
    decides: ClassVar[tuple[str, ...]] = ("max_new_tokens", "rewards")
    reference: ClassVar[bool] = True
    kind: Literal["rloo"] = "rloo"

    rewards: Rewards = Rewards()
    max_new_tokens: int = arg(
        128,
        "Longest answer that is written.",
        when="As long as good answers are: every token costs time.",
        usual="64 to 1,024",
        unit="tokens",
        label="Longest answer",
        to="trainer.max_completion_length",
        basic=True,
        ge=1,
        le=32768,
    )

    def problems(self) -> Iterator[Problem]:
        yield from self.rewards.problems("task.rewards")
