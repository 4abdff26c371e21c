"""What a training run needs of a device's memory at its peak, part by part, by arithmetic alone.

Each part has its source beside it. Where several processes share a model, it is what one of them holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from data.planning import activations, optimisers
from data.planning.shape import Subject
from data.planning.widths import BYTES, INT8, NF4, NF4_DOUBLE, PROGRAM
from engine.contract.args import TrainArgs
from engine.contract.methods import Expand

# What allocators and kernels keep besides: bytes in any case, and a share of what comes and goes in a step. On a
# processor glibc holds on to freed blocks and oneDNN to weights as its kernels want them (tests/bench/MEASUREMENTS.md
# says what was measured); torch's allocator on a GPU rounds up and splits, which was not.
RESERVE = {"cpu": (200_000_000, 0.25)}
RESERVED = (0, 0.08)


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak, by part, in the order in which they are drawn; `host`: what was moved to main memory."""

    parts: Mapping[str, int] = field(default_factory=dict)
    host: int = 0

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def memory(subject: Subject, args: TrainArgs, *, longest: int, device: str = "cpu", beside: int = 0) -> Memory:
    """A sum of parts. longest: tokens of the longest row, after the cut. beside: bytes of further models, such as one
    that gives rewards."""
    launch, whole = args.launch, not args.method.adapter
    trained = subject.trained(args.method, args.vision)
    processes, strategy = launch.everywhere, launch.strategy
    # ZeRO (Rajbhandari et al., 2020): stage 2 divides gradients and optimiser state among the processes, stage 3 and
    # FSDP the weights too, of which each then needs those of one layer, and of the next one that is fetched, whole.
    divided, all_divided = strategy in ("fsdp", "zero2", "zero3"), strategy in ("fsdp", "zero3")
    host = 0

    def held(octets: float, shared: bool, away: bool = False) -> int:
        nonlocal host
        share = math.ceil(octets / processes) if shared else math.ceil(octets)
        host += share if away else 0
        return 0 if away else share

    away = launch.offload and divided
    frozen = frozen_bytes(subject, args, trained)
    state, gradients = learning(subject, args, trained)
    table = housed(subject, args)
    host += table
    weights = held(frozen - table, all_divided, away and all_divided)
    gathered = 2 * subject.layer * BYTES[args.model.dtype] if all_divided and processes > 1 else 0
    shared = Step.of(subject, args, longest, device)
    dynamic = shared.activations + shared.logits + shared.answers + gathered
    always, share = RESERVE.get(device, RESERVED)
    parts = {
        "weights": weights + gathered,
        # Trained weights are held in fp32; 16-bit arithmetic keeps a 16-bit copy of them through the step.
        "trained weights": held(4 * trained, all_divided, away and all_divided)
        + held(trained * BYTES[args.model.dtype] if BYTES[args.model.dtype] < 4 else 0, all_divided),
        "gradients": held(min(gradients, 4 * trained), divided, away),
        "optimiser": held(state, divided, away),
        "other models": reference(trained, args, whole) + beside + heads(subject, args),
        "activations": shared.activations,
        "logits": shared.logits,
        "answers": shared.answers,
        "reserve": math.ceil(always + share * dynamic),
        "program": PROGRAM,
    }
    return Memory(parts, host + shared.host)


def learning(subject: Subject, args: TrainArgs, trained: int) -> tuple[float, int]:
    """Bytes of the optimiser's state, and of the gradients that are there at once."""
    name, own = args.optim.optimiser, args.optim.own
    if optimisers.by_block(name):
        block = min(subject.block, trained)
        return block * optimisers.state(name, own), 4 * block
    tables, output = subject.ends(args.method)
    wide = tables + (output if name == "muon" else 0)  # which takes matrices between the two ends
    state = (trained - wide) * optimisers.state(name, own) + wide * optimisers.table(name, own)
    return state, 4 * trained if optimisers.keeps_gradients(name) else 4 * subject.layer


