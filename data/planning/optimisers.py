"""What an optimiser keeps for each trained parameter, by its name in transformers.

Bytes a parameter, from the papers' own tables and the shapes of the libraries' states; knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Vectors of a parameter's size that are kept in fp32, by what the name holds; the first that fits counts.
# adafactor: one number a row and column (Shazeer and Stern, 2018). adam_mini: one second moment a block (Zhang et al.,
# 2024). galore: both moments in a space of rank 128 out of some 2,000 (Zhao et al., 2024). apollo: the same at rank 1
# to 256 (Zhu et al., 2024). lomo: none, and no gradients either (Lv et al., 2023).
KEPT = (
    ("adafactor", 0.01), ("adalomo", 0.01), ("lomo", 0.0), ("apollo", 0.25), ("galore", 0.25), ("adam_mini", 1.0),
    ("schedule_free_sgd", 1.0), ("schedule_free", 2.0), ("ademamix", 3.0), ("grok", 3.0),
    ("adam", 2.0), ("lion", 1.0), ("muon", 1.0), ("rmsprop", 1.0), ("adagrad", 1.0), ("sgd", 0.0),
)  # fmt: skip
USUAL = 2.0  # as AdamW, where the name is not known
# 8-bit states hold a byte for each number, and the scale of each block of 2,048 (Dettmers et al., 2022, "8-bit
# Optimizers via Block-wise Quantization"): a quarter. 4-bit ones half of that (Li et al., 2023).
WIDTHS = (("8bit", 1.0), ("4bit", 0.5))


# What is kept for each number of a table of embeddings, where that is more: none is projected to a small space (Zhao et
# al., 2024) or made orthogonal (Jordan et al., 2024), and bitsandbytes holds its state in 32 bits, as in 8 they are not
# stable (Dettmers et al., 2022).
WIDE = (("muon", 8.0), ("galore_adamw_8bit", 2.0), ("galore_adamw", 8.0), ("apollo", 8.0), ("adamw_torch_8bit", 2.0))


def state(name: str, own: Mapping[str, Any] | None = None) -> float:
    """Bytes of state for each trained parameter. own: the optimiser's own settings, as they are given."""
    width = next((width for sign, width in WIDTHS if sign in name), 4.0)
    kept = next((kept for sign, kept in KEPT if sign in name), USUAL)
    if name in ("sgd", "rmsprop") and own:  # a mean direction and a mean gradient, where they are asked for
        kept += bool(own.get("momentum")) + bool(own.get("centered"))
    return width * kept


def table(name: str, own: Mapping[str, Any] | None = None) -> float:
    """Bytes of state for each trained number of a table of embeddings."""
    if found := next((octets for sign, octets in WIDE if sign in name), 0.0):
        return found
    return state(name, own) * (4 if "8bit" in name else 1)


def keeps_gradients(name: str) -> bool:
    """Whether all gradients are there at once, or each is used and let go as soon as it is known."""
    return "lomo" not in name and "layerwise" not in name


def by_block(name: str) -> bool:
    """Whether gradients and state are there for one block of layers alone (BAdam, Luo et al., 2024)."""
    return name == "badam"
