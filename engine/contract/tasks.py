"""What is learnt: the tasks. To add one: a section here, its name in `Task`, its page in `engine/recipes/`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from engine.contract.errors import Problem
from engine.contract.fields import Section, arg, tagged


class Sft(Section):
    """Learn to answer as the rows do (supervised fine-tuning)."""

    title: ClassVar[str] = "SFT"
    takes: ClassVar[tuple[str, ...]] = ("conversation", "text")  # the kinds of row that it learns from
    kind: Literal["sft"] = "sft"

    def problems(self) -> Iterator[Problem]:
        yield from ()


class Dpo(Section):
    """Learn which of two answers is better, without a reward model (Rafailov et al., 2023)."""

    title: ClassVar[str] = "DPO"
    takes: ClassVar[tuple[str, ...]] = ("preference",)
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


Task = tagged(Sft, Dpo)
