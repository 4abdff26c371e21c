"""Which matrices of a model hold the most signal: Spectrum (Hartford et al., 2024, arXiv 2406.06623).

A choice from the weights alone, so it is the same in every process and whenever a run goes on. Trains nothing itself.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import fmean

import torch

from data.planning import forecast

NORMAL_IQR = 1.349  # between the quartiles of a normal distribution, in standard deviations


def signal_to_noise(matrix: torch.Tensor) -> float:
    """Of a matrix (m, n) with singular values s: the sum of those above an edge, by the sum of the others, by the
    largest; 0 where nothing is above, infinite where nothing is below.

    edge = sigma (1 + sqrt(min(m, n) / max(m, n))) is where Marchenko and Pastur (1967) have the spectrum of noise end,
    and sigma = IQR(s) / 1.349 is its width by the quartiles, which a few strong directions do not move. Both are in
    units of s, as in the authors' own program. The last division makes it depend on scale (1 / s), as they want it.
    """
    values = _singular(matrix.detach())
    low, high = torch.quantile(values, values.new_tensor([0.25, 0.75]))
    edge = (high - low) / NORMAL_IQR * (1 + math.sqrt(min(matrix.shape) / max(matrix.shape)))
    above = values > edge
    if not above.any():
        return 0.0
    return float(values[above].sum() / values[~above].sum() / values[0])


def _singular(matrix: torch.Tensor) -> torch.Tensor:
    """The singular values, largest first: roots of the eigenvalues of the smaller Gram matrix, which takes a fraction
    of the time of a decomposition; in fp64, so that squaring loses nothing."""
    exact = (matrix.cpu() if matrix.device.type == "mps" else matrix).double()  # MPS has no fp64
    short = exact if exact.shape[0] <= exact.shape[1] else exact.T
    return torch.linalg.eigvalsh(short @ short.T).clamp(min=0).sqrt().flip(0)


def strongest(weights: Mapping[str, torch.Tensor], share: float) -> list[str]:
    """Names of the matrices to be trained: of each kind those of the `share` of its layers with the most signal.

    The experts of a layer are one: their mean counts. Of equals the first.
    """
    found: list[str] = []
    for layers in forecast.kinds({name: tuple(weight.shape) for name, weight in weights.items()}):
        signal = {layer: _mean(weights[name] for name in names) for layer, names in layers.items()}
        best = sorted(layers, key=signal.__getitem__, reverse=True)[: forecast.share_of(share, len(layers))]
        found += (name for layer in best for name in layers[layer])
    return found


def _mean(weights: Iterable[torch.Tensor]) -> float:
    matrices = (one for weight in weights for one in (weight if weight.dim() == 3 else [weight]))
    return fmean(signal_to_noise(one) for one in matrices)


def told(names: Iterable[str]) -> str:
    """What was chosen, for a reader: `... q_proj in 0, 5; down_proj in 3.`"""
    layers: dict[str, set[int]] = defaultdict(set)
    for name in names:
        if found := forecast.LAYER.search(name):
            layers[name.removesuffix(".weight").rpartition(".")[2]].add(int(found[1]))
    each = (f"{kind} in {', '.join(map(str, sorted(places)))}" for kind, places in layers.items())
    return f"The layers with the most signal are trained, counted from 0: {'; '.join(each)}."
