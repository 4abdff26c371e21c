"""How fast this processor multiplies matrices and reads memory: a guess at the time of a run where nothing like it was
done yet.

Some milliseconds, once a process. Of an accelerator it says nothing: that is only told by steps that were taken.
"""

from __future__ import annotations

import time
from functools import lru_cache

import numpy as np

from engine.contract.args import TrainArgs
from engine.contract.machine import machine

SIDE, TIMES = 512, 4
COPIED = 2**25  # bytes: more than a processor's caches hold
FASTER_IN_BF16 = 1.8  # where the processor has that arithmetic (measured: MEASUREMENTS.md)


def rate(args: TrainArgs) -> float:
    """Floating-point operations a second in the precision of `args`; 0 where the processor is not what trains."""
    here = machine()
    if here.device != "cpu" and args.compute.device != "cpu":
        return 0.0
    return _single() * (FASTER_IN_BF16 if here.bf16 and args.model.dtype == "bf16" else 1.0)


def reading(args: TrainArgs) -> float:
    """Bytes a second that are read from main memory; 0 where the processor is not what trains."""
    return _copied() if rate(args) else 0.0


@lru_cache(maxsize=1)
def _copied() -> float:
    here = np.ones(COPIED // 8)
    there, best = np.empty_like(here), float("inf")
    for _ in range(TIMES):
        began = time.perf_counter()
        np.copyto(there, here)
        best = min(best, time.perf_counter() - began)
    return COPIED / best


@lru_cache(maxsize=1)
def _single() -> float:
    """The best of a few: others may be at work."""
    matrix = np.ones((SIDE, SIDE), np.float32)
    best = float("inf")
    for _ in range(TIMES):
        began = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - began)
    return 2 * SIDE**3 / best
