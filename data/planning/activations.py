"""What a forward pass leaves in memory for the backward pass, counted tensor by tensor.

The counts are those of a decoder with norms, rotary positions and a gated feed-forward, as transformers writes it; they
were compared with the tensors that torch's autograd saves for SmolLM2 (tests/bench/MEASUREMENTS.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from data.planning.shape import Shape
from data.planning.widths import BYTES
from engine.contract.args import TrainArgs
from engine.contract.kernels import PIECE, logits_at_once
from engine.contract.methods import Freeze, Full

# The loss in chunks: bytes for each logit with all that its gradient is made of: in fp32, as that of its state, and in
# the precision of the arithmetic.
CHUNK_BYTES = 12
# With all logits at once: in fp32 for the loss, their log-softmax, and its gradient, beside those of the arithmetic.
PLAIN_BYTES = 12


def naive(shape: Shape, rows: int, length: int) -> tuple[int, int, int]:
    """Bytes of 16-bit activations, attention scores and logits where nothing is saved: the textbook's figure.

    24 b s h values a layer (norms 4, queries, keys, values and their mix 8, feed-forward 12; after Korthikanti et al.,
    2022, "Reducing Activation Recomputation in Large Transformer Models", section 4.1, without dropout), each of 2
    bytes; one matrix of scores of heads s² values a row and layer, of 2 bytes; and s x vocabulary logits of 2 bytes.
    """
    values = 24 * rows * length * shape.hidden * shape.layers
    scores = rows * shape.heads * length**2 * shape.layers
    return 2 * values, 2 * scores, 2 * rows * length * shape.vocabulary


def checkpoints(shape: Shape, rows: int, length: int, *, offloaded: bool) -> int:
    """Values that checkpointing keeps (Chen et al., 2016, "Training Deep Nets with Sublinear Memory Cost"): the input
    of each layer and of the head. Offloaded, only the one in use and the one on its way are on the device."""
    return rows * length * shape.hidden * (2 if offloaded else shape.layers + 1)


class Kept(NamedTuple):
    """Bytes on the device that trains, and in main memory."""

    device: int
    host: int = 0


@dataclass(frozen=True)
class Layer:
    """Bytes a token that one layer keeps."""

    norms: float
    inputs: float
    attention: float
    inner: float
    adapter: float

    @property
    def total(self) -> float:
        return self.norms + self.inputs + self.attention + self.inner + self.adapter


def layer(shape: Shape, args: TrainArgs, device: str = "cpu") -> Layer:
    """What autograd saves in one layer.

    Norms work in fp32 and keep their input, and what they multiply where they are trained. Linear layers that read the
    same share what they keep of it; in 16 bits each keeps a copy of its own (autocast), unless all that is trained is
    an adapter, whose arithmetic is one step (engine/training/lowrank.py). Attention keeps
    queries, keys, values and their mix, and a number a head. The feed-forward keeps gate, its activation, and up.
    Kernels of liger compute norms and the feed-forward's activation again (Hsu et al., 2024), and so does torch's own
    for frozen norms on an accelerator.
    """
    width, whole = BYTES[args.model.dtype], not args.method.adapter
    hidden, mixed, fused = shape.hidden, BYTES[args.model.dtype] < 4, _loss(args) == "liger"
    inner = shape.inner * shape.active
    once = fused or (not whole and device != "cpu")
    norms = 2 * hidden * width if once else 8 * hidden * (2 if whole else 1)
    copies = 5 if mixed and whole else 2
    inputs, into = (copies * hidden + shape.queries) * width, inner * width
    if not whole and not hasattr(args.method, "targets"):
        inputs = into = 0  # an adapter that stands beside the layers leaves these nothing to learn from
    mix = 0 if whole else shape.queries * width
    attention = (shape.queries + 2 * shape.values) * width + mix + 4 * shape.heads
    between = (2 if fused else 3 if shape.gated else 2) * inner * width + into
    rank = getattr(args.method, "rank", 0)
    return Layer(norms, inputs, attention, between, 7 * rank * width)


def kept(
    shape: Shape, args: TrainArgs, *, rows: int, tokens: int, longest: int, layers: int, device: str = "cpu"
) -> Kept:
    """Bytes of all layers. `tokens` go through this process at once, in `rows` rows of at most `longest`."""
    width, each = BYTES[args.model.dtype], layer(shape, args, device)
    # Where the feed-forward works on a piece at a time (engine/training/pieces.py), of the rest there is its input and
    # output.
    inside = min(tokens, PIECE) if checkpointed(args) and offloads(args) and shape.experts == 1 else tokens
    between = inside * each.inner + (2 * tokens * shape.hidden * width if inside < tokens else 0)
    one = round(tokens * (each.total - each.inner) + between) + scores(shape, args, rows, longest)
    passed = deep(shape, args, layers)
    if not checkpointed(args):
        if not offloads(args):
            return Kept(passed * one)
        return Kept(2 * one, max(0, passed - 2) * one)  # the layer that is worked on, and the one on its way
    # The stream between layers is as wide as its embeddings are held.
    stream = tokens * shape.hidden * (width if args.method.adapter or isinstance(args.method, Freeze) else 4)
    # While a layer is computed again its gradients come into being beside it.
    if offloads(args):
        return Kept(2 * stream + 2 * one, layers * stream)
    return Kept((layers + 1) * stream + 2 * one)


def deep(shape: Shape, args: TrainArgs, layers: int) -> int:
    """Layers that a gradient goes through: below the lowest that is trained nothing is kept."""
    method = args.method
    if not isinstance(method, Freeze) or method.which != "last" or method.embeddings or method.modules:
        return layers
    return layers if method.head and shape.tied else min(method.layers, layers)


def scores(shape: Shape, args: TrainArgs, rows: int, longest: int) -> int:
    """Bytes of the matrix of scores, which fused attention never writes (Dao et al., 2022): once in fp32 as softmax
    makes it, once in the precision of the arithmetic."""
    if args.model.attention != "eager":
        return 0
    width = BYTES[args.model.dtype]
    return rows * shape.heads * longest**2 * (4 + (width if width < 4 else 0))


def logits(shape: Shape, args: TrainArgs, *, tokens: int, device: str) -> int:
    """Bytes at the loss. In chunks a few logits are there at a time, beside the gradient of each token's state; and of
    the output layer, where it is trained, a copy in the precision of the arithmetic and its gradient in fp32. A model
    that scores has one number a token, which is next to nothing."""
    if args.task.head == "score":
        return 0
    width = BYTES[args.model.dtype]
    if _loss(args) == "plain":
        return tokens * shape.vocabulary * (width + PLAIN_BYTES)
    head = shape.vocabulary * shape.hidden * (4 + (width if width < 4 else 0)) if _moves_head(shape, args) else 0
    whole = tokens * shape.vocabulary
    return min(whole, logits_at_once(device, whole)) * CHUNK_BYTES + tokens * shape.hidden * width + head


def _moves_head(shape: Shape, args: TrainArgs) -> bool:
    method = args.method
    if isinstance(method, Freeze):
        return method.head or (method.embeddings and shape.tied)
    return isinstance(method, Full)


def checkpointed(args: TrainArgs) -> bool:
    return args.compute.checkpointing is True


def offloads(args: TrainArgs) -> bool:
    """Whether what a layer leaves is moved to main memory."""
    return args.compute.offload


def _loss(args: TrainArgs) -> Any:
    """How logits become a loss: `plain`, `chunked` or `liger`; auto is in chunks where the task's trainer can."""
    wanted = getattr(args.compute, "loss", "auto")
    if wanted != "auto":
        return wanted
    return "chunked" if args.task.lean else "plain"
