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


def resolved(args: TrainArgs, facts: Facts) -> TrainArgs:
    """`args` with every `auto` that can be decided from `facts` replaced by its value; the worker decides the rest.

    `attention`, `template`, `device`, the limits of pictures and the number of `workers` stay, and the precision of an
    accelerator: what is installed, what the model ships, how many rows there are and what the device can do is known
    to the worker alone.
    """
    steps = args.steps
    accumulation = accumulation_of(args)
    total = total_steps(args, facts)
    content: dict[str, Any] = args.model_dump()
    put = {
        ("model", "dtype"): ("bf16" if facts.machine.bf16 else "fp32") if facts.machine.device == "cpu" else AUTO,
        ("method", "alpha"): 2.0 * getattr(args.method, "rank", 0),
        ("optim", "learning_rate"): learning_rate(args, facts.parameters),
        ("steps", "accumulation"): accumulation,
        ("steps", "global_batch"): steps.batch_size * accumulation * args.launch.replicas,
        ("record", "evaluate_every"): max(1, math.ceil(total / 10)) if total else AUTO,
        ("record", "save_every"): max(1, math.ceil(total / 4)) if total else AUTO,
        ("compute", "checkpointing"): _checkpointing(args, facts),
        ("launch", "processes"): args.launch.here,
    }
    for (section, name), value in put.items():
        if content[section].get(name) == AUTO:
            content[section][name] = value
    return TrainArgs.model_validate(content)


def _checkpointing(args: TrainArgs, facts: Facts) -> bool | Auto:
    """On for large models. Never with prefix tuning, whose keys would be computed twice over."""
    if args.method.kind == "prefix":
        return False
    return facts.parameters > CHECKPOINT_ABOVE if facts.parameters else AUTO


def accumulation_of(args: TrainArgs) -> int:
    """Batches per optimiser step."""
    steps = args.steps
    if steps.accumulation != AUTO:
        return int(steps.accumulation)
    at_once = steps.batch_size * args.launch.replicas
    if steps.global_batch != AUTO:
        return max(1, int(steps.global_batch) // at_once)
    whole: int = math.lcm(at_once, args.task.together) // at_once  # as many as hold whole groups
    return math.ceil(max(1, int(args.task.step_rows) // at_once) / whole) * whole


def total_steps(args: TrainArgs, facts: Facts) -> int:
    """Optimiser steps of the whole run; 0 while the rows are unknown. As transformers' Trainer counts them."""
    if args.steps.max_steps:
        return args.steps.max_steps
    at_once, accumulation = args.steps.batch_size * args.launch.replicas, accumulation_of(args)
    if args.task.together > 1:  # a step takes so many rows, and writes a group of answers to each
        asked = max(1, at_once * accumulation // args.task.together)
        per_epoch = int(args.task.again) * (max(1, facts.rows // asked) if facts.rows else 0)
    else:
        per_epoch = math.ceil(math.ceil(facts.rows / at_once) / accumulation)
    return math.ceil(args.steps.epochs * per_epoch)


def learning_rate(args: TrainArgs, parameters: int) -> float | Auto:
    """A peak rate that works: higher for adapters than for the weights themselves, and lower for larger models."""
    if not parameters:
        return AUTO
    small = parameters < 1_000_000_000
    adapter = args.method.adapter
    # Few numbers that start far from where they must go: a rate for weights would not get them there.
    far = {"prompt": 20.0, "prefix": 20.0, "ia3": 10.0}.get(args.method.kind, 1.0)
    if getattr(args.task, "start", "") == "scratch":  # nothing is known yet that a large step could spoil
        return 1e-3 if small else 3e-4
    if args.task.gentle:
        return (5e-5 if small else 2e-5) * far if adapter else (1e-5 if small else 1e-6)
    return (5e-4 if small else 2e-4) * far if adapter else (1e-4 if small else 1e-5)
