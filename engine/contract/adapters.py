"""Methods that train something small beside frozen weights: adapters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from engine.contract import own
from engine.contract.errors import Problem
from engine.contract.fields import AUTO, MANY, Auto, Section, arg
from engine.contract.tuners import TUNERS

INT8, BITS4, TORCHAO = ("int8",), ("nf4", "fp4"), ("torchao_int8",)


class Adapter(Section):
    """A method whose result is an adapter, saved without the base.

    merges: whether it can be added into the base. virtual: whether it adds tokens or keys before the prompt, and
    nothing to the weights. quantised: the kinds of quantised base that it can stand on.
    """

    adapter: ClassVar[bool] = True
    merges: ClassVar[bool] = True
    virtual: ClassVar[bool] = False
    quantised: ClassVar[tuple[str, ...]] = (*INT8, *BITS4, *TORCHAO)

    @property
    def stands_on(self) -> tuple[str, ...]:
        """The kinds of quantised base beside which it can be trained as it is set."""
        return self.quantised

    @property
    def learns_tokens(self) -> bool:
        """Whether what stands for single tokens can be trained beside the adapter."""
        return False

    def problems(self) -> Iterator[Problem]:
        """Rules between the method's own fields."""
        yield from ()


def _targets(help: str, default: str = "all-linear") -> Any:
    return arg(
        [default],
        help,
        when="Fewer layers train faster and forget less.",
        usual=default,
        to="peft.target_modules",
        label="Target modules",
        min_length=1,
    )


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
        gt=0,
        le=MANY,
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
    targets: list[str] = _targets("The layers that get an adapter: all-linear, or names such as q_proj and v_proj.")
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
    lr_ratio: float | None = arg(
        None,
        "How much faster the adapter's second matrix learns than its first (LoRA+, Hayou et al., 2024).",
        when="When learning is slow at a rate that must not be raised; lower the learning rate with it.",
        usual="empty: as fast, or 4 to 16",
        label="LoRA+ ratio",
        ge=1,
        le=1000,
    )
    init: Literal["default", "pissa", "olora", "eva", "loftq"] = arg(
        "default",
        "Where the adapter starts. pissa (Meng et al., 2024) and olora (Buyukakyuz, 2024) start in the strongest "
        "directions of the weights, eva (Paischer et al., 2024) in those of your rows, loftq (Li et al., 2023) where "
        "it mends what quantising broke. pissa and olora write adapters of twice the rank, for the untouched base.",
        when="pissa or eva to learn faster from few steps; loftq with a 4-bit base.",
        usual="default",
    )
    extra_modules: list[str] = arg(
        [],
        "Modules that are trained whole and saved beside the adapter, such as embed_tokens or norm.",
        when="embed_tokens and lm_head when a language or new words must be learnt.",
        usual="empty",
        label="Modules trained whole",
    )
    start_from: str = arg(
        "",
        "An adapter to go on from: a run, a checkpoint (RUN/step-40), an export or a folder. Its rank and settings "
        "must be those given here.",
        when="To teach a tuned model something more.",
        usual="empty: a new adapter",
        label="Start from",
        choices="weights",
    )
    on_top: bool = arg(
        False,
        "Leaves the adapter of Start from as it is and trains a new one on top of it. Both are saved as one.",
        when="When what it has learnt must stay.",
        usual="off",
        label="New adapter on top",
    )
    replicate: list[str] = arg(
        [],
        "Makes the model deeper with its own layers, counted from 0, each copy with an adapter of its own over "
        "shared weights: 0-15 and 8-23 make 32 layers out of 24.",
        when="To try a deeper model without its memory.",
        usual="empty",
        label="Repeat layers",
    )

    @property
    def learns_tokens(self) -> bool:
        return True

    def problems(self) -> Iterator[Problem]:
        if self.on_top and not self.start_from:
            yield Problem(
                "method.on_top", "There is nothing to train on top of. Set method.start_from, or turn it off."
            )
        if self.start_from and self.init != "default":
            said = f"method.start_from and method.init={self.init} both say where the adapter starts."
            yield Problem("method.init", f"{said} Set it to default, or leave method.start_from empty.")
        frozen = "on_top" if self.on_top else f"init={self.init}" if self.init in ("pissa", "olora") else ""
        if self.dora and self.on_top:
            yield Problem("method.dora", "DoRA cannot be trained on top of another adapter. Turn one of them off.")
        if self.replicate and (frozen or self.init == "loftq" or self.start_from):
            said = "Repeated layers start from a new adapter alone."
            yield Problem(
                "method.replicate", f"{said} Leave it empty, or set method.init to default and start from none."
            )
        for said in self.replicate:
            ends = re.fullmatch(r"\s*(\d{1,4})-(\d{1,4})\s*", said)
            if not ends or int(ends[1]) > int(ends[2]):
                yield Problem("method.replicate", f"{said!r} is no range of layers. Write it as 0-15.")

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """`replicate` as numbers, the end not counted."""
        return [(int(first), int(last) + 1) for first, _, last in (said.partition("-") for said in self.replicate)]

    @property
    def keeps_frozen(self) -> bool:
        """Whether a part of the adapter stands still: its start, or another adapter."""
        return self.on_top or self.init in ("pissa", "olora")


