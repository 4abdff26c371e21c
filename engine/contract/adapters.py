"""Methods that train something small beside frozen weights: adapters."""

from __future__ import annotations

from typing import ClassVar, Literal

from engine.contract.fields import AUTO, Auto, Section, arg


class Adapter(Section):
    """A method whose result is an adapter, saved without the base. merges: whether it can be added into the base."""

    adapter: ClassVar[bool] = True
    merges: ClassVar[bool] = True


class Lora(Adapter):
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


class Oft(Adapter):
    """Turn the outputs of frozen weights by small orthogonal matrices (Qiu et al., 2023)."""

    title: ClassVar[str] = "OFT"
    kind: Literal["oft"] = "oft"


class Ia3(Adapter):
    """Train one factor for each output of a few layers: the smallest adapter (Liu et al., 2022)."""

    title: ClassVar[str] = "(IA)³"
    kind: Literal["ia3"] = "ia3"


class Prompt(Adapter):
    """Train virtual tokens that stand before every prompt (Lester et al., 2021)."""

    title: ClassVar[str] = "Prompt tuning"
    merges: ClassVar[bool] = False
    kind: Literal["prompt"] = "prompt"


class Prefix(Adapter):
    """Train keys and values that every layer attends to (Li and Liang, 2021)."""

    title: ClassVar[str] = "Prefix tuning"
    merges: ClassVar[bool] = False
    kind: Literal["prefix"] = "prefix"


class Tuner(Adapter):
    """One of PEFT's further adapters, with its own settings."""

    title: ClassVar[str] = "Other adapters"
    kind: Literal["tuner"] = "tuner"
