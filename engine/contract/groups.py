"""Tasks that compare several answers of the model to the same question: grpo and rloo."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from engine.contract.errors import Problem
from engine.contract.fields import arg
from engine.contract.learning import Learning
from engine.contract.rewards import Rewards


class Group(Learning):
    """What both have: questions, groups of answers to each, rewards, and how far a step may go."""

    takes: ClassVar[tuple[str, ...]] = ("prompt", "conversation")
    aim: ClassVar[str] = "reward"
    generates: ClassVar[bool] = True
    steady: ClassVar[bool] = True
    gentle: ClassVar[bool] = True
    step_rows: ClassVar[int] = 32
    decides: ClassVar[tuple[str, ...]] = ("max_new_tokens", "rewards")

    rewards: Rewards = Rewards()
    group: int = arg(
        8,
        "How many answers are written to each question, and compared with one another. A step's global batch is made "
        "of whole groups.",
        when="More when most groups are all right or all wrong, so that nothing tells their answers apart.",
        usual="4 to 16",
        unit="answers",
        label="Answers to a question",
        to="trainer.num_generations",
        basic=True,
        ge=2,
        le=1024,
    )
    max_new_tokens: int = arg(
        128,
        "Longest answer that is written.",
        when="As long as good answers are: every token costs time.",
        usual="64 to 1,024",
        unit="tokens",
        label="Longest answer",
        to="trainer.max_completion_length",
        basic=True,
        ge=1,
        le=32768,
    )
    iterations: int = arg(
        1,
        "How many steps learn from the same answers; beyond 1, answers are older than the model that learns from them.",
        when="2 to 4 when writing answers takes most of the time.",
        usual="1 to 4",
        unit="steps",
        label="Steps for each answer",
        to="trainer.num_iterations",
        ge=1,
        le=100,
    )
    epsilon: float = arg(
        0.2,
        "How much likelier or unlikelier an answer may become in these steps before its push is cut off.",
        when="Lower it when the distance from the start (KL) jumps.",
        usual="0.1 to 0.3",
        label="Clip",
        to="trainer.epsilon",
        gt=0,
        lt=1,
    )
    epsilon_high: float | None = arg(
        None,
        "The same upwards alone: with more, unlikely good answers can grow faster (Yu et al., 2025). Empty is the same "
        "on both sides; for the loss cispo it is the highest ratio, 5 when empty.",
        when="0.28 when answers become all alike.",
        usual="empty, or 0.28",
        label="Clip upwards",
        gt=0,
        le=100,
    )
    temperature: float = arg(
        1.0,
        "How freely answers are drawn: groups of equal answers teach nothing. The loss is of the model at this "
        "temperature.",
        when="Lower it for a model that rambles.",
        usual="0.7 to 1.2",
        to="trainer.temperature",
        gt=0,
        le=10,
    )
    top_p: float = arg(
        1.0,
        "Draws from the likeliest tokens that together have this share of the chance.",
        when="Rarely: what is never drawn is never learnt.",
        usual="0.9 to 1",
        gt=0,
        le=1,
    )
    top_k: int = arg(
        0,
        "Draws from so many of the likeliest tokens; 0 from all.",
        when="Rarely: what is never drawn is never learnt.",
        usual="0",
        ge=0,
        le=1_000_000,
    )
    repetition_penalty: float = arg(
        1.0,
        "Above 1 the model avoids tokens that have been used.",
        when="When answers run in circles.",
        usual="1 to 1.1",
        gt=0,
        le=10,
    )
    leave_out_cut: bool = arg(
        False,
        "Learns nothing from answers that were cut at the longest length, neither good nor bad.",
        when="When many answers are cut, and it is not their length that is wrong.",
        usual="off",
        label="Leave out cut answers",
        to="trainer.mask_truncated_completions",
    )

    @property
    def together(self) -> int:
        return self.group

    @property
    def again(self) -> int:
        return self.iterations

    def problems(self) -> Iterator[Problem]:
        yield from self.rewards.problems("task.rewards")


class Grpo(Group):
    """Write a group of answers to each question and learn from those above its mean (Shao et al., 2024)."""

    title: ClassVar[str] = "GRPO"
    reference: ClassVar[bool] = True
    kind: Literal["grpo"] = "grpo"

    beta: float = arg(
        0.04,
        "How strongly the model is held to what it was: what its distance from that (KL) costs. 0 saves the time of "
        "asking.",
        when="Raise it when answers get strange; 0 where the reward says all.",
        usual="0 to 0.1",
        basic=True,
        ge=0,
        le=100,
    )
    loss: Literal["dapo", "grpo", "bnpo", "dr_grpo", "cispo", "sapo", "luspo"] = arg(
        "dapo",
        "How tokens are weighed. dapo: all tokens of a step alike (Yu et al., 2025); grpo: each answer alike, however "
        "long; bnpo: all tokens of a batch alike; dr_grpo: by the longest length, so that length has no part in it "
        "(Liu et al., 2025); cispo: clips the weight and not the push (MiniMax, 2025); sapo: a soft clip (Gao et al., "
        "2025); luspo: the whole answer's sum (2026).",
        when="dr_grpo when wrong answers grow longer and longer.",
        usual="dapo",
        to="trainer.loss_type",
    )
    scale: Literal["group", "batch", "none"] = arg(
        "group",
        "What an answer's lead over its group (its advantage) is divided by: the spread of the group, of the batch, or "
        "nothing, which keeps easy and hard questions as they are (Liu et al., 2025).",
        when="none with dr_grpo; batch with few answers to a question.",
        usual="group",
        label="Scale by",
        to="trainer.scale_rewards",
    )
    combine: Literal["sum_then_normalize", "normalize_then_sum"] = arg(
        "sum_then_normalize",
        "With several rewards: whether they are added before they are compared in the group, or each is compared by "
        "itself first, so that none drowns the others (Liu et al., 2026).",
        when="normalize_then_sum when one reward's spread is much larger.",
        usual="sum_then_normalize",
        label="Several rewards",
        to="trainer.multi_objective_aggregation",
    )
    ratio: Literal["token", "sequence"] = arg(
        "token",
        "Whether each token is cut off at the clip, or the answer as a whole (GSPO, Zheng et al., 2025).",
        when="sequence for mixtures of experts, and with several steps for each answer.",
        usual="token",
        label="Clip by",
        to="trainer.importance_sampling_level",
    )
    delta: float | None = arg(
        None,
        "Cuts off the push of a bad answer too, once it has become this many times likelier; the clip leaves it.",
        when="When the loss has spikes.",
        usual="empty, or above 1 + clip",
        label="Two-sided clip",
        to="trainer.delta",
        gt=1,
        le=1000,
    )
    top_entropy: float = arg(
        1.0,
        "Learns only from this share of the tokens: those where the model is least sure (Wang et al., 2025).",
        when="0.2 for long thoughts.",
        usual="0.2 to 1",
        label="Unsure tokens",
        to="trainer.top_entropy_quantile",
        gt=0,
        le=1,
    )
    entropy_weight: float = arg(
        0.0,
        "A bonus for staying unsure, which keeps the model trying.",
        when="When the entropy falls to nothing early.",
        usual="0 to 0.01",
        to="trainer.entropy_coef",
        ge=0,
        le=10,
    )

    @property
    def looks(self) -> int:
        # With one step for each answer the model that learns is the one that wrote it.
        return bool(self.beta) + (self.iterations > 1)


class Rloo(Group):
    """Write several answers to each question and judge each by the mean of the others (Ahmadian et al., 2024)."""

    title: ClassVar[str] = "RLOO"
    reference: ClassVar[bool] = True
    kind: Literal["rloo"] = "rloo"

    beta: float = arg(
        0.05,
        "What moving away from the model at its start costs: this times the KL is taken off the reward.",
        when="Raise it when answers get strange; 0 where the reward says all.",
        usual="0 to 0.1",
        basic=True,
        ge=0,
        le=100,
    )
    normalise: bool = arg(
        False,
        "Divides the advantages of a step by their spread.",
        when="When rewards differ much in size from step to step.",
        usual="off",
        label="Normalise advantages",
        to="trainer.normalize_advantages",
    )
    reward_limit: float | None = arg(
        None,
        "Rewards beyond this, up or down, count as this.",
        when="With a reward model that sometimes gives extreme scores.",
        usual="empty, or 5 to 10",
        gt=0,
        le=1_000_000,
    )

    @property
    def looks(self) -> int:
        return bool(self.beta) + 1
