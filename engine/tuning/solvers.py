"""Optimisers that no library here has in a form that can be saved and continued: Adam-mini, BAdam, and several in one.

Knows no arguments.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.optim import AdamW, Optimizer

BY_HEAD = re.compile(r"\b(q_proj|k_proj|wq|wk|query|key)\b")
LAYER = re.compile(r"^(?!heads\.).*?\.(\d+)\.")  # a head that a task puts on the model has numbers of its own


class Pair(Optimizer):
    """Several optimisers, each with weights of its own, that step together; one list of groups, one state."""

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        self.parts = list(parts)
        super().__init__([group for part in parts for group in part.param_groups], dict(parts[0].defaults))
        self.param_groups = [group for part in parts for group in part.param_groups]  # the very same: rates reach them

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts], "param_groups": [], "state": {}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


class Layerwise(Optimizer):
    """Optimisers of one weight each that step by themselves while gradients are made, under one schedule.

    Their groups are these groups, so what a schedule says reaches them. Their state is in no checkpoint.
    """

    def __init__(self, each: Mapping[torch.Tensor, Optimizer], rate: float) -> None:
        super().__init__(list(each), {"lr": rate})
        self.param_groups = [group for one in each.values() for group in one.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Nothing is left to be done."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """No gradient is left."""

    def state_dict(self) -> dict[str, Any]:
        return {"param_groups": [], "state": {}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """There is none."""


class AdamMini(Optimizer):
    """AdamW with one second moment for each block of weights whose curvature is alike (Zhang et al., 2024).

    A block is a head of a query or key matrix, a row of any other matrix, else a weight by itself. Half of AdamW's
    state. Groups must carry `names`. heads: the size of a head.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, heads: int, lr: float, betas: tuple[float, float],
                 eps: float) -> None:  # fmt: skip
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self.heads = heads

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for name, weights in zip(group["names"], group["params"], strict=True):
                if weights.grad is not None:
                    self._move(group, name, weights)

    def _move(self, group: dict[str, Any], name: str, weights: torch.Tensor) -> None:
        state, grad = self.state[weights], weights.grad.float()
        size = grad.square()
        by_head = weights.ndim == 2 and BY_HEAD.search(name) and weights.shape[0] % self.heads == 0
        if by_head:
            size = size.view(-1, self.heads * weights.shape[1]).mean(1, keepdim=True)
        elif weights.ndim > 1:
            size = size.flatten(1).mean(1, keepdim=True)
        if not state:
            state |= {"step": 0, "exp_avg": torch.zeros_like(grad), "exp_avg_sq": torch.zeros_like(size)}
        state["step"] += 1
        first, second = group["betas"]
        state["exp_avg"].lerp_(grad, 1 - first)
        state["exp_avg_sq"].lerp_(size, 1 - second)
        scale = (state["exp_avg_sq"] / (1 - second ** state["step"])).sqrt() + group["eps"]
        if by_head:
            scale = scale.repeat_interleave(self.heads, 0)
        elif weights.ndim > 1:
            scale = scale.view(-1, *[1] * (weights.ndim - 1))
        weights.mul_(1 - group["lr"] * group["weight_decay"])
        weights.sub_(state["exp_avg"] / scale, alpha=group["lr"] / (1 - first ** state["step"]))


class BlockAdamW(AdamW):
    """AdamW on one block of layers at a time (BAdam, Luo et al., 2024): gradients and state exist for that block only.

    A block is a layer; what belongs to none is the first block. Which one is trained follows from the number of steps
    alone, so a run goes on as if it had not been interrupted. Groups must carry `names`.
    order: `ascending`, `descending`, or `random`: each round in an order of its own.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, every: int, order: str, seed: int, **keywords: Any) -> None:
        super().__init__(groups, **keywords)
        self.every, self.order, self.seed, self.done = every, order, seed, 0
        self.blocks: dict[int, list[torch.Tensor]] = {}
        for group in self.param_groups:
            for name, weights in zip(group["names"], group["params"], strict=True):
                found = LAYER.search(name)
                self.blocks.setdefault(int(found[1]) if found else -1, []).append(weights)
        self._open()

    @property
    def open(self) -> int:
        """The block that is trained now: a layer, or -1 for what belongs to none."""
        around, place = divmod(self.done // self.every, len(self.blocks))
        order = sorted(self.blocks, reverse=self.order == "descending")
        if self.order == "random":
            random.Random(self.seed * 1_000_003 + around).shuffle(order)
        return order[place]

    def _open(self) -> None:
        """Only the block that is trained takes gradients, and only it has a state."""
        for block, all_weights in self.blocks.items():
            for weights in all_weights:
                weights.requires_grad_(block == self.open)
                if block != self.open:
                    weights.grad = None
                    self.state.pop(weights, None)

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        before = self.open
        super().step()
        self.done += 1
        if self.open != before:
            self._open()

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"done": self.done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.done = state_dict["done"]
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "done"})
        self._open()
