"""LoRA in one step of arithmetic: what PEFT computes for a plain adapter, with fewer passes over memory.

PEFT widens the layer's input to the adapter's precision, keeps both for the way back, scales, adds and narrows again.
Here the adapter is narrowed instead, which is small, and the input is kept once. Variants (DoRA, dropout, several
adapters at once, quantised layers) are left to PEFT.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import nn
from torch.nn import functional


class LowRank(torch.autograd.Function):
    """y = x W' + b + s (x A') B', with W and b frozen.

    x: (..., in).   weight: (out, in).   down (A): (rank, in).   up (B): (out, rank).   scale: s.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        narrow_down, narrow_up = down.to(x.dtype), up.to(x.dtype)
        inner = flat @ narrow_down.t()
        output = functional.linear(flat, weight, bias).addmm_(inner, narrow_up.t(), alpha=scale)
        ctx.save_for_backward(flat, weight, narrow_down, narrow_up, inner)
        ctx.scale, ctx.dtype = scale, down.dtype
        return output.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        flat, weight, down, up, inner = ctx.saved_tensors
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        turned = (grad @ up).mul_(ctx.scale)  # (tokens, rank)
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = (grad @ weight).addmm_(turned, down).view(*grads[0].shape[:-1], -1)
        to_down = (turned.t() @ flat).to(ctx.dtype)
        to_up = (inner.t() @ grad).t().to(ctx.dtype).mul_(ctx.scale)
        return to_x, None, None, to_down, to_up, None


class Fused(Linear):
    """PEFT's LoRA layer, whose plain case goes by `LowRank`."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if args or kwargs or self.disable_adapters or self.merged or not self.plain():
            return super().forward(x, *args, **kwargs)
        [name], base, kind = self.active_adapters, self.base_layer, x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        bias = None if base.bias is None else base.bias.to(dtype)
        return LowRank.apply(
            x.to(dtype), base.weight.to(dtype), bias,
            self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name],
        )  # fmt: skip

    def plain(self) -> bool:
        names = [name for name in self.active_adapters if name in self.lora_A]
        return (
            len(self.active_adapters) == 1
            and len(names) == 1
            and names[0] not in self.lora_variant
            and isinstance(self.lora_dropout[names[0]], nn.Identity)
            and self.lora_B[names[0]].bias is None
            and not self.fan_in_fan_out
            and not self.base_layer.weight.requires_grad
        )


def fuse(model: nn.Module) -> int:
    """How many of the model's LoRA layers now go by `LowRank`; weights, names and PEFT's own ways stay as they are."""
    layers = [module for module in model.modules() if type(module) is Linear and type(module.base_layer) is nn.Linear]
    for layer in layers:
        layer.__class__ = Fused
    return len(layers)
