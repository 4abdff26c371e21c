"""Tasks that learn from judged answers: better and worse, good and bad."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from engine.contract.errors import Problem
from engine.contract.fields import AUTO, Auto, arg
from engine.contract.learning import Learning

DIFFERENCES = ("sigmoid", "hinge", "ipo", "robust", "exo_pair", "discopop")
"""The losses of DPO that see nothing but the difference of the two answers' scores."""
SMOOTHED = ("sigmoid", "robust", "exo_pair", "aot", "aot_unpaired")
"""The losses of DPO that expect wrong labels."""

MOST = 4 / 3  # what all good answers of KTO may count for each 1 that all bad ones do


def _sft_weight(usual: str = "0 to 1", default: float = 0.0) -> Any:
    return arg(
        default,
        "Adds this much of the chosen answer's own loss per token, which keeps it likely (Pang et al., 2024).",
        when="When good answers grow less likely together with the bad ones.",
        usual=usual,
        label="SFT weight",
        ge=0,
        le=100,
    )


def _smoothing(help: str) -> Any:
    return arg(
        0.0, help, when="When you have looked at rows and would have chosen otherwise.", usual="0 to 0.2", ge=0, lt=0.5
    )


def _beta(default: float, help: str, usual: str) -> Any:
    return arg(
        default,
        help,
        when="Lower it when the margin stays at nothing; raise it when answers get worse.",
        usual=usual,
        basic=True,
        gt=0,
        le=100,
    )


def _reference_model() -> Any:
    return arg(
        "",
        "What the model is held to; empty is the model itself as it was before training.",
        when="To hold it to another model or run that reads the same tokens.",
        usual="empty",
        label="Reference model",
        choices="weights",
    )


def _precompute() -> Any:
    return arg(
        False,
        "Asks the reference about every row once, before training, and lets it go: less memory and time per step.",
        when="With a second model, with full training, or with several epochs.",
        usual="off",
        label="Reference beforehand",
    )


class Reward(Learning):
    """Learn to score answers, from pairs of a better and a worse one (Bradley and Terry, 1952)."""

    title: ClassVar[str] = "Reward"
    takes: ClassVar[tuple[str, ...]] = ("preference",)
    aim: ClassVar[str] = "preferred"
    head: ClassVar[str] = "score"
    kind: Literal["reward"] = "reward"

    margin: float = arg(
        0.0,
        "By how much the better answer must lead before nothing more is gained (Touvron et al., 2023). A column "
        "margin in the rows adds to it, row by row.",
        when="When rows say how much better an answer is, or scores of good and bad answers lie too close.",
        usual="0 to 1",
        basic=True,
        ge=0,
        le=100,
    )
    centring: float = arg(
        0.0,
        "Holds the scores around zero, where only their differences are learnt otherwise (Eisenstein et al., 2023).",
        when="When PPO or GRPO are to learn from the scores.",
        usual="0 to 0.1",
        ge=0,
        le=100,
    )


