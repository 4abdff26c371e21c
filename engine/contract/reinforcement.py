"""Tasks that learn from rewards, one answer at a time: ppo, and ilql from answers that are rewarded already."""

from __future__ import annotations

from typing import ClassVar, Literal

from engine.contract.learning import Learning


class Ppo(Learning):
    """Write answers, have them rewarded, and make the better ones likelier (Schulman et al., 2017)."""

    title: ClassVar[str] = "PPO"
    takes: ClassVar[tuple[str, ...]] = ("prompt", "conversation")
    reference: ClassVar[bool] = True
    generates: ClassVar[bool] = True
    head: ClassVar[str] = "value"
    kind: Literal["ppo"] = "ppo"


class Ilql(Learning):
    """Learn the worth of each token from rewarded answers, and write by it (Snell et al., 2022)."""

    title: ClassVar[str] = "ILQL"
    takes: ClassVar[tuple[str, ...]] = ("scored",)
    head: ClassVar[str] = "value"
    kind: Literal["ilql"] = "ilql"
