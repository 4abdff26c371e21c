"""Which weights are trained: the methods. To add one: a section, its name in `Method`, its page in the engine."""

from __future__ import annotations

from typing import ClassVar, Literal

from engine.contract.adapters import Ia3, Lora, Oft, Prefix, Prompt, Tuner
from engine.contract.fields import Section, arg, tagged


class Whole(Section):
    """A method that changes weights of the model itself; its result is a whole model."""

    adapter: ClassVar[bool] = False
    merges: ClassVar[bool] = False


class Freeze(Whole):
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


class Full(Whole):
    """Train every weight: the most to learn with, the most memory, and the easiest way to forget."""

    title: ClassVar[str] = "Full"
    kind: Literal["full"] = "full"


class Expand(Whole):
    """Add copies of layers that start as if they were not there, and train these alone (LLaMA Pro, Wu et al., 2024)."""

    title: ClassVar[str] = "New layers"
    kind: Literal["expand"] = "expand"


Method = tagged(Lora, Full, Freeze, Oft, Ia3, Prompt, Prefix, Expand, Tuner)
