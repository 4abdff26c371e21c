"""Layers of a model for less memory: the feed-forward on a piece of the tokens at a time, and norms in one kernel.

What they compute stays what it was, and weights keep their names. Which layers can be so is seen from what they have
and what they say. Knows no task.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from engine.contract.kernels import PIECE

NEAR = 0.02  # of the largest number: 16 bits round by less


def in_pieces(model: nn.Module) -> int:
    """How many feed-forwards now work on PIECE tokens at a time, and again on each on the way back.

    So what they leave does not grow with the row (Bekman et al., 2025, "Arctic Long Sequence Training", section 3.1).
    Those of experts are left as they are: they route all tokens of a batch together.
    """
    own = ("up_proj", "down_proj")
    dense = [one for one in model.modules() if all(isinstance(getattr(one, name, None), nn.Module) for name in own)]
    chosen = [one for one in dense if type(one).__name__.endswith("MLP")]
    for module in chosen:
        module.__class__ = _divided(type(module))
    return len(chosen)


@cache
def _divided(kind: Any) -> Any:
    class Divided(kind):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            if hidden.ndim != 3 or hidden.shape[1] <= PIECE:
                return super().forward(hidden)
            whole = super().forward
            parts = hidden.split(PIECE, 1)
            if torch.is_grad_enabled():
                return torch.cat([checkpoint(whole, part, use_reentrant=False) for part in parts], 1)
            return torch.cat([whole(part) for part in parts], 1)

    Divided.__name__ = kind.__name__
    return Divided


def fused_norms(model: nn.Module) -> int:
    """How many frozen norms now go by torch's own kernel, which keeps its input alone and passes over it once."""
    chosen = [module for module in model.modules() if "RMSNorm" in type(module).__name__ and _usual(module)]
    for module in chosen:
        module.__class__ = _fused(type(module))
    return len(chosen)


@cache
def _fused(kind: Any) -> Any:
    class Fused(kind):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            with torch.autocast(hidden.device.type, enabled=False):  # which would widen the input, and keep that
                return _normed(self, hidden)

    Fused.__name__ = kind.__name__
    return Fused


def _normed(module: Any, hidden: torch.Tensor) -> torch.Tensor:
    weight = module.weight.to(hidden.dtype)
    return functional.rms_norm(hidden, weight.shape, weight, _epsilon(module))


def _epsilon(module: Any) -> float | None:
    return getattr(module, "variance_epsilon", getattr(module, "eps", None))


def _usual(module: Any) -> bool:
    """Whether it says what torch's kernel says: some families add one to the weight, or gate."""
    weight = getattr(module, "weight", None)
    if weight is None or weight.requires_grad or weight.ndim != 1 or not isinstance(_epsilon(module), float):
        return False
    some = torch.linspace(-3, 3, 2 * len(weight), device=weight.device).view(1, 2, -1).to(weight.dtype)
    with torch.no_grad():
        said = module(some)
        if not isinstance(said, torch.Tensor) or said.shape != some.shape or said.dtype != some.dtype:
            return False
        return bool((said - _normed(module, some)).abs().max() <= NEAR * said.abs().max())