class Dpo(Learning):
    """Learn which of two answers is better, without a reward model (Rafailov et al., 2023)."""

    title: ClassVar[str] = "DPO"
    takes: ClassVar[tuple[str, ...]] = ("preference",)
    aim: ClassVar[str] = "preferred"
    reference: ClassVar[bool] = True
    steady: ClassVar[bool] = True
    gentle: ClassVar[bool] = True
    kind: Literal["dpo"] = "dpo"

    beta: float = _beta(0.1, "How strongly the model is held to what it was: with more it moves less.", "0.05 to 0.5")
    loss: Literal[
        "sigmoid", "hinge", "ipo", "robust", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
        "apo_zero", "apo_down", "discopop",
    ] = arg(
        "sigmoid",
        "How the margin is scored. sigmoid is DPO itself; hinge stops at a margin (Zhao et al., 2023); ipo aims at one "
        "(Azar et al., 2023); robust expects some labels to be wrong (Chowdhury et al., 2024); exo_pair matches the "
        "preference itself, with a label smoothing of 0.001 or more (Ji et al., 2024); nca_pair keeps the better "
        "answer likely (Chen et al., 2024); bco_pair judges each answer alone (Jung et al., 2024); sppo_hard aims at "
        "half a win and half a loss (Wu et al., 2024); aot and aot_unpaired compare the batch's sorted margins "
        "(Melnyk et al., 2024); apo_zero raises the better answer and lowers the worse, apo_down lowers both "
        "(D'Oosterlinck et al., 2024); discopop was found by a language model (Lu et al., 2024).",
        when="ipo when the model overfits few pairs, robust when people labelled in haste, apo_zero when the better "
        "answers are better than the model's own, apo_down when they are not.",
        usual="sigmoid",
    )  # fmt: skip
    label_smoothing: float = _smoothing(
        "The share of pairs that may be labelled the wrong way round; for the losses sigmoid (Mitchell, 2023), robust, "
        "exo_pair, aot and aot_unpaired."
    )
    per_token: bool = arg(
        False,
        "Scores an answer by the mean over its tokens instead of their sum, so that length alone counts for nothing "
        "(Lambert et al., 2024); ipo always does.",
        when="When answers grow longer and no better. Raise beta about tenfold with it.",
        usual="off",
        label="Mean per token",
    )
    sft_weight: float = _sft_weight()
    tail_weight: float = arg(
        1.0,
        "What the tokens count by which one answer is longer than the other (Liu et al., 2024); 0 ignores them.",
        when="When the longer answer is mostly the better one in your rows.",
        usual="0.3 to 1",
        label="Weight of the longer end",
        ge=0,
        le=1,
    )
    divergence: Literal["reverse_kl", "forward_kl", "js", "alpha"] = arg(
        "reverse_kl",
        "How the distance from the reference is measured (Wang et al., 2023): reverse_kl seeks one good way to answer, "
        "forward_kl keeps all of them, js lies between, alpha leads from one to the other.",
        when="When answers become all alike. For the losses that see the difference alone: sigmoid, hinge, ipo, "
        "robust, exo_pair and discopop.",
        usual="reverse_kl",
    )
    alpha: float = arg(
        0.5,
        "For the divergence alpha: near 0 as forward_kl, at 1 as reverse_kl.",
        when="With the divergence alpha alone.",
        usual="0.3 to 0.7",
        gt=0,
        le=1,
    )
    reference_model: str = _reference_model()
    precompute_reference: bool = _precompute()

    def problems(self) -> Iterator[Problem]:
        if self.label_smoothing and self.loss not in SMOOTHED:
            yield Problem(
                "task.label_smoothing",
                f"The loss {self.loss} (task.loss) has no label smoothing. Set it to 0, or choose the loss robust.",
            )
        if self.divergence != "reverse_kl" and self.loss not in DIFFERENCES:
            yield Problem(
                "task.divergence",
                f"The loss {self.loss} (task.loss) judges each answer alone, and {self.divergence} is about the "
                f"difference of two. Set it to reverse_kl, or choose the loss sigmoid.",
            )


class Simpo(Learning):
    """Learn which answer is better by its mean log-probability, without a reference (Meng et al., 2024)."""

    title: ClassVar[str] = "SimPO"
    takes: ClassVar[tuple[str, ...]] = ("preference",)
    aim: ClassVar[str] = "preferred"
    gentle: ClassVar[bool] = True
    kind: Literal["simpo"] = "simpo"

    beta: float = _beta(
        2.0,
        "How sharply the two answers' mean log-probabilities are told apart: with more, small ones count.",
        "2 to 10",
    )
    margin: float = arg(
        1.0,
        "By how much beta times the difference must lead (the paper's gamma).",
        when="Lower it when the loss stays high while the better answers are preferred already.",
        usual="0.5 to 1.6",
        basic=True,
        ge=0,
        le=100,
    )
    label_smoothing: float = _smoothing("The share of pairs that may be labelled the wrong way round.")
    sft_weight: float = _sft_weight()


class Orpo(Learning):
    """Learn to answer and which answer is better at once, by the odds of the two (Hong et al., 2024)."""

    title: ClassVar[str] = "ORPO"
    takes: ClassVar[tuple[str, ...]] = ("preference",)
    aim: ClassVar[str] = "preferred"
    gentle: ClassVar[bool] = True
    kind: Literal["orpo"] = "orpo"

    beta: float = arg(
        0.1,
        "What the odds count beside learning the chosen answer (the paper's lambda).",
        when="Raise it when the better answers are not preferred more in the end.",
        usual="0.05 to 1",
        basic=True,
        gt=0,
        le=100,
    )


