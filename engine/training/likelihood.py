"""The loss of tokens from the hidden states before the output layer: logits exist for a few tokens at a time only.

For a vocabulary of 128,000 the logits of one row of 8,192 tokens take 4 GB in float32; here it is 128 MB at most. The
gradient is made on the way forward, while the logits are at hand. Knows no task.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from engine.contract import kernels


class Likelihood(NamedTuple):
    """loss: the weighed sum of the tokens' losses, differentiable.   right: how many tokens the model had guessed."""

    loss: torch.Tensor
    right: torch.Tensor


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        given: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        wanted = ctx.needs_input_grad[:3]
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        narrow, narrow_bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        to_hidden = torch.empty_like(hidden, dtype=dtype) if wanted[0] else None
        to_weight = torch.zeros_like(weight, dtype=torch.float32) if wanted[1] else None
        to_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and wanted[2] else None
        loss, right = hidden.new_zeros((), dtype=torch.float32), labels.new_zeros(())
        size = max(1, kernels.logits_at_once(kind, len(labels) * weight.shape[0]) // weight.shape[0])
        for start in range(0, len(labels), size):
            part = slice(start, start + size)
            some, label = hidden[part].to(dtype), labels[part, None]
            logits = functional.linear(some, narrow, narrow_bias).float()
            said = logits.gather(-1, label)
            largest, guess = logits.max(-1, keepdim=True)
            powers = logits.sub_(largest).exp_()
            total = powers.sum(-1, keepdim=True)
            loss += ((total.log() + largest - said)[:, 0] * given[part]).sum()
            right += (guess == label).sum()
            if not any(wanted):
                continue
            weighed = given[part, None]
            grad = powers.mul_(weighed / total).scatter_add_(-1, label, -weighed)
            if to_bias is not None:
                to_bias += grad.sum(0)
            grad = grad.to(dtype)
            if to_hidden is not None:
                to_hidden[part] = grad @ narrow
            if to_weight is not None:
                to_weight += grad.t() @ some
        ctx.mark_non_differentiable(right)
        ctx.save_for_backward(to_hidden, to_weight, to_bias)
        ctx.dtypes = hidden.dtype, weight.dtype, None if bias is None else bias.dtype
        return loss, right

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        made = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        return *(None if one is None else (one * grads[0]).to(dtype) for one, dtype in made), None, None


def summed(
    hidden: torch.Tensor, head: nn.Linear, labels: torch.Tensor, weights: torch.Tensor | None = None
) -> Likelihood:
    """-log p(label) of each token, summed as `weights` (tokens,) weigh them.

    hidden: (tokens, size).   head: the output layer, (vocabulary, size).   labels: (tokens,) ids.
    """
    given = torch.ones_like(labels, dtype=torch.float32) if weights is None else weights.float()
    return Likelihood(*_Sum.apply(hidden, head.weight, head.bias, labels, given))


@contextmanager
def headless(head: nn.Module) -> Iterator[None]:
    """Within, the model gives what enters `head` as its logits."""
    head.forward = lambda hidden: hidden  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        del head.forward


def chunks(model: Any) -> str:
    """ "" when the loss can be taken from the states before the output layer, else why not. The model is asked."""
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear:
        return f"its output layer is a {type(head).__name__}"
    ids = torch.arange(2, 9, device=model.device)[None] % (head.weight.shape[0] - 1)
    was = model.training
    model.eval()  # with dropout it would say something else each time
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits
        with headless(head):
            hidden = model(input_ids=ids, use_cache=False).logits
        same = hidden.shape[-1] == head.weight.shape[1] and torch.allclose(head(hidden), logits, rtol=1e-2, atol=1e-3)
    model.train(was)
    return "" if same else "it changes its logits after the output layer"
