"""The same training for less time and memory: each means where the model allows it, and the reason where it does not.

Rows without padding (`apart.py`), a loss without logits of tokens that are not trained (`likelihood.py`), adapters in
one step of arithmetic (`lowrank.py`), and layers that leave less in memory (`pieces.py`). Knows no task: a task says
by `lean` that its batches are plain rows.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine.contract.args import TrainArgs
from engine.contract.errors import ArgsError, Problem
from engine.training import apart, likelihood, lowrank, offload, pieces
from engine.tuning.methods import decoder_layers

TRIM, MAPPED = -1, -3  # glibc's names for them: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
KEPT = 2**30  # bytes


@dataclass(frozen=True)
class Lean:
    """apart: rows come without padding.   chunked: the loss is taken from the states before the output layer."""

    apart: bool = False
    chunked: bool = False


def made(model: Any, args: TrainArgs, *, rows: bool, say: Callable[[str], None]) -> Lean:
    """Change `model` as its arguments allow, and say how. rows: whether batches are plain rows of tokens.

    ArgsError when something is demanded that this model cannot do.
    """
    if not args.launch.shares_weights:
        lowrank.fuse(model)
        if args.compute.offload:
            if args.method.adapter:  # what is saved whole is saved with its table
                offload.housed(model)
            if args.compute.checkpointing is True:
                pieces.in_pieces(model)
        if next(model.parameters()).device.type != "cpu":
            pieces.fused_norms(model)
    found = _means(model, args, rows=rows, say=say)
    if args.compute.compile:  # last: what the model is asked before would be compiled for nothing, which takes minutes
        for layer in decoder_layers(model):
            layer.compile(dynamic=True)
    return found


def _means(model: Any, args: TrainArgs, *, rows: bool, say: Callable[[str], None]) -> Lean:
    if not rows or args.compute.loss == "liger":
        return Lean()
    compute, problems = args.compute, list[Problem]()
    whole = padded = "it is not wanted"
    if compute.loss != "plain":
        whole = "its weights are shared out" if args.launch.shares_weights else likelihood.chunks(model)
        if whole and compute.loss == "chunked":
            problems.append(Problem("compute.loss", f"This model cannot: {whole}. Set it to auto."))
    if compute.padding_free is not False:
        padded = _why_padded(model, args) or apart.settled(model)
        if padded and compute.padding_free is True:
            problems.append(Problem("compute.padding_free", f"This model cannot: {padded}. Set it to auto."))
        elif padded:
            say(f"Rows are padded to the longest of their batch: {padded}.")
    if problems:
        raise ArgsError(problems)
    return Lean(apart=not padded, chunked=not whole)


def keep_freed_memory() -> None:
    """Have the C library keep freed memory for the next step, instead of giving it back and asking for it anew.

    On a processor a tenth of the time of a step goes by so. Other C libraries than glibc are left as they are.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(MAPPED, KEPT)
        library.mallopt(TRIM, KEPT)


def _why_padded(model: Any, args: TrainArgs) -> str:
    if args.launch.context_parallel > 1:
        return "rows are split over devices"
    if getattr(args.task, "neftune", None):
        return "the noise on their embeddings (task.neftune) goes by the length of a row"
    config = getattr(model, "active_peft_config", None)
    if config is not None and config.is_prompt_learning:
        return "what is trained stands before every row"
    return ""
