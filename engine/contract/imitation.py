"""Tasks that learn to write as the rows do: pretrain and sft."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from engine.contract.errors import Problem
from engine.contract.fields import arg
from engine.contract.learning import Learning


class Pretrain(Learning):
    """Learn to go on with plain text, token by token."""

    title: ClassVar[str] = "Pretrain"
    takes: ClassVar[tuple[str, ...]] = ("text",)
    kind: Literal["pretrain"] = "pretrain"


class Sft(Learning):
    """Learn to answer as the rows do (supervised fine-tuning)."""

    title: ClassVar[str] = "SFT"
    takes: ClassVar[tuple[str, ...]] = ("conversation", "text")
    decides: ClassVar[tuple[str, ...]] = ("general", "general_share")
    kind: Literal["sft"] = "sft"

    loss: Literal["nll", "dft"] = arg(
        "nll",
        "What is made small: nll is the negative log-likelihood of each trained token; dft weighs it by the token's own "
        "probability (dynamic fine-tuning, Wu et al., 2025), so that unlikely tokens pull less.",
        when="dft when a model that reasons well already is tuned on answers by others, and gets worse elsewhere.",
        usual="nll",
    )
    label_smoothing: float = arg(
        0.0,
        "This share of each token's target is spread evenly over the whole vocabulary (Szegedy et al., 2016).",
        when="When the held-out loss rises while the training loss falls, and there are no more rows.",
        usual="0 to 0.1",
        ge=0,
        lt=1,
    )
    neftune: float | None = arg(
        None,
        "Strength of the noise on the embeddings in training (NEFTune, Jain et al., 2023), against learning rows by "
        "heart.",
        when="With a few thousand conversations or fewer, when answers should be fuller.",
        usual="empty, or 5 to 15",
        to="trainer.neftune_noise_alpha",
        label="NEFTune",
        gt=0,
        le=1000,
    )
    general: list[str] = arg(
        [],
        "Datasets of the general kind that are mixed in, so that the model does not forget what it could before.",
        when="When the tuned model is worse at what your rows do not show.",
        usual="empty, or a general instruction dataset",
        choices="datasets",
        label="General datasets",
    )
    general_share: float = arg(
        0.2,
        "The share of the rows to train on that comes from the general datasets; short ones are repeated.",
        when="Less when your own rows are learnt too slowly.",
        usual="0.05 to 0.5",
        gt=0,
        lt=1,
    )

    def problems(self) -> Iterator[Problem]:
        if self.label_smoothing and self.loss == "dft":
            yield Problem(
                "task.label_smoothing",
                "The loss dft (task.loss) has no label smoothing. Set it to 0, or choose the loss nll.",
            )
