"""Tasks that compare several answers of the model to the same question: grpo and rloo."""

from __future__ import annotations

from typing import ClassVar, Literal

from engine.contract.learning import Learning


class Grpo(Learning):
    """Write a group of answers to each question and learn from those above its mean (Shao et al., 2024)."""

    title: ClassVar[str] = "GRPO"
    takes: ClassVar[tuple[str, ...]] = ("prompt", "conversation")
    generates: ClassVar[bool] = True
    kind: Literal["grpo"] = "grpo"


class Rloo(Learning):
    """Write several answers to each question and judge each by the mean of the others (Ahmadian et al., 2024)."""

    title: ClassVar[str] = "RLOO"
    takes: ClassVar[tuple[str, ...]] = ("prompt", "conversation")
    generates: ClassVar[bool] = True
    reference: ClassVar[bool] = True
    kind: Literal["rloo"] = "rloo"
