"""Rows behind one another in a single sequence, none of which sees another: without padding, and without a mask that
grows with the square of the whole.

Attention runs row by row, everything else on all tokens at once. Whether a model can do it, the model is asked. Knows
no task.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from engine.training import causal, rows

KERNEL = "sdpa_by_row"
FLASH = ("flash_attention_2", "flash_attention_3")  # these keep rows apart by the same borders
HALF = (torch.bfloat16, torch.float16)
WIDEST = 256  # numbers of a head that torch's own flash kernel takes
FAR = 0.05  # of the largest logit: rows that see each other move logits by far more than rounding does


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention function. query, key, value: (rows, heads, tokens, size); (rows, tokens, heads, size).

    With borders (`cu_seq_lens_q`, (rows + 1,) int32, as flash attention takes them) the mask is not looked at.
    """
    if cu_seq_lens_q is None:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **more)
        return output, None
    if max_length_q is not None and not more.get("dropout") and takes_borders(query):
        return _at_once(query, key, value, cu_seq_lens_q, max_length_q, sliding_window, more.get("scaling")), None
    lengths = _lengths(cu_seq_lens_q)
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


def takes_borders(query: torch.Tensor) -> bool:
    """Whether torch has a kernel here for all rows at once, by their borders: its flash attention, in 16 bits."""
    return query.is_cuda and _narrow(query) in HALF and query.shape[-1] % 8 == 0 and query.shape[-1] <= WIDEST


def _narrow(query: torch.Tensor) -> torch.dtype:
    """What the arithmetic is done in: trained weights and positions are fp32 where it is in 16 bits."""
    kind = query.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype


def _at_once(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, borders: torch.Tensor, longest: int,
    window: int | None, scale: float | None,
) -> torch.Tensor:  # fmt: skip
    """All rows in one kernel (Dao, 2023, "FlashAttention-2"): nothing is asked of the device, no mask is made."""
    flat = (
        tensor.squeeze(0).transpose(0, 1).to(_narrow(query)) for tensor in (query, key, value)
    )  # (tokens, heads, size)
    near = None if window is None else window - 1
    output = torch.ops.aten._flash_attention_forward(
        *flat, borders, borders, longest, longest, 0.0, True, False,
        scale=scale, window_size_left=near, window_size_right=None if near is None else 0,
    )[0]  # fmt: skip
    return output.unsqueeze(0)


_known: MutableMapping[torch.Tensor, list[int]] = WeakTensorKeyDictionary()


def _lengths(borders: torch.Tensor) -> list[int]:
    """The rows' lengths, which every layer asks for; the device is waited for once a batch."""
    if torch.compiler.is_compiling():
        return borders.diff().tolist()
    if borders not in _known:
        _known[borders] = borders.diff().tolist()
    return _known[borders]


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
        padded.pop("attention_mask", None)
        sizes = torch.tensor([len(example["input_ids"]) for example in examples])
        real = torch.arange(int(sizes.max()))[None] < sizes[:, None]
        batch: dict[str, Any] = {key: values[real][None] for key, values in padded.items()}
        if "position_ids" not in batch:
            batch["position_ids"] = torch.cat([torch.arange(size) for size in sizes.tolist()])[None]
        # What is packed has borders of its own inside.
        starts = (batch["position_ids"][0] == 0).nonzero().flatten()
        borders = torch.cat([starts, sizes.sum()[None]]).int()
        batch["labels"][0, starts] = -100  # the first of a row is not what the last of another predicts
        longest = int(borders.diff().max())
        if self.unmasked:
            batch["attention_mask"] = torch.ones(1, 1, *batch["input_ids"].shape, dtype=torch.bool)
        return batch | {
            "cu_seq_lens_q": borders, "cu_seq_lens_k": borders, "max_length_q": longest, "max_length_k": longest,
        }  # fmt: skip


def unmasked(model: Any) -> bool:
    """Whether the model's attention goes by the borders alone, so that no mask need be made for it."""
    return bool(model.config._attn_implementation == KERNEL)


def settled(model: Any) -> str:
    """Make `model` keep rows apart; "" when it does now, else why it does not (and then it is as it was)."""
    before = model.config._attn_implementation
    if before in FLASH and model.device.type == "cpu":
        return "flash attention cannot be asked in main memory, where the model lies until it is shared out"
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
