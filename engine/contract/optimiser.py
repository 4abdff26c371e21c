"""How the weights change: the optimiser and its schedule."""

from __future__ import annotations

from typing import ClassVar, Literal

from engine.contract.fields import AUTO, Auto, Section, arg


class Optim(Section):
    """How the weights change."""

    title: ClassVar[str] = "Optimiser"

    learning_rate: float | Auto = arg(
        AUTO,
        "Peak learning rate: how far each step moves the weights.",
        when="Lower it when the loss jumps or answers turn to noise; raise it when the loss hardly falls.",
        usual="1e-4 to 1e-3 for LoRA, 1e-5 to 1e-4 for freeze and full",
        to="trainer.learning_rate",
        basic=True,
        gt=0,
        lt=1,
    )
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup", "inverse_sqrt"] = arg(
        "cosine",
        "How the learning rate falls from its peak to the end.",
        when="constant when you mean to continue the run later.",
        usual="cosine or linear",
        to="trainer.lr_scheduler_type",
    )
    warmup: float = arg(
        0.05,
        "The start, in which the learning rate climbs: a share of all steps when below 1, else steps.",
        when="Raise it when the first steps are unstable.",
        usual="0 to 0.1",
        to="trainer.warmup_steps",
        ge=0,
    )
    weight_decay: float = arg(
        0.0,
        "Pulls weights towards zero.",
        when="For full training on many rows.",
        usual="0 to 0.1",
        to="trainer.weight_decay",
        ge=0,
        le=1,
    )
    max_grad_norm: float = arg(
        1.0,
        "Gradients longer than this are shortened to it.",
        when="Lower it when the loss spikes.",
        usual="0.3 to 1",
        to="trainer.max_grad_norm",
        gt=0,
        label="Gradient clipping",
    )
    optimiser: Literal["adamw_torch", "adamw_torch_fused", "adafactor", "sgd"] = arg(
        "adamw_torch",
        "The rule that turns gradients into steps.",
        when="adafactor when memory is short: it keeps far less state.",
        usual="adamw_torch",
        to="trainer.optim",
    )
