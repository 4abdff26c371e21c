"""How likely a model finds the answers in a batch, token by token.

Logits are made only from the first token on that anybody asks about, and widened to fp32 one row at a time. Knows no
loss and no task.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

BESIDE = ("completion_mask", "reference", "label", "margin", "other")  # of a batch: what is not for the model


def logps(model: Any, batch: Mapping[str, Any]) -> torch.Tensor:
    """(rows, length - 1) fp32 log-probabilities: place i is that of token i + 1, and 0 where that is no answer's.

    batch: rows padded on the right; `completion_mask` (rows, length) is 1 at the answers' tokens.
    """
    ids, asked = batch["input_ids"], batch["completion_mask"][:, 1:].bool()
    length = ids.shape[1]
    first = int(asked.any(0).nonzero()[0]) if asked.any() else length - 2
    given = {name: value for name, value in batch.items() if name not in BESIDE} | {"use_cache": False}
    if "logits_to_keep" in inspect.signature(_plain(model).forward).parameters:
        given["logits_to_keep"] = length - first
    logits = model(**given).logits[:, first - length : -1]  # some methods put tokens of their own before the row's
    of_row = _checkpointed if torch.is_grad_enabled() else _of_row
    found = torch.stack([of_row(row, said) for row, said in zip(logits, ids[:, first + 1 :], strict=True)])
    return torch.nn.functional.pad(found * asked[:, first:], (first, 0))


def _plain(model: Any) -> Any:
    """The model that transformers made, inside what accelerate and PEFT put around it."""
    while hasattr(model, "module"):
        model = model.module
    return model.get_base_model() if hasattr(model, "peft_config") else model


def _of_row(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """(tokens,) out of (tokens, vocabulary) and (tokens,)."""
    wide = logits.float()
    return wide.gather(-1, ids[:, None])[:, 0] - wide.logsumexp(-1)


def _checkpointed(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return checkpoint(_of_row, logits, ids, use_reentrant=False)  # type: ignore[no-any-return]
