"""Chance that is the same everywhere: numbers drawn by lot that depend on a seed and on nothing else.

The generators of random numbers of Python and numpy may change between releases, and with them which rows are held out.
These cannot.
"""

from __future__ import annotations

import hashlib

import numpy as np

Numbers = np.ndarray


def lots(values: Numbers, seed: int, purpose: str) -> Numbers:
    """A number from 0 to 2**64 - 1 for each of the whole numbers `values`; (n,) uint64.

    Equal values draw equal lots. Another seed or another purpose draws others.
    """
    key = hashlib.blake2b(f"{seed} {purpose}".encode(), digest_size=8).digest()
    mixed = np.asarray(values).astype(np.uint64) ^ np.uint64(int.from_bytes(key, "little"))
    # the finaliser of the splitmix64 generator (Steele, Lea, Flood 2014), which spreads each bit over all
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def some(values: Numbers, count: int, seed: int, purpose: str) -> Numbers:
    """`count` of the values, or all when there are fewer, drawn by lot; they keep their order."""
    if count >= len(values):
        return values
    drawn = np.argsort(lots(np.arange(len(values)), seed, purpose), kind="stable")[:count]
    return values[np.sort(drawn)]