class Cpo(Learning):
    """Learn which answer is better, and keep the better one likely, without a reference (Xu et al., 2024)."""

    title: ClassVar[str] = "CPO"
    takes: ClassVar[tuple[str, ...]] = ("preference",)
    aim: ClassVar[str] = "preferred"
    gentle: ClassVar[bool] = True
    kind: Literal["cpo"] = "cpo"

    beta: float = _beta(0.1, "How sharply the two answers' log-probabilities are told apart.", "0.05 to 0.5")
    loss: Literal["sigmoid", "hinge", "ipo"] = arg(
        "sigmoid",
        "How the difference is scored: sigmoid is CPO itself, hinge stops at a margin (Zhao et al., 2023), ipo aims at "
        "one, by the mean per token (Azar et al., 2023).",
        when="ipo when the model overfits few pairs.",
        usual="sigmoid",
    )
    label_smoothing: float = _smoothing(
        "The share of pairs that may be labelled the wrong way round; for the loss sigmoid."
    )
    sft_weight: float = _sft_weight("1", 1.0)

    def problems(self) -> Iterator[Problem]:
        if self.label_smoothing and self.loss != "sigmoid":
            yield Problem(
                "task.label_smoothing",
                f"The loss {self.loss} (task.loss) has no label smoothing. Set it to 0, or choose the loss sigmoid.",
            )


class Kto(Learning):
    """Learn from answers judged good or bad, one at a time (Ethayarajh et al., 2024)."""

    title: ClassVar[str] = "KTO"
    takes: ClassVar[tuple[str, ...]] = ("feedback",)
    aim: ClassVar[str] = "agreed"
    reference: ClassVar[bool] = True
    steady: ClassVar[bool] = True
    gentle: ClassVar[bool] = True
    kind: Literal["kto"] = "kto"

    beta: float = _beta(0.1, "How strongly the model is held to what it was: with more it moves less.", "0.05 to 0.5")
    loss: Literal["kto", "apo_zero"] = arg(
        "kto",
        "What an answer is measured against: kto the mean distance that the model has moved, apo_zero nothing, which "
        "saves the time to estimate that (D'Oosterlinck et al., 2024).",
        when="apo_zero when the good answers are better than the model's own.",
        usual="kto",
    )
    good_weight: float | Auto = arg(
        AUTO,
        "What a good answer counts. auto gives the rarer kind as much weight as makes the two sides count alike.",
        when="When one kind of error is worse than the other.",
        usual="auto",
        label="Weight of good answers",
        ge=0,
        le=1000,
    )
    bad_weight: float | Auto = arg(
        AUTO,
        "What a bad answer counts.",
        when="As for good answers.",
        usual="auto",
        label="Weight of bad answers",
        ge=0,
        le=1000,
    )
    reference_model: str = _reference_model()
    precompute_reference: bool = _precompute()

    def weights(self, good: int, bad: int) -> tuple[float, float]:
        """What a good and a bad answer count, of which there are so many: each `auto` is decided here.

        All good answers together are to count 1 to 4/3 times what all bad ones do (section 4.2 of the paper).
        """
        said = [1.0 if weight == AUTO else float(weight) for weight in (self.good_weight, self.bad_weight)]
        ratio = said[0] * good / (said[1] * bad) if bad and said[1] else 0.0
        if not ratio or 1 <= ratio <= MOST:
            return said[0], said[1]
        wanted = min(max(ratio, 1.0), MOST)
        if self.good_weight == AUTO and (ratio < 1 or self.bad_weight != AUTO):
            said[0] *= wanted / ratio
        elif self.bad_weight == AUTO:
            said[1] *= ratio / wanted
        return said[0], said[1]

    def lopsided(self, good: int, bad: int) -> str:
        """What there is to say when the two kinds do not count alike, with the way out; empty when they do."""
        if not good or not bad:
            kind = "bad" if good else "good"
            said = f"There is no {kind} answer, and KTO learns from what tells good ones from bad ones."
            return f"{said} Add some, or learn good answers by SFT (task.kind)." if good or bad else ""
        weights, way_out = self.weights(good, bad), "Set good_weight and bad_weight to auto."
        if not weights[1]:
            return f"Bad answers count for nothing, and KTO learns from what tells good ones from them. {way_out}"
        ratio = weights[0] * good / (weights[1] * bad)
        if 0.99 <= ratio <= 1.01 * MOST:
            return ""
        said = f"All good answers together count {ratio:.2g} times what the bad ones do"
        return f"{said}; KTO learns best at 1 to 1.33. {way_out}"
