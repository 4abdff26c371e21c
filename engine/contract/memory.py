"""Where it runs, and what memory is traded for time."""

from __future__ import annotations

from typing import ClassVar

from engine.contract.fields import AUTO, Auto, Section, arg
from engine.contract.sections import Device


class Compute(Section):
    """Where it runs, and what memory is traded for time."""

    title: ClassVar[str] = "Memory and device"

    device: Device = arg(
        AUTO,
        "Where it runs; auto takes the accelerator when there is one.",
        when="cpu to keep a GPU free.",
        usual="auto",
    )
    checkpointing: bool | Auto = arg(
        AUTO,
        "Computes activations again instead of keeping them: about a third slower, much less memory.",
        when="On when memory runs out.",
        usual="auto: on for models above 1 B parameters",
        to="trainer.activation_checkpointing",
        label="Activation checkpointing",
    )
