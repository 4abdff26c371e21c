"""What `auto` means: one function of task, method, model and device, for the form and for the worker alike."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from engine.contract.args import TrainArgs
from engine.contract.fields import AUTO, Auto
from engine.contract.machine import Machine

CHECKPOINT_ABOVE = 1_000_000_000


@dataclass(frozen=True)
class Facts:
    """What is known when `auto` is decided; parameters and rows are 0 while unknown."""

    machine: Machine
    parameters: int = 0
    rows: int = 0
    devices: int = 1


def resolved(args: TrainArgs, facts: Facts) -> TrainArgs:
    """`args` with every `auto` that can be decided from `facts` replaced by its value; the worker decides the rest.

    `attention`, `template`, `device`, the limits of pictures and the number of `workers` stay, and the precision of an
    accelerator: what is installed, what the model ships, how many rows there are and what the device can do is known
    to the worker alone.
    """
    steps = args.steps
    accumulation = accumulation_of(args, facts.devices)
    total = total_steps(args, facts)
    content: dict[str, Any] = args.model_dump()
    put = {
        ("model", "dtype"): ("bf16" if facts.machine.bf16 else "fp32") if facts.machine.device == "cpu" else AUTO,
        ("method", "alpha"): 2.0 * getattr(args.method, "rank", 0),
        ("optim", "learning_rate"): learning_rate(args, facts.parameters),
        ("steps", "accumulation"): accumulation,
        ("steps", "global_batch"): steps.batch_size * accumulation * facts.devices,
        ("record", "evaluate_every"): max(1, math.ceil(total / 10)) if total else AUTO,
        ("record", "save_every"): max(1, math.ceil(total / 4)) if total else AUTO,
        ("compute", "checkpointing"): facts.parameters > CHECKPOINT_ABOVE if facts.parameters else AUTO,
    }
    for (section, name), value in put.items():
        if content[section].get(name) == AUTO:
            content[section][name] = value
    return TrainArgs.model_validate(content)


def accumulation_of(args: TrainArgs, devices: int = 1) -> int:
    """Batches per optimiser step."""
    steps = args.steps
    if steps.accumulation != AUTO:
        return int(steps.accumulation)
    wanted = args.task.step_rows if steps.global_batch == AUTO else int(steps.global_batch)
    return max(1, wanted // (steps.batch_size * devices))


def total_steps(args: TrainArgs, facts: Facts) -> int:
    """Optimiser steps of the whole run; 0 while the rows are unknown. As transformers' Trainer counts them."""
    if args.steps.max_steps:
        return args.steps.max_steps
    batches = math.ceil(facts.rows / (args.steps.batch_size * facts.devices))
    per_epoch = math.ceil(batches / accumulation_of(args, facts.devices))
    return math.ceil(args.steps.epochs * per_epoch)


def learning_rate(args: TrainArgs, parameters: int) -> float | Auto:
    """A peak rate that works: higher for adapters than for the weights themselves, and lower for larger models."""
    if not parameters:
        return AUTO
    small = parameters < 1_000_000_000
    adapter = args.method.kind == "lora"
    if args.task.gentle:
        return (5e-5 if small else 2e-5) if adapter else (1e-5 if small else 1e-6)
    return (5e-4 if small else 2e-4) if adapter else (1e-4 if small else 1e-5)
