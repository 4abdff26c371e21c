"""Tasks that learn from judged answers: better and worse, good and bad."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from engine.contract.errors import Problem
from engine.contract.fields import arg
from engine.contract.learning import Learning


class Reward(Learning):
    """Learn to score answers, from pairs of a better and a worse one (Bradley and Terry, 1952)."""

    title: ClassVar[str] = "Reward"
    takes: ClassVar[tuple[str, ...]] = ("preference",)
    head: ClassVar[str] = "score"
    kind: Literal["reward"] = "reward"


class Dpo(Learning):
    """Learn which of two answers is better, without a reward model (Rafailov et al., 2023)."""

    title: ClassVar[str] = "DPO"
    takes: ClassVar[tuple[str, ...]] = ("preference",)
    reference: ClassVar[bool] = True
    kind: Literal["dpo"] = "dpo"

    beta: float = arg(
        0.1,
        "How strongly the model is held to what it was: with more it moves less.",
        when="Lower it when the margin stays at nothing; raise it when answers get worse.",
        usual="0.05 to 0.5",
        to="trainer.beta",
        basic=True,
        gt=0,
        le=100,
    )
    loss: Literal["sigmoid", "hinge", "ipo", "robust"] = arg(
        "sigmoid",
        "How the margin is scored: sigmoid is DPO itself, hinge stops at a margin (Zhao et al., 2023), ipo aims at one "
        "(Azar et al., 2023), robust expects some labels to be wrong (Chowdhury et al., 2024).",
        when="ipo when the model overfits few pairs, robust when people labelled in haste.",
        usual="sigmoid",
    )
    label_smoothing: float = arg(
        0.0,
        "The share of pairs that may be labelled the wrong way round; for the loss robust.",
        when="When you have looked at rows and would have chosen otherwise.",
        usual="0 to 0.2",
        to="trainer.label_smoothing",
        ge=0,
        lt=0.5,
    )
    sft_weight: float = arg(
        0.0,
        "Adds this much of the chosen answer's own loss per token, which keeps it likely (Pang et al., 2024).",
        when="When good answers grow less likely together with the bad ones.",
        usual="0 to 1",
        label="SFT weight",
        ge=0,
        le=100,
    )

    def problems(self) -> Iterator[Problem]:
        if self.label_smoothing and self.loss != "robust":
            yield Problem(
                "task.label_smoothing",
                f"The loss {self.loss} (task.loss) has no label smoothing. Set it to 0, or choose the loss robust.",
            )


class Simpo(Learning):
    """Learn which answer is better by its mean log-probability, without a reference (Meng et al., 2024)."""

    title: ClassVar[str] = "SimPO"
    takes: ClassVar[tuple[str, ...]] = ("preference",)
    kind: Literal["simpo"] = "simpo"


class Orpo(Learning):
    """Learn to answer and which answer is better at once, by the odds of the two (Hong et al., 2024)."""

    title: ClassVar[str] = "ORPO"
    takes: ClassVar[tuple[str, ...]] = ("preference",)
    kind: Literal["orpo"] = "orpo"


class Cpo(Learning):
    """Learn which answer is better, and keep the better one likely, without a reference (Xu et al., 2024)."""

    title: ClassVar[str] = "CPO"
    takes: ClassVar[tuple[str, ...]] = ("preference",)
    kind: Literal["cpo"] = "cpo"


class Kto(Learning):
    """Learn from answers judged good or bad, one at a time (Ethayarajh et al., 2024)."""

    title: ClassVar[str] = "KTO"
    takes: ClassVar[tuple[str, ...]] = ("feedback",)
    reference: ClassVar[bool] = True
    kind: Literal["kto"] = "kto"
