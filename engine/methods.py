"""Which weights move: one function per method, from a loaded model to one whose trained weights require gradients.

Invariant: trained weights are fp32 whatever the arithmetic is, frozen ones stay as they were loaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from engine.contract import methods
from engine.contract.args import TrainArgs
from engine.contract.errors import ArgsError, Problem
from engine.upstream import settings


def lora(model: Any, args: TrainArgs) -> Any:
    from peft import LoraConfig, get_peft_model

    keywords = settings(args, "peft")
    targets = keywords.pop("target_modules")
    if targets != ["all-linear"]:
        _check_targets(model, targets)
    config = LoraConfig(
        target_modules="all-linear" if targets == ["all-linear"] else targets, task_type="CAUSAL_LM", **keywords
    )
    return get_peft_model(model, config)


def freeze(model: Any, args: TrainArgs) -> Any:
    chosen: methods.Freeze = args.method
    layers = decoder_layers(model)
    if chosen.layers > len(layers):
        raise ArgsError(
            [Problem("method.layers", f"{chosen.layers} is more than the {len(layers)} layers of this model.")]
        )
    model.requires_grad_(False)
    moved: list[nn.Module] = list(layers[-chosen.layers :])
    if chosen.head:
        moved += [
            module
            for name, module in model.named_modules()
            if re.fullmatch(r"(model\.)?(norm|ln_f|final_layernorm)", name)
        ]
        moved.append(model.get_output_embeddings())
    for module in moved:
        module.requires_grad_(True)
    return _in_fp32(model)


def full(model: Any, args: TrainArgs) -> Any:
    return _in_fp32(model.requires_grad_(True))


METHODS: dict[str, Callable[[Any, TrainArgs], Any]] = {"lora": lora, "freeze": freeze, "full": full}


def prepared(model: Any, args: TrainArgs) -> Any:
    """`model` with the chosen method's weights set to be trained."""
    return METHODS[args.method.kind](model, args)


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The stack of decoder layers: the longest list of modules in the model."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise ArgsError([Problem("method.kind", "freeze finds no stack of layers in this model. Choose lora or full.")])
    return max(lists, key=len)


def trained(model: nn.Module) -> tuple[int, int]:
    """(trained, all) parameters; tied ones count once."""
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)


def _in_fp32(model: Any) -> Any:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)
    return model


def _check_targets(model: nn.Module, targets: list[str]) -> None:
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    endings = {name.rpartition(".")[2] for name in linear}
    unknown = [
        target for target in targets if not any(name == target or name.endswith(f".{target}") for name in linear)
    ]
    if unknown:
        said = f"The model has no layer called {', '.join(unknown)}. It has {', '.join(sorted(endings))}."
        raise ArgsError([Problem("method.targets", said)])
