"""Which weights a method trains, and how many those are, from the shapes in the model's own files.

Nothing is loaded. What that takes of memory and time is counted in `data/planning/`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from engine.contract.adapters import Lora
from engine.contract.methods import Freeze

Shapes = Mapping[str, tuple[int, ...]]

LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|layer)\.(\d+)\.")
EMBEDDING = re.compile(r"(?:^|\.)(?:\w*embed\w*|wte|wpe)\.weight$")
OUTPUT = re.compile(r"(?:^|\.)(?:lm_head|embed_out)\.weight$")


def linear(shapes: Shapes) -> dict[str, tuple[int, int]]:
    """Layer name -> (out, in) of every linear layer that an adapter can sit on: matrices, but no embedding and no
    output layer (as PEFT's `all-linear` has it)."""
    return {
        name.removesuffix(".weight"): (shape[0], shape[1])
        for name, shape in shapes.items()
        if len(shape) == 2 and name.endswith(".weight") and not EMBEDDING.search(name) and not OUTPUT.search(name)
    }


def targeted(shapes: Shapes, targets: Sequence[str]) -> dict[str, tuple[int, int]]:
    """The linear layers that `targets` name: all of them, or those whose name is or ends with a target."""
    layers = linear(shapes)
    if list(targets) == ["all-linear"]:
        return layers
    wanted = tuple(f".{target}" for target in targets)
    return {name: shape for name, shape in layers.items() if f".{name}".endswith(wanted)}


def unknown_targets(shapes: Shapes, targets: Sequence[str]) -> tuple[list[str], list[str]]:
    """The targets that no layer is called, and the names that layers do have."""
    layers = linear(shapes)
    unknown = [] if list(targets) == ["all-linear"] else [name for name in targets if not targeted(shapes, [name])]
    return unknown, sorted({name.rpartition(".")[2] for name in layers})


def layer_count(shapes: Shapes) -> int:
    """How many layers the model's stack has."""
    return max((int(found[1]) + 1 for name in shapes if (found := LAYER.search(name))), default=0)


def trained_parameters(shapes: Shapes, method: Any, *, tied: bool = False) -> int:
    """How many parameters the method trains.

    LoRA (Hu et al., 2021): rank x (in + out) a layer; DoRA (Liu et al., 2024) adds a magnitude for each output.
    Freeze: all of the last layers; with the head also the final norm and the output layer (tied: the embeddings).
    """
    if isinstance(method, Lora):
        layers = targeted(shapes, method.targets).values()
        return sum(method.rank * (out + into) + (out if method.dora else 0) for out, into in layers)
    if isinstance(method, Freeze):
        first = layer_count(shapes) - method.layers
        return sum(math.prod(shape) for name, shape in shapes.items() if _is_last(name, first, method.head, tied))
    return sum(math.prod(shape) for shape in shapes.values())


def _is_last(name: str, first: int, head: bool, tied: bool) -> bool:
    if found := LAYER.search(name):
        return int(found[1]) >= first
    if not head:
        return False
    return not EMBEDDING.search(name) or (tied and not re.search(r"(?:^|\.)(?:wpe|embed_positions)\.", name))
