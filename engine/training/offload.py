"""What the way back needs of a forward pass, kept in main memory until then.

The weights stay where they are, which torch's own `save_on_cpu` would copy too, and the device is never waited for:
copies are ordered by its stream, and nobody reads them on the processor. Knows no trainer.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

SMALL = 2**20  # bytes: what is smaller is not worth the way


def offloaded(model: nn.Module) -> AbstractContextManager[Any]:
    """Within it, what autograd saves is moved; the backward pass, outside of it, fetches each tensor when its turn
    comes."""
    weights = {_place(weight) for weight in model.parameters()}

    def pack(tensor: torch.Tensor) -> tuple[torch.device, torch.Tensor]:
        stays = tensor.numel() * tensor.element_size() < SMALL or _place(tensor) in weights
        return tensor.device, tensor if stays else moved(tensor)

    def unpack(kept: tuple[torch.device, torch.Tensor]) -> torch.Tensor:
        device, tensor = kept
        return tensor.to(device, non_blocking=True)

    return saved_tensors_hooks(pack, unpack)


def moved(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in main memory, of the same strides, that the device writes and reads by itself."""
    pinned = tensor.device.type != "cpu"
    kept = torch.empty_like(tensor, device="cpu", pin_memory=pinned)
    return kept.copy_(tensor, non_blocking=pinned)


def _place(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
