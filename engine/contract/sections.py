"""The arguments that several kinds of run share: the model, the steps, what is recorded, where it goes on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from engine.contract.errors import Problem
from engine.contract.fields import AUTO, MANY, Auto, Section, arg

Dtype = Literal["auto", "bf16", "fp32", "fp16"]
Attention = Literal["auto", "eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3"]
Quantisation = Literal["none", "int8", "nf4", "fp4", "torchao_int8"]
Device = Literal["auto", "cpu", "cuda", "mps", "npu", "xpu"]


class Model(Section):
    """Which model, and how it is loaded."""

    title: ClassVar[str] = "Model"
    shorthand: ClassVar[str] = "path"

    path: str = arg(
        "SmolLM2-135M-Instruct",
        "The model to start from: a name from the list, a folder, or a hub id such as Qwen/Qwen3-0.6B.",
        when="Choose a small one first: a run that takes minutes tells you whether your data is right.",
        usual="135 M to 8 B parameters on one device",
        label="Model",
        basic=True,
        choices="models",
        min_length=1,
    )
    revision: str = arg(
        "",
        "Pins a hub model to one commit, branch or tag.",
        when="Set it when a result must be repeatable: a model on a hub can change.",
        usual="a commit hash, or empty for the newest",
        to="model.revision",
    )
    template: str = arg(
        AUTO,
        "The chat template that turns messages into text; auto is the model's own.",
        when="Only when the model ships none, or a wrong one.",
        usual="auto",
        choices="templates",
    )
    dtype: Dtype = arg(
        AUTO,
        "The precision of the arithmetic. Trained weights are always kept in fp32.",
        when="fp32 when a loss looks unstable; fp16 only on GPUs without bf16.",
        usual="auto: bf16 where the device has it",
        basic=True,
    )
    quantisation: Quantisation = arg(
        "none",
        "Holds the frozen weights in 8 or 4 bits while an adapter is trained beside them (QLoRA, Dettmers et al., "
        "2023). The adapter is merged into the weights in full precision all the same.",
        when="nf4 when the model does not fit; int8 when little is missing. torchao_int8 is faster on CPUs.",
        usual="none, or nf4",
        basic=True,
    )
    double_quantisation: bool = arg(
        True,
        "Quantises the scales of nf4 and fp4 too: 0.4 bits less for each weight.",
        when="Off for the last bit of accuracy.",
        usual="on",
    )
    attention: Attention = arg(
        AUTO,
        "The attention kernel; auto takes the fastest that is installed and works here.",
        when="eager when you suspect a kernel.",
        usual="auto",
    )
    rope: Literal["none", "linear", "dynamic", "yarn", "llama3"] = arg(
        "none",
        "Stretches the model's positions, so that rows may be longer than its context (model.rope_factor times). "
        "The model that comes out has them stretched, and so has the base that an adapter is used on.",
        when="yarn when rows are longer than the model's context; train on some that are.",
        usual="none",
        label="Longer context (RoPE)",
    )
    rope_factor: float = arg(
        2.0,
        "How many times the model's own context the new one is.",
        when="As little as your rows need: each step up costs accuracy in short rows.",
        usual="2 to 8",
        label="Context factor",
        gt=1,
        le=64,
    )
    new_tokens: list[str] = arg(
        [],
        "Words that become one token each, inside longer words too. They start as the mean of all tokens (Hewitt, "
        "2021) and are learnt from the rows.",
        when="Marks of your own such as <step>, or words of a field that the model spells in many pieces; each must "
        "be in many rows.",
        usual="empty, or one word a line",
        lines=2,
        label="New tokens",
    )
    trust_remote_code: bool = arg(
        False,
        "Runs Python code that comes with the model. It can do anything that you can do.",
        when="Only for a model whose code you have read or whose author you trust, and that asks for it.",
        usual="off",
        label="Trust the model's code",
        to="model.trust_remote_code",
    )

    @property
    def changed(self) -> bool:
        """Whether a run begins with another model than the one that is named: with more tokens, or other positions."""
        return bool(self.new_tokens) or self.rope != "none"

    def problems(self) -> Iterator[Problem]:
        """Rules between the model's own fields."""
        words = self.new_tokens
        if any(word.strip() != word or not word for word in words):
            wrong = ", ".join(repr(word) for word in words if word.strip() != word or not word)
            yield Problem("model.new_tokens", f"{wrong} is empty, or begins or ends with a space. Give words alone.")
        if twice := sorted({word for word in words if words.count(word) > 1}):
            yield Problem("model.new_tokens", f"{', '.join(map(repr, twice))} stands there twice. Name it once.")


