"""Tasks that learn to write as the rows do: pretrain and sft."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import ClassVar, Literal

from pydantic import field_validator
from pydantic_core import PydanticCustomError

from engine.contract.errors import Problem
from engine.contract.fields import arg
from engine.contract.learning import Learning
from engine.contract.own import Own

SIZES = {
    "layers": Own(6, "Decoder layers."),
    "hidden": Own(384, "Numbers that stand for a token between layers."),
    "feed_forward": Own(1024, "Numbers inside a layer's feed-forward part."),
    "heads": Own(6, "Attention heads."),
    "key_value_heads": Own(2, "Heads of keys and values, which several attention heads share."),
    "head": Own(64, "Numbers a head."),
    "context": Own(1024, "Tokens that the model can read at once."),
}
"""What of a model's size can be chosen where it starts from scratch, each as a small model has it."""


class Pretrain(Learning):
    """Learn to go on with plain text, token by token: from a model's weights, or from scratch."""

    title: ClassVar[str] = "Pretrain"
    lean: ClassVar[bool] = True
    takes: ClassVar[tuple[str, ...]] = ("text",)
    lasting: ClassVar[tuple[str, ...]] = ("start", "size", "vocabulary")
    decides: ClassVar[tuple[str, ...]] = ("boundaries",)
    kind: Literal["pretrain"] = "pretrain"

    boundaries: Literal["apart", "joined", "alone"] = arg(
        "apart",
        "How documents become sequences: apart fills every sequence to the maximum length, and documents that share "
        "one do not see each other; joined fills them as if all were one text; alone gives each document sequences of "
        "its own.",
        when="joined for a model whose attention cannot keep documents apart; alone for a look at single documents.",
        usual="apart",
        label="Documents",
        basic=True,
    )
    start: Literal["weights", "scratch"] = arg(
        "weights",
        "Where it starts: from the model's weights, or from scratch, with random weights in the model's shape.",
        when="scratch for another language or another kind of text than any model knows, with a great deal of it.",
        usual="weights",
        basic=True,
    )
    size: dict[str, int] = arg(
        {},
        f"Changes to the model's shape, from scratch: {', '.join(SIZES)}.",
        when="When the chosen model is larger than your text and your time allow.",
        usual="layers=6, hidden=384, heads=6",
        known={"scratch": SIZES},
        by="start",
    )
    vocabulary: int | None = arg(
        None,
        "Trains a tokenizer of so many tokens on the rows first, from scratch; empty takes the model's own.",
        when="When the model's tokenizer cuts your text into very many pieces.",
        usual="empty, or 8,000 to 64,000",
        unit="tokens",
        ge=300,
        le=1_000_000,
    )

    @property
    def packs(self) -> bool:
        return self.boundaries != "alone"

    @property
    def borders(self) -> bool:
        return self.boundaries == "apart"

    @field_validator("size")
    @classmethod
    def _is_size(cls, given: dict[str, int]) -> dict[str, int]:
        for name, value in given.items():
            if name not in SIZES:
                near = get_close_matches(name, SIZES, n=1)
                meant = f"Did you mean {near[0]}? " if near else ""
                said = f"a model has no size called {name}. {meant}There are {', '.join(SIZES)}."
                raise PydanticCustomError("sentence", "{sentence}", {"sentence": said})
            if not 1 <= value <= 10_000_000:
                said = f"the number for {name} must be from 1 to 10,000,000."
                raise PydanticCustomError("sentence", "{sentence}", {"sentence": said})
        return given

    def problems(self) -> Iterator[Problem]:
        for name in ("size", "vocabulary"):
            if self.start == "weights" and getattr(self, name):
                yield Problem(
                    f"task.{name}",
                    "The model's own weights fit its own shape and tokenizer alone. Set task.start to scratch, or "
                    "leave this empty.",
                )


class Sft(Learning):
    """Learn to answer as the rows do (supervised fine-tuning)."""

    title: ClassVar[str] = "SFT"
    lean: ClassVar[bool] = True
    takes: ClassVar[tuple[str, ...]] = ("conversation", "text")
    decides: ClassVar[tuple[str, ...]] = ("general", "general_share")
    kind: Literal["sft"] = "sft"

    loss: Literal["nll", "dft"] = arg(
        "nll",
        "What is made small: nll is the negative log-likelihood of each trained token; dft weighs it by the token's "
        "own probability (dynamic fine-tuning, Wu et al., 2025), so that unlikely tokens pull less.",
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
