"""Which attention kernel `auto` takes on a machine, and why; how many logits there are at once. Knows no torch."""

from __future__ import annotations

from engine.contract.fields import AUTO
from engine.contract.needs import FLASH, Here

LOGITS, MOST_LOGITS, LOGITS_OF_A_CPU = 2**24, 2**25, 2**22  # 16 MB in float32 stay in a processor's cache
PIECE = 4096  # tokens that the feed-forward works on at a time where activations are offloaded
SHARE = 32  # parts of the loss, at least: it stays small beside what a layer needs


def logits_at_once(device: str, whole: int) -> int:
    """How many logits there are at a time where the loss is taken in chunks. whole: tokens times vocabulary.

    An accelerator reads all of the output layer for each chunk, so with many tokens it takes larger ones.
    """
    return LOGITS_OF_A_CPU if device == "cpu" else min(MOST_LOGITS, max(LOGITS, whole // SHARE))


def attention(wanted: str, here: Here, *, apart: bool = False) -> tuple[str | None, str]:
    """The kernel to ask for and a sentence on why; None leaves the choice of sdpa or eager to the model's own code.

    apart: whether the model is loaded into main memory, to be shared out among devices like `here` later.
    """
    if wanted != AUTO:
        return wanted, f"{wanted} attention, as model.attention says."
    if apart and here.device != "cpu":
        return None, "PyTorch's own attention (sdpa): the model is asked in main memory, before it is shared out."
    if here.device == "cpu":
        return None, "PyTorch's own attention (sdpa): on a CPU there is none faster."
    if here.device != "cuda":
        return None, f"PyTorch's own attention (sdpa): the flash packages are not for {here.device}."
    for kernel in ("flash_attention_3", "flash_attention_2"):
        if not here.lacks(FLASH[kernel]):
            return kernel, f"{kernel}: its package is installed, and it skips what rows do not see of each other."
    return None, "PyTorch's own attention (sdpa). flash-attn is faster with long rows: pip install flash-attn"
