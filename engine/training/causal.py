"""Causal attention of one row on a processor: torch's own forward pass, and a backward pass in half its time.

torch's backward kernel for processors converts small blocks of bfloat16 one by one. Here it goes by batched products of
64 queries with the keys before them, of all heads that share a key at once. Memory grows with the length, not with its
square. Knows no model.
"""

from __future__ import annotations

from typing import Any

import torch

BLOCK = 64  # queries at once: their scores stay in the cache


def fits(query: torch.Tensor) -> bool:
    """Whether `Causal` is the faster way for such a query; it is as exact as torch's own in any case."""
    return query.device.type == "cpu" and query.dtype is torch.bfloat16 and query.shape[0] == 1


class Causal(torch.autograd.Function):
    """softmax(scale q k' + causal mask) v. q: (1, heads, n, d); k, v: (1, groups, n, d); (1, heads, n, d).

    Dao (2023), "FlashAttention-2", algorithm 2: probabilities are made again from the rows' logsumexp.
    """

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
        output, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, True, scale=scale
        )  # logsumexp: (1, heads, n) float32
        ctx.save_for_backward(q, k, v, output, logsumexp)
        ctx.scale = scale
        return output

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        q, k, v, output, logsumexp = ctx.saved_tensors
        groups, n, d = k.shape[1:]
        each = q.shape[1] // groups  # heads that share a key
        query = (q[0] * ctx.scale).reshape(groups, each, n, d)
        grad = grads[0][0].reshape(groups, each, n, d)
        key, value = k[0].contiguous(), v[0].contiguous()
        # What the softmax takes off each score's gradient: the part that all scores of a query share.
        shared = (grad.float() * output[0].reshape(groups, each, n, d)).sum(-1, keepdim=True)
        normal = logsumexp.reshape(groups, each, n, 1)
        to_query = torch.empty_like(query)
        to_key = torch.zeros(groups, n, d, device=k.device)
        to_value = torch.zeros_like(to_key)
        later = torch.ones(BLOCK, BLOCK, dtype=torch.bool, device=k.device).triu(1)
        for start in range(0, n, BLOCK):
            end = min(start + BLOCK, n)
            many = end - start
            some, back = (one[:, :, start:end].reshape(groups, -1, d) for one in (query, grad))
            shape = (groups, each, many, end)
            scores = torch.bmm(some, key[:, :end].transpose(1, 2)).float().view(shape)
            scores[..., start:].masked_fill_(later[:many, :many], float("-inf"))
            shares = scores.sub_(normal[:, :, start:end]).exp_()
            to_shares = torch.bmm(back, value[:, :end].transpose(1, 2)).float().view(shape)
            to_scores = to_shares.sub_(shared[:, :, start:end]).mul_(shares).to(q.dtype).view(groups, -1, end)
            narrow = shares.to(q.dtype).view(groups, -1, end)
            to_value[:, :end] += torch.bmm(narrow.transpose(1, 2), back)
            to_key[:, :end] += torch.bmm(to_scores.transpose(1, 2), some)
            to_query[:, :, start:end] = torch.bmm(to_scores, key[:, :end]).view(groups, each, many, d)
        to_query = to_query.mul_(ctx.scale).view(q.shape)
        return to_query, to_key.to(k.dtype)[None], to_value.to(v.dtype)[None], None