class Steps(Section):
    """How long, and how many rows at once."""

    title: ClassVar[str] = "Steps"

    epochs: float = arg(
        3.0,
        "How often every row is seen.",
        when="Fewer when the held-out loss rises again while the training loss falls.",
        usual="1 to 5",
        to="trainer.num_train_epochs",
        basic=True,
        gt=0,
        le=1000,
    )
    max_steps: int | None = arg(
        None,
        "Ends after this many optimiser steps, whatever the epochs say.",
        when="For a quick trial.",
        usual="empty",
        basic=True,
        ge=1,
        le=MANY,
    )
    batch_size: int = arg(
        4,
        "Rows that go through the model at once, per device; memory grows with it.",
        when="Lower it first when memory runs out, and raise accumulation instead.",
        usual="1 to 16",
        unit="rows",
        to="trainer.per_device_train_batch_size",
        basic=True,
        ge=1,
        le=4096,
    )
    accumulation: int | Auto = arg(
        AUTO,
        "Batches whose gradients are added up before one step; costs time, not memory. Auto follows the global batch.",
        when="Raise it when you lower the batch size, so that the global batch stays the same.",
        usual="1 to 32",
        to="trainer.gradient_accumulation_steps",
        basic=True,
        ge=1,
        le=1_048_576,
    )
    global_batch: int | Auto = arg(
        AUTO,
        "Rows per optimiser step: batch size x accumulation x devices. Set it and leave accumulation on auto.",
        when="When you know how many rows a step should see, whatever fits into memory at once.",
        usual="4 to 128",
        unit="rows",
        ge=1,
        le=1_048_576,
    )
    seed: int = arg(
        42,
        "Fixes chance: the same arguments and the same machine give the same run.",
        when="To see how much luck there was.",
        usual="any whole number",
        to="trainer.seed",
        basic=True,
        ge=0,
        le=2**32 - 1,
    )


class Record(Section):
    """What is written down, and how often."""

    title: ClassVar[str] = "Recording"

    log_every: int = arg(
        1,
        "Steps between two points of the loss curve.",
        when="Raise it for runs of many thousand steps.",
        usual="1 to 50",
        unit="steps",
        to="trainer.logging_steps",
        ge=1,
        le=MANY,
        label="Log every",
    )
    evaluate_every: int | Auto = arg(
        AUTO,
        "Steps between two measurements of the held-out loss.",
        when="Raise it when evaluation takes long.",
        usual="auto: ten times per run",
        unit="steps",
        to="trainer.eval_steps",
        ge=1,
        le=MANY,
        label="Evaluate every",
    )
    save_every: int | Auto = arg(
        AUTO,
        "Steps between two checkpoints. A stop saves one too.",
        when="Lower it when losing minutes would hurt.",
        usual="auto: four times per run",
        unit="steps",
        to="trainer.save_steps",
        ge=1,
        le=MANY,
        label="Save every",
    )
    keep: int = arg(
        3,
        "How many checkpoints stay on disk; the oldest go first.",
        when="More when you want to compare moments of the run.",
        usual="1 to 5",
        unit="checkpoints",
        ge=1,
        le=1000,
    )
    patience: int | None = arg(
        None,
        "Ends the run after this many evaluations without a better one.",
        when="When you train for more epochs than may be needed.",
        usual="empty, or 2 to 5",
        unit="evaluations",
        ge=1,
        le=1000,
        label="Early stopping",
    )
    keep_best: bool = arg(
        False,
        "Takes the weights of the best evaluation for the result, and keeps their checkpoint whatever the limit.",
        when="When the held-out loss rises again before the end.",
        usual="off; on with early stopping",
        label="Keep the best",
    )
    samples: list[str] = arg(
        [],
        "Questions that the model answers at every evaluation, so that you see it change.",
        when="Two or three that show what you are after.",
        usual="empty, or one question a line",
        lines=2,
        label="Sample questions",
    )


class Resume(Section):
    """Continue from a checkpoint of an earlier run; the page sets this."""

    title: ClassVar[str] = "Resume"

    run: str = arg(
        "",
        "The run that this one continues.",
        when="Set by Resume.",
        usual="empty",
        label="Parent run",
        max_length=200,
    )
    checkpoint: str = arg(
        "",
        "The checkpoint to go on from, such as step-40; empty takes the parent's last one.",
        when="To go back further than the last.",
        usual="empty",
        choices="checkpoints",
    )
