"""What arguments need of the machine that they run on: its device, and the packages that it has.

`NEEDS` is the other half of `rules.py`, whose rules hold everywhere; form, check and engine read both alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.contract.errors import Problem
from engine.contract.fields import AUTO
from engine.contract.machine import machine
from engine.contract.solvers import SOLVERS, Solver

if TYPE_CHECKING:
    from engine.contract.args import TrainArgs

FLASH = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_3"}  # and what must be importable


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
    """A rule that holds on some machines only; `text` and `short` are formatted with `args`, `here` and `solver`.

    short: the reason in a few words, to stand beside a choice before it is made.
    """

    path: str
    broken: Callable[[TrainArgs, Here], bool]
    text: str
    short: str = ""


@cache
def _installed(package: str) -> bool:
    return find_spec(package) is not None


def _solver(args: TrainArgs) -> Solver:
    return SOLVERS[args.optim.optimiser]


NEEDS: tuple[Need, ...] = (
    Need("launch.context_parallel", lambda args, here: args.launch.context_parallel > 1 and here.device == "cpu",
         "PyTorch has no attention on a CPU whose rows can be split. Set it to 1."),
    Need("launch.strategy", lambda args, here: args.launch.strategy in ("zero2", "zero3") and here.device == "cpu",
         "DeepSpeed ({args.launch.strategy}) shares work among accelerators, and this run is on a CPU. Set "
         "launch.strategy to ddp or fsdp.",
         "needs accelerators"),
    Need("launch.strategy",
         lambda args, here: args.launch.strategy in ("zero2", "zero3") and here.device != "cpu"
         and here.lacks("deepspeed"),
         "{args.launch.strategy} needs a package that is not installed. Set launch.strategy to fsdp, or: "
         "pip install deepspeed",
         "needs pip install deepspeed"),
    Need("optim.optimiser", lambda args, here: bool(_solver(args).package) and here.lacks(_solver(args).package),
         "{args.optim.optimiser} needs a package that is not installed. Choose adamw_torch, or: {solver.install}",
         "needs {solver.install}"),
    Need("optim.optimiser", lambda args, here: _solver(args).device not in ("", here.device),
         "{args.optim.optimiser} is for devices of another kind ({solver.device}). Choose adamw_torch.",
         "for {solver.device} only"),
    Need("compute.offload", lambda args, here: args.compute.offload and here.device == "cpu",
         "On a CPU activations lie in main memory already. Turn compute.offload off."),
    Need("compute.loss", lambda args, here: args.compute.loss == "liger" and here.device == "cpu",
         "liger's kernels need a GPU. Set compute.loss to auto, which takes the loss in chunks on any device.",
         "needs a GPU"),
    Need("model.attention",
         lambda args, here: args.model.attention in (*FLASH, "flex_attention") and here.device == "cpu",
         "{args.model.attention} computes no gradients on a CPU. Set model.attention to auto.",
         "needs a GPU"),
    Need("model.attention",
         lambda args, here: args.model.attention in FLASH and here.device != "cpu"
         and here.lacks(FLASH[args.model.attention]),
         "Flash attention needs a package that is not installed. Set model.attention to auto, or: "
         "pip install flash-attn",
         "needs pip install flash-attn"),
    Need("model.quantisation", lambda args, here: args.model.quantisation == "torchao_int8" and here.lacks("torchao"),
         "torchao_int8 needs a package that is not installed. Set model.quantisation to int8, or: "
         "pip install torchao~=0.18.0",
         "needs pip install torchao~=0.18.0"),
    Need("model.quantisation",
         lambda args, here: args.model.quantisation in ("int8", "nf4", "fp4") and here.lacks("bitsandbytes"),
         "{args.model.quantisation} needs a package that is not installed: pip install bitsandbytes",
         "needs pip install bitsandbytes"),
    Need("model.dtype", lambda args, here: args.model.dtype == "fp16" and here.device == "cpu",
         "fp16 training needs a GPU. Set model.dtype to auto, bf16 or fp32.",
         "needs a GPU"),
)  # fmt: skip


def unmet(args: TrainArgs, here: Here) -> Iterator[Problem]:
    """Everything that `args` need and that is not `here`."""
    for need in NEEDS:
        if need.broken(args, here):
            yield Problem(need.path, need.text.format(args=args, here=here, solver=_solver(args)))


def lacking(args: TrainArgs, path: str, value: Any, here: Here) -> str:
    """Why `args` could not have `value` at `path` (`section.name`) here, in a few words; empty where they could."""
    needs = [need for need in NEEDS if need.path == path]
    if not needs:
        return ""
    section, _, name = path.rpartition(".")
    # Unchecked: what else the choice goes with is not asked.
    tried = args.model_copy(update={section: getattr(args, section).model_copy(update={name: value})})
    short = next((need.short for need in needs if need.broken(tried, here)), "")
    return short.format(args=tried, here=here, solver=_solver(tried))
