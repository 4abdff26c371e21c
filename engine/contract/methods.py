"""Which weights are trained: the methods. To add one: a section here, its name in `Method`, its page in the engine."""

from __future__ import annotations

from typing import ClassVar, Literal

from engine.contract.fields import AUTO, Auto, Section, arg, tagged


class Lora(Section):
    """Train a small adapter beside frozen weights (Hu et al., 2021)."""

    title: ClassVar[str] = "LoRA"
    kind: Literal["lora"] = "lora"

    rank: int = arg(
        16,
        "Size of the adapter.",
        when="Raise it for more to learn: new skills need more than a new tone.",
        usual="8 to 64",
        to="peft.r",
        basic=True,
        ge=1,
        le=1024,
    )
    alpha: float | Auto = arg(
        AUTO,
        "Strength of the adapter: its output is scaled by alpha / rank.",
        when="Rarely; change the learning rate first.",
        usual="auto: twice the rank",
        to="peft.lora_alpha",
        basic=True,
        gt=0,
    )
    dropout: float = arg(
        0.0,
        "Share of the adapter's inputs dropped in training.",
        when="When the held-out loss rises early.",
        usual="0 to 0.1",
        to="peft.lora_dropout",
        ge=0,
        lt=1,
    )
    targets: list[str] = arg(
        ["all-linear"],
        "The layers that get an adapter: all-linear, or names such as q_proj and v_proj.",
        when="Fewer layers train faster and forget less.",
        usual="all-linear",
        to="peft.target_modules",
        label="Target modules",
        min_length=1,
    )
    dora: bool = arg(
        False,
        "Splits weights into size and direction (DoRA, Liu et al., 2024): often better at low rank, slower.",
        when="When rank 8 is not quite enough and time is not short.",
        usual="off",
        to="peft.use_dora",
        label="DoRA",
    )
    rslora: bool = arg(
        False,
        "Scales by alpha / sqrt(rank) (Kalajdzievski, 2023), so that high ranks learn as fast as low ones.",
        when="With ranks of 64 and more.",
        usual="off",
        to="peft.use_rslora",
        label="rsLoRA",
    )


class Freeze(Section):
    """Train the last layers themselves; the rest stays as it is."""

    title: ClassVar[str] = "Freeze"
    kind: Literal["freeze"] = "freeze"

    layers: int = arg(
        2,
        "How many of the last layers are trained.",
        when="More for a harder task; memory grows with it.",
        usual="1 to 8",
        unit="layers",
        basic=True,
        ge=1,
        le=1000,
    )
    head: bool = arg(
        False,
        "Trains the final norm and the output layer too; with tied embeddings the input embeddings as well.",
        when="When new words must be learnt.",
        usual="off",
        label="Train the output layer",
    )


class Full(Section):
    """Train every weight: the most to learn with, the most memory, and the easiest way to forget."""

    title: ClassVar[str] = "Full"
    kind: Literal["full"] = "full"


Method = tagged(Lora, Freeze, Full)
