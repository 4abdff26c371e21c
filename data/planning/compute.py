"""How much a run has to compute and how long that takes: steps, tokens, operations, seconds.

Pure arithmetic on what is known of model, rows and machine. Nothing is measured here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from data.planning.activations import checkpointed, deep
from data.planning.memory import frozen_bytes, rows_at_once, wide_head
from data.planning.shape import Subject
from engine.contract.args import TrainArgs

Basis = Literal["measured", "earlier", "rate"]
# Of the rate at which a processor multiplies large matrices, what training comes to: the rest goes to memory, small
# kernels and waiting.
UTILISATION = 0.3


@dataclass(frozen=True)
class Work:
    """tokens: that go through the model, padding left out, as the run counts them.   operations: floating-point, in
    all.   seconds: None while nothing tells.   basis: what the time was told by.   written: of the tokens, those that
    the model writes, where each answer is as long as it may be."""

    steps: int
    tokens: float
    operations: float
    seconds: float | None = None
    basis: Basis | None = None
    written: float = 0.0


@dataclass(frozen=True)
class Written:
    """Answers that the model writes in training.

    many: in all.   prompt: the mean of what they answer, in tokens.   longest: tokens of each, at most.   at_once: that
    are written together.   judge: operations a token of the models that judge them.
    """

    many: float
    prompt: float
    longest: float
    at_once: int
    judge: float = 0.0

    @property
    def length(self) -> float:
        return self.prompt + self.longest


class Pass(NamedTuple):
    """Floating-point operations for a token: in the layers, and at the output layer where its logits are wanted."""

    layers: float
    head: float

    def over(self, tokens: float, said: float) -> float:
        """Of `tokens`, of which `said` are asked for their logits."""
        return tokens * self.layers + said * self.head


def forward(subject: Subject, length: float) -> Pass:
    """A matrix of N weights takes 2N (Kaplan et al., 2020, section 2.1). Attention adds 4 x queries x length a layer
    (Chowdhery et al., 2022, appendix B), of which causal rows need half."""
    head = _head(subject)
    attention = 2 * subject.shape.queries * length * subject.depth
    return Pass(2 * max(0, subject.working - head) + attention, 2 * head)


def learning(subject: Subject, args: TrainArgs, length: float) -> Pass:
    """Forward and back: for a matrix of N weights 2N, 2N for the gradient of its input, and 2N for its own where it is
    trained (Kaplan et al., 2020): 6N where all are, 4N where they are frozen and an adapter's gradient goes through
    them. Attention takes twice as much back. Checkpointing computes the layers' forward pass again."""
    method, trained = args.method, subject.trained(args.method, args.vision)
    layers, head = forward(subject, length)
    back = deep(subject.shape, args, subject.depth) / subject.depth  # below the lowest trained layer goes no gradient
    weights = 2 * max(0, subject.working - _head(subject))
    attention = layers - weights
    backward = back * (weights + 2 * attention) + 2 * min(trained, subject.working)
    again = layers if checkpointed(args) else 0
    added = 2 * trained * 2 if method.adapter else 0  # an adapter's own matrices, forward and their inputs' gradient
    return Pass(layers + backward + again + added, 0 if args.task.head == "score" else 2 * head)


def per_token(subject: Subject, args: TrainArgs, length: float) -> float:
    """Floating-point operations for each token of rows of `length` tokens, and for what they are compared with."""
    asked = args.task.reference and not args.task.generates
    return sum(learning(subject, args, length)) + (sum(forward(subject, length)) if asked else 0)


def per_answer(subject: Subject, args: TrainArgs, answers: Written) -> float:
    """Floating-point operations for each answer that is written, judged and learnt from.

    To write it takes what one forward pass over prompt and answer takes, as keys and values are kept (Pope et al.,
    2022, section 2); then it is read `looks` times, by the model that wrote it and the one at its start, and learnt
    from `lessons` times, always with the prompt before it and logits at the answer alone (PPO: Schulman et al., 2017,
    algorithm 1; GRPO: Shao et al., 2024, algorithm 1).
    """
    whole, said, task = answers.length, answers.longest, args.task
    read = forward(subject, whole).over(whole, said)
    read += 2 * subject.trained(args.method, args.vision) * whole if args.method.adapter else 0
    learnt = learning(subject, args, whole).over(whole, said)
    return (1 + task.looks) * read + task.lessons * learnt + answers.judge * whole


def of_worth(subject: Subject, args: TrainArgs) -> float:
    """Floating-point operations for each trained token of the heads that say what tokens are worth: 6N for a head that
    learns, and 2N for the slow copy of each (Snell et al., 2022, section 4)."""
    wide, width = args.task.wide_heads, subject.shape.hidden
    return wide * (6 + 2) * wide_head(subject) + 6 * width * (width + 1) if wide else 0.0


def work(
    subject: Subject, args: TrainArgs, *, steps: int, tokens: float, length: float, trained: float = 0.0,
    answers: Written | None = None, measured: float = 0.0, earlier: float = 0.0, rate: float = 0.0,
    reading: float = 0.0,
) -> Work:  # fmt: skip
    """steps, tokens: of the whole run.   length: the mean of the rows, in tokens.   trained: of the tokens.   answers:
    what is written, from which then all tokens come.   measured: tokens a second of two steps with these arguments.
    earlier: of an earlier run like this.   rate: operations a second of a matrix product here.   reading: bytes a
    second that are read from memory here. Each is 0 where it is not known, and the first that is known tells the
    time."""
    if answers is None:
        operations = per_token(subject, args, length) * tokens + of_worth(subject, args) * trained
    else:
        tokens, operations = answers.many * answers.length, answers.many * per_answer(subject, args, answers)
    known: tuple[tuple[Basis, float], ...] = (
        ("measured", measured and tokens / measured),
        ("earlier", earlier and tokens / earlier),
        ("rate", rate and operations / (rate * UTILISATION) + _waiting(subject, args, answers, reading)),
    )
    basis, seconds = next(((name, said) for name, said in known if said), (None, None))
    return Work(steps, tokens, operations, seconds, basis, answers.many * answers.longest if answers else 0.0)


def _waiting(subject: Subject, args: TrainArgs, answers: Written | None, reading: float) -> float:
    """Seconds in which all weights are read from memory for each token that is written to the rows at once, which is
    what writing waits for (Pope et al., 2022, section 2)."""
    if answers is None or not reading:
        return 0.0
    weights = frozen_bytes(subject, args, trained=0)  # whether they move or not
    return answers.many / answers.at_once * answers.longest * weights / reading


def _head(subject: Subject) -> int:
    return subject.shape.vocabulary * subject.shape.hidden


def step_tokens(args: TrainArgs, length: float) -> float:
    """Tokens of one step where each row has `length`."""
    rows = rows_at_once(args) * (args.steps.accumulation if isinstance(args.steps.accumulation, int) else 1)
    return rows * length
