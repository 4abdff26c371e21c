"""What cannot be combined: one table, read by form, check and engine alike.

`RULES` are about the arguments alone; `NEEDS` are about the arguments on a machine: its device and the packages that it
has. Each rule says in a sentence which fields do not go together and what to do. To add one is to add a line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

from engine.contract.errors import Problem
from engine.contract.fields import AUTO
from engine.contract.machine import machine

if TYPE_CHECKING:
    from engine.contract.args import TrainArgs


class Rule(NamedTuple):
    """`broken(args)` tells whether `args` break it; `text` is formatted with `args`, and is shown at `path`."""

    path: str
    broken: Callable[[TrainArgs], bool]
    text: str


@dataclass(frozen=True)
class Here:
    """A machine as far as the rules look at it. device: `cpu`, `cuda`, `mps`, `npu` or `xpu`."""

    device: str

    @classmethod
    def of(cls, wanted: str) -> Here:
        return cls(machine().device if wanted == AUTO else wanted)

    def lacks(self, package: str) -> bool:
        return not _installed(package)


class Need(NamedTuple):
    """A rule that holds on some machines only; `text` is formatted with `args` and `here`."""

    path: str
    broken: Callable[[TrainArgs, Here], bool]
    text: str


@cache
def _installed(package: str) -> bool:
    return find_spec(package) is not None


def _divides(args: TrainArgs) -> bool:
    return args.steps.global_batch == AUTO or int(args.steps.global_batch) % args.steps.batch_size == 0


def _adds_up(args: TrainArgs) -> bool:
    steps = args.steps
    given = steps.global_batch != AUTO and steps.accumulation != AUTO
    return not given or int(steps.global_batch) == steps.batch_size * int(steps.accumulation)


def _more_least_than_most(args: TrainArgs) -> bool:
    least, most = args.vision.min_pixels, args.vision.max_pixels
    return isinstance(least, int) and isinstance(most, int) and least > most


RULES: tuple[Rule, ...] = (
    # Steps
    Rule("steps.global_batch", lambda args: not _divides(args),
         "{args.steps.global_batch} cannot be made of batches of {args.steps.batch_size} (steps.batch_size). "
         "Make it a multiple."),
    Rule("steps.global_batch", lambda args: _divides(args) and not _adds_up(args),
         "{args.steps.global_batch} is not {args.steps.batch_size} (steps.batch_size) x {args.steps.accumulation} "
         "(steps.accumulation). Leave one of accumulation and global batch on auto."),
    Rule("resume.run", lambda args: bool(args.resume.checkpoint and not args.resume.run),
         "resume.checkpoint is set, but no run that it belongs to. Set resume.run too."),
    # Optimiser
    Rule("optim.warmup", lambda args: args.optim.warmup > 1 and args.optim.warmup != int(args.optim.warmup),
         "{args.optim.warmup} is neither a share (below 1) nor a whole number of steps."),
    # Rows
    Rule("data.packing", lambda args: args.data.packing and args.task.kind not in ("sft", "pretrain"),
         "Packing is for sft and pretrain (task.kind), not for {args.task.kind}. Turn it off."),
    # Reinforcement
    Rule("method.dropout", lambda args: args.task.steady and getattr(args.method, "dropout", 0.0) > 0,
         "{args.method.dropout} would blur what {args.task.title} compares: how likely an answer is now, and was when "
         "it was written. Set it to 0, or choose another task (task.kind)."),
    # Pictures
    Rule("vision.language", lambda args: not (args.vision.language or args.vision.projector or args.vision.tower),
         "Nothing would be trained: leave on the language part, projector or tower."),
    Rule("vision.min_pixels", _more_least_than_most,
         "{args.vision.min_pixels} is more than vision.max_pixels ({args.vision.max_pixels}). Lower it."),
)  # fmt: skip

NEEDS: tuple[Need, ...] = (
    Need("model.attention", lambda args, here: args.model.attention == "flash_attention_2" and here.device == "cpu",
         "Flash attention needs a GPU. Set model.attention to auto."),
    Need("model.attention",
         lambda args, here: args.model.attention == "flash_attention_2" and here.device != "cpu"
         and here.lacks("flash_attn"),
         "Flash attention needs a package that is not installed. Set model.attention to auto, or: "
         "pip install flash-attn"),
    Need("model.dtype", lambda args, here: args.model.dtype == "fp16" and here.device == "cpu",
         "fp16 training needs a GPU. Set model.dtype to auto, bf16 or fp32."),
)  # fmt: skip


def broken(args: TrainArgs) -> Iterator[Problem]:
    """Every rule that `args` break, on any machine."""
    for rule in RULES:
        if rule.broken(args):
            yield Problem(rule.path, rule.text.format(args=args))


def unmet(args: TrainArgs, here: Here) -> Iterator[Problem]:
    """Everything that `args` need and that is not `here`."""
    for need in NEEDS:
        if need.broken(args, here):
            yield Problem(need.path, need.text.format(args=args, here=here))
