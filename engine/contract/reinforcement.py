"""Tasks that learn from rewards, one answer at a time: ppo, and ilql from answers that are rewarded already."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from engine.contract.errors import Problem
from engine.contract.fields import arg
from engine.contract.learning import Learning
from engine.contract.rewards import Rewards


class Ppo(Learning):
    """Write answers, have them rewarded, and make the better ones likelier (Schulman et al., 2017). A step writes one
    answer to each row of the global batch, and learns from them several times."""

    title: ClassVar[str] = "PPO"
    takes: ClassVar[tuple[str, ...]] = ("prompt", "conversation")
    aim: ClassVar[str] = "reward"
    reference: ClassVar[bool] = True
    generates: ClassVar[bool] = True
    steady: ClassVar[bool] = True
    gentle: ClassVar[bool] = True
    head: ClassVar[str] = "value"
    step_rows: ClassVar[int] = 32
    decides: ClassVar[tuple[str, ...]] = ("max_new_tokens", "rewards")
    kind: Literal["ppo"] = "ppo"

    rewards: Rewards = Rewards()
    max_new_tokens: int = arg(
        128,
        "Longest answer that is written.",
        when="As long as good answers are: every token costs time.",
        usual="32 to 512",
        unit="tokens",
        label="Longest answer",
        basic=True,
        ge=1,
        le=32768,
    )
    kl_coefficient: float = arg(
        0.05,
        "What it costs to move away from the model at its start: taken off the reward for each nat of distance (KL; "
        "one nat is a factor of 2.7 in how likely an answer is; Ziegler et al., 2019).",
        when="Raise it when answers turn to nonsense that scores well; lower it when the reward stays where it was.",
        usual="0.01 to 0.2",
        label="KL coefficient",
        basic=True,
        ge=0,
        le=100,
    )
    kl_target: float | None = arg(
        6.0,
        "The distance from the start, in nats per answer, that the coefficient is steered to; empty keeps it fixed.",
        when="Higher for long answers; empty to decide on the coefficient yourself.",
        usual="1 to 10",
        label="KL target",
        gt=0,
        le=10_000,
    )
    kl_gain: float = arg(
        0.1,
        "How fast the coefficient follows the target: by at most a fifth of this, as a share, each step.",
        when="Raise it for short runs.",
        usual="0.1",
        label="KL gain",
        gt=0,
        le=5,
    )
    temperature: float = arg(
        1.0,
        "How freely answers are drawn: 1 as the model thinks, less keeps to what is likely.",
        when="Lower it when a small model's answers are noise.",
        usual="0.7 to 1",
        gt=0,
        le=10,
    )
    top_p: float = arg(
        1.0,
        "Draws from the likeliest tokens that together have this share.",
        when="Rarely: what is learnt from is likely under all tokens.",
        usual="1",
        label="Top p",
        gt=0,
        le=1,
    )
    top_k: int = arg(
        0,
        "Draws from so many of the likeliest tokens; 0 takes all.",
        when="Rarely: what is learnt from is likely under all tokens.",
        usual="0",
        unit="tokens",
        label="Top k",
        ge=0,
        le=1_000_000,
    )
    missing_end: float | None = arg(
        None,
        "The score of an answer that does not end within its length, in place of its reward; empty keeps the reward.",
        when="When answers grow to the limit, or must not be cut.",
        usual="empty, or a little below the worst reward",
        label="Score without an end",
        ge=-1e6,
        le=1e6,
    )
    passes: int = arg(
        4,
        "How often each batch of answers is learnt from.",
        when="Lower it when more than a third is held back by the clip.",
        usual="1 to 4",
        ge=1,
        le=100,
    )
    minibatches: int = arg(
        1,
        "Parts that a batch of answers is divided into, with an update of the weights for each.",
        when="More for more, noisier updates from the same answers.",
        usual="1 to 4",
        ge=1,
        le=1024,
    )
    clip: float = arg(
        0.2,
        "How far the probability of a token may move in a step, as a share, before it gains nothing more.",
        when="Lower it when the reward jumps up and down.",
        usual="0.1 to 0.3",
        gt=0,
        lt=1,
    )
    value_clip: float = arg(
        0.2,
        "The same for what the value head expects, in units of reward.",
        when="Raise it with rewards far from 0 to 1.",
        usual="0.2",
        gt=0,
        le=1e6,
    )
    value_weight: float = arg(
        0.1,
        "How much the value head's error counts beside the policy's.",
        when="Raise it when the value head foresees none of the reward.",
        usual="0.1 to 1",
        ge=0,
        le=100,
    )
    entropy_weight: float = arg(
        0.0,
        "Rewards doubt: keeps the model from settling on one way to answer too early.",
        when="When all answers become the same.",
        usual="0 to 0.01",
        label="Entropy bonus",
        ge=0,
        le=10,
    )
    gamma: float = arg(
        1.0,
        "What a reward is worth one token earlier.",
        when="Rarely: an answer is short, and its score comes at the end.",
        usual="1",
        gt=0,
        le=1,
    )
    gae_lambda: float = arg(
        0.95,
        "Whom to believe about what a token was worth: 1 what came of it, 0 the value head (Schulman et al., 2015).",
        when="Lower it when learning is unsteady and the value head foresees most of the reward.",
        usual="0.9 to 1",
        label="GAE lambda",
        ge=0,
        le=1,
    )

    @property
    def looks(self) -> int:
        return 2  # what it and the model at its start find of each token

    @property
    def lessons(self) -> int:
        return self.passes

    def problems(self) -> Iterator[Problem]:
        yield from self.rewards.problems("task.rewards")


class Ilql(Learning):
    """Learn the worth of each token from rewarded answers, and write by it (Snell et al., 2022). Of two answers to one
    question the better is worth 1 and the other -1."""

    title: ClassVar[str] = "ILQL"
    takes: ClassVar[tuple[str, ...]] = ("scored", "preference")
    head: ClassVar[str] = "value"
    wide_heads: ClassVar[int] = 2
    step_rows: ClassVar[int] = 16
    kind: Literal["ilql"] = "ilql"

    guidance: float = arg(
        1.0,
        "How strongly the model writes by what it learnt of worth: this times a token's advantage is added to its "
        "logit. It changes how answers are written, not what is learnt.",
        when="Raise it when answers are not better than those of the rows; lower it when they break.",
        usual="0.5 to 4",
        basic=True,
        ge=0,
        le=1000,
    )
    sft_weight: float = arg(
        1.0,
        "How much the answers themselves are learnt, beside their worth.",
        when="0 to leave the way of writing to the base model.",
        usual="0.1 to 1",
        label="SFT weight",
        basic=True,
        ge=0,
        le=1000,
    )
    sft_beta: float = arg(
        0.0,
        "Learns the answers' better tokens more: each counts by exp(this times its advantage), 0 counts all alike "
        "(Nair et al., 2020).",
        when="When most answers are bad.",
        usual="0 to 1",
        label="Advantage weighting",
        ge=0,
        le=100,
    )
    gamma: float = arg(
        0.99,
        "What a reward is worth one token earlier.",
        when="1 when long answers are not to be worth less.",
        usual="0.95 to 1",
        gt=0,
        le=1,
    )
    expectile: float = arg(
        0.7,
        "Which of the possible continuations the value of a text is: 0.5 their mean, towards 1 the best of them.",
        when="Lower it with few rows: the best of a few is luck.",
        usual="0.6 to 0.9",
        gt=0,
        lt=1,
    )
    cql_weight: float = arg(
        0.1,
        "Holds down the worth of tokens that no row says (Kumar et al., 2020).",
        when="Raise it when answers wander off with strong guidance.",
        usual="0.01 to 1",
        label="CQL weight",
        ge=0,
        le=1000,
    )
    target_rate: float = arg(
        0.005,
        "How fast the slow copy of the heads, from which values are learnt, follows: this share of the way a step.",
        when="Raise it for short runs.",
        usual="0.001 to 0.05",
        gt=0,
        le=1,
    )
    normalise: bool = arg(
        True,
        "Moves and scales the scores of the rows to mean 0 and variance 1.",
        when="Off when they lie around 0 and 1 already.",
        usual="on",
        label="Normalise scores",
    )
