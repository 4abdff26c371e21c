"""What the way back needs of a forward pass, kept in main memory until then; and a frozen table of embeddings.

Other weights stay where they are, which torch's own `save_on_cpu` would copy too, and the device is never waited for:
copies are ordered by its stream, and nobody reads them on the processor. Knows no trainer.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional

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


class Housed(nn.Embedding):
    """A frozen table in main memory, of which only the rows that are asked for go to the device.

    `weight` is no parameter: whatever moves, shares out or counts a model's parameters passes it by.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        rows = functional.embedding(input.to(self.weight.device), self.weight)
        if input.device.type == "cpu":
            return rows
        return rows.pin_memory().to(input.device, non_blocking=True)


def housed(model: nn.Module) -> int:
    """Bytes of the table of embeddings of `model` that now lies in main memory: 0 where it is trained, or the output
    layer reads it too."""
    table, head = model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[operator]
    if type(table) is not nn.Embedding or table.weight.requires_grad or getattr(head, "weight", None) is table.weight:
        return 0
    weight = table.weight.data
    del table.weight
    table.__class__, table.weight = Housed, weight.cpu()
    return weight.nbytes


def moved(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in main memory, of the same strides, that the device writes and reads by itself."""
    pinned = tensor.device.type != "cpu"
    kept = torch.empty_like(tensor, device="cpu", pin_memory=pinned)
    return kept.copy_(tensor, non_blocking=pinned)


def _place(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
