"""How many numbers each adapter trains, from the shapes of the layers that it sits on; as PEFT builds them.

A test asks PEFT for every one of them. Knows no model: which layers those are, `data.planning.forecast` says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from engine.contract import own
from engine.contract.adapters import Lora, Oft, Tuner
from engine.contract.tuners import TUNERS

Layer = tuple[int, int]  # (out, in)
Size = Mapping[str, Any]


def lora(method: Lora, layers: Iterable[Layer]) -> int:
    """rank x (in + out) a layer (Hu et al., 2021); DoRA adds a magnitude for each output (Liu et al., 2024).

    PiSSA and OLoRA hold their start beside what moves: twice the rank. So does a new adapter on another, of whose rank
    nothing is known here: it is taken for the same.
    """
    rank = 2 * method.rank if method.keeps_frozen else method.rank
    return sum(rank * (out + into) + (out if method.dora else 0) for out, into in layers)


def oft(method: Oft, layers: Iterable[Layer]) -> int:
    """b (b - 1) / 2 for each block of b inputs (Qiu et al., 2023), b the divisor nearest to what was asked for."""
    total = 0
    for _, into in layers:
        size = _divisor(into, method.block_size)
        total += size * (size - 1) // 2 * (1 if method.shared else into // size)
    return total


def tuner(method: Tuner, layers: list[Layer], norms: int) -> int:
    """norms: numbers in the model's norms."""
    kind = TUNERS[method.tuner]
    if kind.norms:
        return norms
    size = own.values(method.own, kind.own)
    if method.tuner in SHARED:
        return SHARED[method.tuner](size, layers)
    return sum(BY_LAYER[method.tuner](size, out, into) for out, into in layers)


def _divisor(number: int, wanted: int) -> int:
    """The divisor of `number` nearest to `wanted`, the smaller of two as near, as PEFT takes it."""
    found = [size for size in range(1, number + 1) if number % size == 0]
    return min(found, key=lambda size: (abs(size - wanted), size))


def _low_rank(size: Size, out: int, into: int) -> int:
    return int(size["r"]) * (out + into)


def _randlora(size: Size, out: int, into: int) -> int:
    small = min(out, into)
    return math.ceil(small / size["r"]) * (size["r"] + small)


def _lokr(size: Size, out: int, into: int) -> int:
    rank, factor = size["r"], size["decompose_factor"]
    (a, b), (c, d) = _split(out, factor), _split(into, factor)
    first = rank * (a + c) if size["decompose_both"] and rank < max(a, c) / 2 else a * c
    return first + (rank * (b + d) if rank < max(b, d) / 2 else b * d)


def _split(number: int, factor: int) -> tuple[int, int]:
    """`number` as a product: with `factor` where it divides, else as near to a square as the factor lets it be."""
    if factor > 0 and number % factor == 0:
        return factor, number // factor
    most = math.isqrt(number) if factor == -1 else min(math.isqrt(number), factor)
    small = next(size for size in range(most, 0, -1) if number % size == 0)
    return small, number // small


def _vblora(size: Size, layers: list[Layer]) -> int:
    pieces = sum(size["r"] * (out + into) // size["vector_length"] for out, into in layers)
    return int(size["num_vectors"] * (size["vector_length"] + pieces))


BY_LAYER: dict[str, Callable[[Size, int, int], int]] = {
    "vera": lambda size, out, into: size["r"] + out,
    "adalora": lambda size, out, into: size["init_r"] * (out + into + 1),
    "boft": lambda size, out, into: into * size["boft_block_size"] + out,
    "c3a": lambda size, out, into: out * into // size["block_size"],
    "deft": _low_rank,
    "delora": lambda size, out, into: _low_rank(size, out, into) + 1,
    "fourierft": lambda size, out, into: size["n_frequency"],
    "glora": lambda size, out, into: 2 * _low_rank(size, out, into),
    "gralora": _low_rank,
    "hira": _low_rank,
    "hra": lambda size, out, into: size["r"] * into,
    "loha": lambda size, out, into: 2 * _low_rank(size, out, into),
    "lokr": _lokr,
    "miss": lambda size, out, into: size["r"] * out,
    "peanut": lambda size, out, into: _low_rank(size, out, into) + 2 * size["depth"] * size["r"] ** 2,
    "psoft": lambda size, out, into: size["r"] * (size["r"] - 1) // 2 + 2 * size["r"],
    "randlora": _randlora,
    "road": lambda size, out, into: out * {"road_1": 1, "road_2": 2, "road_4": 4}[size["variant"]],
    "shira": _low_rank,
    "tinylora": lambda size, out, into: size["u"],
    "waveft": lambda size, out, into: size["n_frequency"],
}
# Those whose numbers serve all layers at once.
SHARED: dict[str, Callable[[Size, list[Layer]], int]] = {
    "unilora": lambda size, layers: size["theta_d_length"],
    "vblora": _vblora,
}
