"""Which weights are trained: the methods. To add one: a section, its name in `Method`, its page in the engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from engine.contract.adapters import Ia3, Lora, Oft, Prefix, Prompt, Tuner
from engine.contract.errors import Problem
from engine.contract.fields import Section, arg, tagged


class Whole(Section):
    """A method that changes weights of the model itself; its result is a whole model."""

    adapter: ClassVar[bool] = False
    merges: ClassVar[bool] = False
    virtual: ClassVar[bool] = False

    @property
    def stands_on(self) -> tuple[str, ...]:
        """The kinds of quantised base beside which it can be trained."""
        return ()

    @property
    def learns_tokens(self) -> bool:
        """Whether what stands for single tokens is trained."""
        return False

    def problems(self) -> Iterator[Problem]:
        """Rules between the method's own fields."""
        yield from ()


class Freeze(Whole):
    """Train some layers themselves; the rest stays as it is."""

    title: ClassVar[str] = "Freeze"
    kind: Literal["freeze"] = "freeze"

    layers: int = arg(
        2,
        "How many layers are trained, counted from the end chosen below; spectrum goes by the share instead.",
        when="More for a harder task; memory grows with it.",
        usual="1 to 8",
        unit="layers",
        basic=True,
        ge=0,
        le=1000,
    )
    which: Literal["last", "first", "spectrum"] = arg(
        "last",
        "Which end of the stack is trained; or, by spectrum, the matrices that hold the most signal, wherever they are "
        "(Hartford et al., 2024).",
        when="first for what is read rather than what is said, such as a new language; spectrum to come near to full "
        "training with less memory. It looks at every matrix first, which takes minutes for a large model.",
        usual="last",
        label="Which layers",
    )
    share: float = arg(
        0.25,
        "With spectrum: the share of each kind of matrix, such as q_proj, that is trained; at least one of each.",
        when="More for a harder task; memory grows with it.",
        usual="0.25 or 0.5",
        label="Share by signal",
        gt=0,
        le=1,
    )
    modules: list[str] = arg(
        [],
        "Further weights that are trained, by name; * stands for anything, as in *.mlp.* or *norm*.",
        when="To train norms or one kind of layer alone.",
        usual="empty",
        label="Modules by name",
    )
    embeddings: bool = arg(
        False,
        "Trains the input embeddings too; tied to the output layer, they are that as well.",
        when="When new words must be read.",
        usual="off",
        label="Train the embeddings",
    )
    head: bool = arg(
        False,
        "Trains the final norm and the output layer too; with tied embeddings the input embeddings as well.",
        when="When new words must be learnt.",
        usual="off",
        label="Train the output layer",
    )

    @property
    def learns_tokens(self) -> bool:
        return self.embeddings

    def problems(self) -> Iterator[Problem]:
        if not (self.layers or self.which == "spectrum" or self.modules or self.embeddings or self.head):
            said = "Nothing would be trained. Set method.layers, method.modules, method.embeddings or method.head."
            yield Problem("method.layers", said)


class Full(Whole):
    """Train every weight: the most to learn with, the most memory, and the easiest way to forget."""

    title: ClassVar[str] = "Full"
    kind: Literal["full"] = "full"

    @property
    def learns_tokens(self) -> bool:
        return True


class Expand(Whole):
    """Add copies of layers that start as if they were not there, and train these alone (LLaMA Pro, Wu et al., 2024)."""

    title: ClassVar[str] = "New layers"
    kind: Literal["expand"] = "expand"

    layers: int = arg(
        2,
        "How many layers are added, spread evenly; each is a copy of the one before it. The result is a larger model.",
        when="More to learn more: knowledge of a field, another language.",
        usual="a quarter of the model's layers",
        label="New layers",
        unit="layers",
        basic=True,
        ge=1,
        le=1000,
    )


Method = tagged(Lora, Full, Freeze, Oft, Ia3, Prompt, Prefix, Expand, Tuner)
