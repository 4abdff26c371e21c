"""What a training run will take, before it starts: trained parameters exactly, memory as a first estimate.

Arithmetic on tensor shapes and lengths alone: nothing is loaded and nothing is measured here. The parameters are those
of the model's own files. The memory is a sum of parts, each with its source, and a lower bound: what allocators keep,
what evaluation and saving take, is not in it. On a CPU in bf16 a run of SmolLM2-135M peaked at twice the sum.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.models import Card
from engine.contract.adapters import Lora
from engine.contract.args import TrainArgs
from engine.contract.methods import Freeze

Shapes = Mapping[str, tuple[int, ...]]

LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|layer)\.(\d+)\.")
EMBEDDING = re.compile(r"(?:^|\.)(?:\w*embed\w*|wte|wpe)\.weight$")
OUTPUT = re.compile(r"(?:^|\.)(?:lm_head|embed_out)\.weight$")

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "auto": 2}
# What the process holds before any weight: 585 MB after importing torch, transformers, TRL and PEFT, measured on Linux;
# on a GPU the driver's context is of that size.
PROGRAM = 600_000_000
# Bytes that an optimiser keeps for each trained parameter, in fp32: two moments; two vectors a matrix; none.
OPTIMISER = {"adamw_torch": 8.0, "adamw_torch_fused": 8.0, "adafactor": 0.1, "sgd": 0.0}


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


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak, by part."""

    weights: int
    trained: int
    optimiser: int
    activations: int
    program: int = PROGRAM

    @property
    def total(self) -> int:
        return self.weights + self.trained + self.optimiser + self.activations + self.program

    @property
    def parts(self) -> dict[str, int]:
        """Label -> bytes, in the order in which they are drawn."""
        return {
            "weights": self.weights,
            "trained weights and gradients": self.trained,
            "optimiser": self.optimiser,
            "activations": self.activations,
            "program": self.program,
        }


def memory(card: Card, args: TrainArgs, *, longest: int) -> Memory:
    """A first estimate of the peak on the device that trains; `longest` is the longest row in tokens, after the cut.

    Frozen weights lie in the arithmetic's precision. Trained ones are held in fp32, with a gradient of the same size;
    where the arithmetic is 16-bit, autocast keeps a 16-bit copy of them through the step.
    """
    width = BYTES[args.model.dtype]
    trained = trained_parameters(card.shapes, args.method, tied=bool(card.config.get("tie_word_embeddings")))
    frozen = card.parameters if isinstance(args.method, Lora) else card.parameters - trained
    copy = width if width < 4 else 0
    return Memory(
        weights=frozen * width,
        trained=trained * (4 + 4 + copy),
        optimiser=round(trained * OPTIMISER[args.optim.optimiser]),
        activations=activations(card.config, args, longest=longest, layers=layer_count(card.shapes)),
    )


def activations(config: Mapping[str, Any], args: TrainArgs, *, longest: int, layers: int) -> int:
    """Bytes that the forward pass keeps for the backward pass, at the last layer and the loss.

    Counted as Korthikanti et al. (2022, "Reducing Activation Recomputation in Large Transformer Models") do, tensor by
    tensor, for a gated feed-forward and without the matrix of scores, which fused attention never writes. With
    checkpointing only the input of each layer is kept, and one layer's tensors at a time. The logits exist once in the
    arithmetic's precision, and in fp32 for the loss and for its gradient.
    """
    text = config.get("text_config") or config
    hidden = int(text.get("hidden_size") or text.get("n_embd") or 0)
    inner = int(text.get("intermediate_size") or text.get("n_inner") or 4 * hidden)
    heads = int(text.get("num_attention_heads") or text.get("n_head") or 1)
    keys = int(text.get("num_key_value_heads") or heads) * int(text.get("head_dim") or hidden // heads)
    width = BYTES[args.model.dtype]
    tokens = args.steps.batch_size * longest
    # Norms: two inputs in fp32 and two outputs. Attention: q, k, v, the mix and its sum. Feed-forward: gate, up, the
    # activated gate, their product.
    layer = tokens * (2 * hidden * 4 + (2 * hidden + 2 * hidden + 2 * keys + hidden + 4 * inner) * width)
    if args.model.attention == "eager":
        layer += 2 * args.steps.batch_size * heads * longest * longest * width
    if isinstance(args.method, Lora):
        layer += tokens * 7 * args.method.rank * width
    kept = layers * tokens * hidden * width + layer if args.compute.checkpointing is True else layers * layer
    if isinstance(args.method, Freeze) and args.compute.checkpointing is not True:
        # Nothing is kept below the first layer that is trained.
        kept = min(args.method.layers, layers) * layer
    vocabulary = int(text.get("vocab_size") or 0)
    return kept + tokens * vocabulary * (width + 4 + 4)
