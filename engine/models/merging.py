"""An adapter added into the weights of its base, whatever it is: the whole model that gives the same.

Knows no files. The base must be in full precision: adding into quantised weights rounds most of an adapter away.
"""

from __future__ import annotations

from typing import Any

import torch

from engine.tuning.methods import decoder_layers


def merged(model: Any) -> Any:
    """The base of `model`, a PeftModel, with its adapter in its weights. ValueError: these are no numbers."""
    _part_layers(model)
    whole = model.merge_and_unload(safe_merge=True)
    config, output = whole.config.get_text_config(), whole.get_output_embeddings()
    if getattr(config, "tie_word_embeddings", False) and output is not None:
        # Tied once, and trained apart since: a loader must not tie them again.
        if not torch.equal(output.weight, whole.get_input_embeddings().weight):
            config.tie_word_embeddings = whole.config.tie_word_embeddings = False
    return whole


def _part_layers(model: Any) -> None:
    """Give repeated layers, which share their weights behind adapters of their own, weights of their own too."""
    if not any(getattr(config, "layer_replication", None) for config in model.peft_config.values()):
        return
    seen: set[int] = set()
    for module in decoder_layers(model).modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in seen:
                setattr(module, name, torch.nn.Parameter(parameter.detach().clone(), requires_grad=False))
            seen.add(id(parameter))