def frozen_bytes(subject: Subject, args: TrainArgs, trained: int) -> float:
    """Bytes of the weights that stay as they are. Quantisation takes linear layers; embeddings, norms, the output layer
    and experts stay in the precision of the arithmetic."""
    width = BYTES[args.model.dtype]
    if subject.quantised:
        return float(subject.size)
    added = args.method.adapter or isinstance(args.method, Expand)
    frozen = subject.parameters - (0 if added else trained)
    packed = per_weight(args)
    if packed is None or not args.method.adapter:
        return frozen * width
    return subject.packed * packed + (frozen - subject.packed) * width


def housed(subject: Subject, args: TrainArgs) -> int:
    """Bytes of the table of embeddings, where it lies in main memory (engine/training/offload.py)."""
    shape, method = subject.shape, args.method
    trained = any("embed" in name for name in (*getattr(method, "extra_modules", ()), *getattr(method, "targets", ())))
    if (
        not (args.compute.offload and method.adapter)
        or shape.tied
        or subject.words
        or trained
        or args.launch.shares_weights
    ):
        return 0
    return shape.vocabulary * shape.hidden * BYTES[args.model.dtype]


def wide_head(subject: Subject) -> int:
    """Parameters of a head that says a number for each token there is (engine/feedback/heads.py, `deep`)."""
    width, words = subject.shape.hidden, subject.shape.vocabulary
    return width * (width + 1) + words * (width + 1)


def heads(subject: Subject, args: TrainArgs) -> int:
    """Bytes of the heads beside the model: weights, gradients and moments in fp32, and the weights of slow copies."""
    wide, width = args.task.wide_heads, subject.shape.hidden
    state = 4 + 4 + optimisers.state(args.optim.optimiser)
    return math.ceil(wide * (state + 4) * wide_head(subject) + state * width * (width + 1)) if wide else 0


def per_weight(args: TrainArgs) -> float | None:
    """Bytes of a quantised weight; None where nothing is quantised."""
    kind = getattr(args.model, "quantisation", "none")
    if kind in ("nf4", "fp4"):
        return NF4_DOUBLE if getattr(args.model, "double_quantisation", False) else NF4
    return None if kind == "none" else INT8


def reference(trained: int, args: TrainArgs, whole: bool) -> int:
    """Bytes of the frozen copy that a task compares with: the base with its adapter off costs nothing; where weights
    themselves move, those that do are kept as they were, in fp32. A model of its own, or what it said of each row
    before the training, takes that copy's place."""
    task = args.task
    another = getattr(task, "reference_model", "") or getattr(task, "precompute_reference", False)
    return 4 * trained if task.reference and whole and not another else 0


@dataclass(frozen=True)
class Step:
    """What comes and goes while rows are worked on, in bytes."""

    activations: int
    logits: int
    answers: int = 0
    host: int = 0

    @classmethod
    def of(cls, subject: Subject, args: TrainArgs, longest: int, device: str) -> Step:
        rows, split = rows_at_once(args), _split(args)
        tokens = math.ceil(rows * longest / split)
        found = activations.kept(
            subject.shape, args, rows=rows, tokens=tokens, longest=longest, layers=subject.depth, device=device
        )
        logits = activations.logits(subject.shape, args, tokens=tokens, device=device)
        answers = generation(subject, args, longest)
        # Answers are written before they are learnt from: the peak is where more is needed.
        return cls(found.device, logits, max(0, answers - found.device - logits), found.host)


def rows_at_once(args: TrainArgs) -> int:
    """Conversations that go through the model together: a pair is two."""
    pairs = args.task.takes[:1] == ("preference",)
    return args.steps.batch_size * (2 if pairs else 1)


def generation(subject: Subject, args: TrainArgs, longest: int) -> int:
    """Bytes of the keys and values of all tokens while answers are written: two for each layer and token."""
    if not args.task.generates:
        return 0
    rows = args.steps.batch_size * (args.steps.accumulation if isinstance(args.steps.accumulation, int) else 1)
    return 2 * subject.shape.layers * subject.shape.values * rows * longest * BYTES[args.model.dtype]


def _split(args: TrainArgs) -> int:
    """Processes among which the tokens of each row are divided."""
    return args.launch.context_parallel * args.launch.sequence_parallel
