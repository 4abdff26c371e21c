"""A model's shape in plain words, and its config in another shape. Knows configs as files, and no framework."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.contract.errors import ArgsError, Problem

# The names that configs use for each word of `engine.contract.imitation.SIZES`, the usual one first.
NAMES = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "feed_forward": ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"),
    "heads": ("num_attention_heads", "n_head"),
    "key_value_heads": ("num_key_value_heads",),
    "head": ("head_dim",),
    "context": ("max_position_embeddings", "n_positions"),
}
PER_LAYER = ("layer_types", "max_window_layers", "no_rope_layers")  # follow from the number of layers


def resized(config: Mapping[str, Any], size: Mapping[str, int]) -> dict[str, Any]:
    """The config with the sizes put in, and without what follows from them. Raises ArgsError with all problems."""
    if "text_config" in config:
        said = "A model that sees cannot start from scratch. Set it to weights, or choose a model of text alone."
        raise ArgsError([Problem("task.start", said)])
    place = {word: next((name for name in names if name in config), "") for word, names in NAMES.items()}
    unknown = [word for word in size if not place[word] and word != "head"]
    if unknown:
        has = ", ".join(word for word in NAMES if place[word])
        raise ArgsError([Problem("task.size", f"This model's config has no {', '.join(unknown)}. It has {has}.")])
    found = {**config, **{place[word] or NAMES[word][0]: value for word, value in size.items()}}

    def old(word: str) -> int:
        return int(config.get(place[word]) or 0)

    def new(word: str) -> int:
        return int(found.get(place[word] or NAMES[word][0]) or 0)

    if "head" not in size and old("head") and old("head") * old("heads") == old("hidden"):
        found.pop(place["head"])  # it was their quotient, and is so again
    if "layers" in size:
        for name in PER_LAYER:
            found.pop(name, None)
    if problems := list(_wrong(new, size)):
        raise ArgsError([Problem("task.size", said) for said in problems])
    return found


def _wrong(new: Any, size: Mapping[str, int]) -> list[str]:
    found = []
    if not new("head") and new("heads") and new("hidden") % new("heads"):
        found.append(f"hidden ({new('hidden')}) cannot be shared among {new('heads')} heads. Make it a multiple.")
    if new("key_value_heads") and new("heads") % new("key_value_heads"):
        found.append(
            f"{new('heads')} heads cannot share {new('key_value_heads')} heads of keys and values. Set key_value_heads "
            "to a number that divides heads."
        )
    width = new("head") or (new("hidden") // new("heads") if new("heads") else 0)
    if width % 2 and {"hidden", "heads", "head"} & set(size):
        found.append(f"{width} numbers a head cannot be turned in pairs, as positions are. Make it even.")
    return found
