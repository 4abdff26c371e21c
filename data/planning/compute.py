"""How much a run has to compute and how long that takes: steps, tokens, operations, seconds.

Pure arithmetic on what is known of model, rows and machine. Nothing is measured here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from data.planning.activations import checkpointed, deep
from data.planning.memory import rows_at_once
from data.planning.shape import Subject
from engine.contract.args import TrainArgs

Basis = Literal["measured", "earlier", "rate"]
# Of the rate at which a processor multiplies large matrices, what training comes to: the rest goes to memory, small
# kernels and waiting.
UTILISATION = 0.3


@dataclass(frozen=True)
class Work:
    """tokens: that are trained on in all, padding left out.   operations: floating-point, in all.   seconds: None while
    nothing tells.   basis: what the time was told by."""

    steps: int
    tokens: float
    operations: float
    seconds: float | None = None
    basis: Basis | None = None


def per_token(subject: Subject, args: TrainArgs, length: float) -> float:
    """Floating-point operations for each token of rows of `length` tokens.

    A matrix of N weights takes 2N in the forward pass, 2N for the gradient of its input and 2N for its own (Kaplan et
    al., 2020, section 2.1): 6N where all are trained, 4N where they are frozen and an adapter's gradient goes through
    them. Attention adds 4 x queries x length a layer forward and twice that backward (Chowdhery et al., 2022, appendix
    B), of which causal rows need half. Checkpointing computes the layers' forward pass again.
    """
    shape, moved = subject.shape, args.method
    depth = subject.depth
    head = shape.vocabulary * shape.hidden
    layers = max(0, subject.working - head)
    attention = 2 * shape.queries * length * depth
    back = deep(shape, args, depth) / depth  # below the lowest layer that is trained no gradient goes
    trained = subject.trained(moved)
    moving = min(trained, subject.working)
    forward = 2 * (layers + head) + attention
    backward = back * (2 * layers + 2 * attention) + 2 * head + 2 * moving
    again = 2 * layers + attention if checkpointed(args) else 0
    added = 2 * trained * 2 if moved.adapter else 0  # an adapter's own matrices, forward and their inputs' gradient
    compared = forward if args.task.reference else 0
    return forward + backward + again + added + compared


def work(
    subject: Subject, args: TrainArgs, *, steps: int, tokens: float, length: float,
    measured: float = 0.0, earlier: float = 0.0, rate: float = 0.0,
) -> Work:  # fmt: skip
    """steps, tokens: of the whole run.   length: the mean of the rows, in tokens.   measured: tokens a second of two
    steps with these arguments.   earlier: of an earlier run like this.   rate: operations a second of a matrix product
    here. Each is 0 where it is not known, and the first that is known tells the time."""
    operations = per_token(subject, args, length) * tokens * (2 if args.task.generates else 1)
    known: tuple[tuple[Basis, float], ...] = (
        ("measured", measured and tokens / measured),
        ("earlier", earlier and tokens / earlier),
        ("rate", rate and operations / (rate * UTILISATION)),
    )
    basis, seconds = next(((name, said) for name, said in known if said), (None, None))
    return Work(steps, tokens, operations, seconds, basis)


def step_tokens(args: TrainArgs, length: float) -> float:
    """Tokens of one step where each row has `length`."""
    rows = rows_at_once(args) * (args.steps.accumulation if isinstance(args.steps.accumulation, int) else 1)
    return rows * length