class Oft(Adapter):
    """Turn the outputs of frozen weights by small orthogonal matrices (Qiu et al., 2023)."""

    title: ClassVar[str] = "OFT"
    kind: Literal["oft"] = "oft"

    block_size: int = arg(
        32,
        "Size of the rotated blocks; the nearest that divides a layer is taken.",
        when="Larger blocks learn more and cost more.",
        usual="16 to 64",
        to="peft.oft_block_size",
        basic=True,
        ge=2,
        le=1024,
    )
    dropout: float = arg(
        0.0,
        "Share of the blocks that are left out in training.",
        when="When the held-out loss rises early.",
        usual="0 to 0.1",
        to="peft.module_dropout",
        ge=0,
        lt=1,
    )
    constrained: bool = arg(
        False,
        "Keeps rotations near the start (COFT).",
        when="When the model must forget as little as possible.",
        usual="off",
        to="peft.coft",
    )
    shared: bool = arg(
        False,
        "One rotation for all blocks of a layer: far fewer parameters.",
        when="For the smallest adapter.",
        usual="off",
        to="peft.block_share",
        label="One block for all",
    )
    targets: list[str] = _targets("The layers that are turned: all-linear, or names such as q_proj and v_proj.")


class Ia3(Adapter):
    """Train one factor for each output of a few layers: the smallest adapter (Liu et al., 2022)."""

    title: ClassVar[str] = "(IA)³"
    kind: Literal["ia3"] = "ia3"

    targets: list[str] = _targets(
        "The layers whose outputs are scaled; auto takes keys, values and the last of the feed-forward.", AUTO
    )
    feedforward: list[str] = arg(
        [AUTO],
        "Those among them whose inputs are scaled instead: the feed-forward layers.",
        when="When target modules are named.",
        usual="auto",
        to="peft.feedforward_modules",
        label="Feed-forward modules",
    )

    def problems(self) -> Iterator[Problem]:
        if self.targets != [AUTO] and self.feedforward != [AUTO] and set(self.feedforward) - set(self.targets):
            said = ", ".join(sorted(set(self.feedforward) - set(self.targets)))
            yield Problem("method.feedforward", f"{said} is not among method.targets. Add it there too.")
        if self.targets == [AUTO] and self.feedforward != [AUTO]:
            yield Problem("method.feedforward", "These are some of method.targets. Name those too, or set it to auto.")


class Virtual(Adapter):
    """An adapter that adds to the prompt, not to the weights."""

    merges: ClassVar[bool] = False
    virtual: ClassVar[bool] = True


def _tokens(help: str) -> Any:
    return arg(
        20,
        help,
        when="More for a harder task; each shortens what the model can read by one.",
        usual="8 to 100",
        unit="tokens",
        to="peft.num_virtual_tokens",
        label="Virtual tokens",
        basic=True,
        ge=1,
        le=1000,
    )


class Prompt(Virtual):
    """Train virtual tokens that stand before every prompt (Lester et al., 2021)."""

    title: ClassVar[str] = "Prompt tuning"
    kind: Literal["prompt"] = "prompt"

    tokens: int = _tokens("How many tokens are learnt.")
    text: str = arg(
        "",
        "Words that the tokens start as, again and again until there are enough; empty takes tokens by chance.",
        when="Describe the task in a sentence: it learns faster.",
        usual="empty, or a sentence",
        label="Start as these words",
    )


class Prefix(Virtual):
    """Train keys and values that every layer attends to (Li and Liang, 2021)."""

    title: ClassVar[str] = "Prefix tuning"
    kind: Literal["prefix"] = "prefix"

    tokens: int = _tokens("How many keys and values are learnt in each layer.")


class Tuner(Adapter):
    """One of PEFT's further adapters, with its own settings."""

    title: ClassVar[str] = "Other adapters"
    kind: Literal["tuner"] = "tuner"

    tuner: Literal[tuple(TUNERS)] = arg(  # type: ignore[valid-type]
        "vera",
        "Which adapter. " + " ".join(f"{name}: {one.help}" for name, one in TUNERS.items()),
        when="When a paper or a colleague recommends one; LoRA is the safe choice.",
        usual="vera for the smallest, lokr or boft for another shape",
        label="Adapter",
        basic=True,
    )
    targets: list[str] = _targets(
        "The layers that get it: all-linear, or names such as q_proj and v_proj (ln_tuning: norms alone)."
    )
    own: dict[str, Any] = arg(
        {},
        "The adapter's own settings, by its names. "
        + " ".join(f"{name}: {', '.join(one.own)}." for name, one in TUNERS.items() if one.own),
        when="When its size or strength should be another.",
        usual="empty: what its authors use",
        label="Own settings",
        known={name: one.own for name, one in TUNERS.items()},
        by="tuner",
    )

    @property
    def stands_on(self) -> tuple[str, ...]:
        return TUNERS[self.tuner].quantised

    def problems(self) -> Iterator[Problem]:
        kind = TUNERS[self.tuner]
        found = list(own.problems("method.own", self.own, kind.own, self.tuner))
        yield from found
        size = {} if found else own.values(self.own, kind.own)
        if self.tuner == "adalora" and size and not float(size["target_r"]) < float(size["init_r"]):
            said = "AdaLoRA takes rank away, so it must start with more: raise init_r, or lower target_r."
            yield Problem("method.own.init_r", said)
