"""New layers that start as if they were not there: copies whose outputs are zero (LLaMA Pro, Wu et al., 2024).

Each is a copy of the layer before it, whose projections back into the stream of states are zeroed, so the model says
exactly what it said; then these alone are trained. The result is a whole model with more layers.
"""

from __future__ import annotations

import copy
import re
from typing import Any

import torch
from torch import nn

from engine.contract.errors import ArgsError, Problem

# What families call the projection that ends attention, and the one that ends the feed-forward.
OUTPUTS = re.compile(
    r"(^|\.)(o_proj|out_proj|c_proj|wo|dense|attention_output|down_proj|w2|fc2|fc_out|dense_4h_to_h|output_linear)(\.|$)"
)


def expanded(model: Any, stack: nn.ModuleList, count: int) -> list[nn.Module]:
    """Put `count` new layers into `stack` of `model`, evenly spread; the new layers.

    Raises ArgsError when the model then says anything else than before, as in families whose layers end otherwise.
    """
    layers, config = list(stack), model.config.get_text_config()
    if count > len(layers):
        said = f"{count} is more than the {len(layers)} layers of this model, each of which can be copied once."
        raise ArgsError([Problem("method.layers", said)])
    ids = torch.arange(1, 9, device=model.device)[None] % config.vocab_size
    before = _said(model, ids)
    copied = {round((place + 1) * len(layers) / count) - 1 for place in range(count)}
    found, new, origins = [], [], []
    for place, layer in enumerate(layers):
        found.append(layer)
        origins.append(place)
        if place in copied:
            new.append(_silent(layer))
            found.append(new[-1])
            origins.append(place)
    del stack[:]
    stack.extend(found)
    for place, layer in enumerate(found):
        for module in layer.modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                module.layer_idx = place
    _describe(config, len(layers), origins)
    if not torch.equal(before, _said(model, ids)):
        raise ArgsError([Problem("method.kind", "New layers cannot be added to models of this family. Choose lora.")])
    return new


def _silent(layer: nn.Module) -> nn.Module:
    # One config speaks for all layers: whoever changes the kernel of attention changes it there.
    configs = [module.config for module in layer.modules() if hasattr(module, "config")]
    made = copy.deepcopy(layer, {id(config): config for config in configs})
    for name, parameter in made.named_parameters():
        if OUTPUTS.search(name):
            nn.init.zeros_(parameter)
    return made


def _describe(config: Any, layers: int, origins: list[int]) -> None:
    """Tell the config of its layers: their number, and whatever it lists for each of them."""
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == layers:
            setattr(config, name, [value[origin] for origin in origins])
    config.num_hidden_layers = len(origins)


@torch.no_grad()
def _said(model: Any, ids: torch.Tensor) -> torch.Tensor:
    training = model.training
    said = model.eval()(input_ids=ids, use_cache=False).logits
    model.train(training)
    return said
