"""Rows behind one another in a single sequence, none of which sees another: without padding, and without a mask that
grows with the square of the whole.

Attention runs row by row, everything else on all tokens at once. Whether a model can do it, the model is asked. Knows
no task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from engine import causal, rows

KERNEL = "sdpa_by_row"
FLASH = ("flash_attention_2", "flash_attention_3")  # these keep rows apart by the same borders
FAR = 0.05  # of the largest logit: rows that see each other move logits by far more than rounding does


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    cu_seq_lens_q: torch.Tensor | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention function. query, key, value: (rows, heads, tokens, size); (rows, tokens, heads, size).

    With borders (`cu_seq_lens_q`, (rows + 1,) int32, as flash attention takes them) the mask is not looked at.
    """
    if cu_seq_lens_q is None:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **more)
        return output, None
    lengths = cu_seq_lens_q.diff().tolist()
    more["is_causal"] = True
    outputs = []
    for row in zip(*(tensor.split(lengths, 2) for tensor in (query, key, value)), strict=True):
        mask = _window(row[0], sliding_window)
        if mask is None and not more.get("dropout") and causal.fits(row[0]):
            scale = more.get("scaling") or query.shape[-1] ** -0.5
            outputs.append(causal.Causal.apply(*row, scale).transpose(1, 2))
        else:
            outputs.append(sdpa_attention_forward(module, *row, mask, **more)[0])
    return torch.cat(outputs, 1), None


def _window(query: torch.Tensor, width: int | None) -> torch.Tensor | None:
    """The mask of a row that is longer than the window, else None: plain causal attention needs none."""
    length = query.shape[2]
    if width is None or length <= width:
        return None
    return torch.ones(length, length, dtype=torch.bool, device=query.device).tril().triu(1 - width)


AttentionInterface.register(KERNEL, attention)
AttentionMaskInterface.register(KERNEL, sdpa_mask)


@dataclass(frozen=True)
class Collate:
    """Rows to one sequence: (1, tokens of all) int64 tensors, positions from 0 in each row, and the rows' borders.

    unmasked: whether the model is kept from making a mask, which would have tokens x tokens entries: it takes one of
    four dimensions as it is, however small.
    """

    pad_id: int
    unmasked: bool = False

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        padded = rows.Collate(self.pad_id)(examples)
        real = padded.pop("attention_mask").bool()
        lengths = real.sum(1)
        borders = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int()
        batch: dict[str, Any] = {key: values[real][None] for key, values in padded.items()}
        batch["labels"][0, borders[:-1].long()] = -100  # the first of a row is not what the last of another predicts
        longest = int(lengths.max())
        if self.unmasked:
            batch["attention_mask"] = torch.empty(1, 1, 0, 0, dtype=torch.bool)
        return batch | {
            "position_ids": torch.cat([torch.arange(length) for length in lengths.tolist()])[None],
            "cu_seq_lens_q": borders, "cu_seq_lens_k": borders, "max_length_q": longest, "max_length_k": longest,
        }  # fmt: skip


def unmasked(model: Any) -> bool:
    """Whether the model's attention goes by the borders alone, so that no mask need be made for it."""
    return bool(model.config._attn_implementation == KERNEL)


def settled(model: Any) -> str:
    """Make `model` keep rows apart; "" when it does now, else why it does not (and then it is as it was)."""
    before = model.config._attn_implementation
    if before not in ("sdpa", *FLASH):
        return f"{before} attention would compute a mask of all tokens by all"
    if getattr(model.config.get_text_config(), "attention_chunk_size", None):
        return "it attends in chunks"
    try:
        if before == "sdpa":
            model.set_attn_implementation(KERNEL)
        if not _apart(model):
            raise ValueError("its rows see each other")
    except (RuntimeError, ValueError, TypeError, IndexError) as problem:
        model.set_attn_implementation(before)
        return str(problem).splitlines()[0]
    return ""


def _apart(model: Any) -> bool:
    """Whether two rows side by side get the logits that each gets alone."""
    words = model.config.get_text_config().vocab_size - 1
    first, second = (torch.arange(2, 7) % words).tolist(), (torch.arange(7, 14) % words).tolist()
    batch = Collate(0, unmasked(model))([{"input_ids": row, "labels": row} for row in (first, second)])
    del batch["labels"]
    on_device = {key: value.to(model.device) if torch.is_tensor(value) else value for key, value in batch.items()}
    was = model.training
    model.eval()
    try:
        with torch.no_grad():
            alone = [model(input_ids=torch.tensor([row], device=model.device)).logits[0] for row in (first, second)]
            together = model(**on_device, use_cache=False).logits[0]
    finally:
        model.train(was)
    expected = torch.cat(alone).float()
    return bool((expected - together.float()).abs().max() <= FAR * expected.abs().max())
