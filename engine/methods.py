"""Which weights move: one function per method, from a loaded model to one whose trained weights require gradients.

Invariant: trained weights are fp32 whatever the arithmetic is, frozen ones stay as they were loaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from engine import parts
from engine.contract import methods
from engine.contract.args import TrainArgs
from engine.contract.errors import ArgsError, Problem
from engine.upstream import settings


def lora(model: Any, args: TrainArgs) -> Any:
    from peft import LoraConfig, get_peft_model

    keywords = settings(args, "peft")
    targets = keywords.pop("target_modules")
    every = targets == ["all-linear"]
    wanted, part = parts.chosen(model, args), parts.Parts(model)
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    given = {one: [name for name in linear if part.of(name) == one] for one in sorted(wanted)}
    bare = [one for one, names in given.items() if not names]  # a part without linear layers is trained itself
    if not every:
        _check_targets([name for names in given.values() for name in names], targets)
    for one, names in given.items():
        if names and not every and not any(_aimed(name, targets) for name in names):
            has = ", ".join(sorted({name.rpartition(".")[2] for name in names}))
            said = f"No layer of the {one} is among {', '.join(targets)} (method.targets). It has {has}."
            raise ArgsError([Problem(f"vision.{one}", said)])
    if len(bare) == len(wanted):
        raise ArgsError([Problem("method.kind", f"The {bare[0]} of this model has no layers for lora. Choose full.")])
    config = LoraConfig(
        target_modules="all-linear" if every else targets,
        exclude_modules=[name for name in linear if part.of(name) not in wanted and (every or _aimed(name, targets))]
        or None,
        modules_to_save=[name for one in bare for name in part.wholes(model, one)] or None,
        task_type=task_type(args),
        **keywords,
    )
    return get_peft_model(model, config)


def freeze(model: Any, args: TrainArgs) -> Any:
    chosen: methods.Freeze = args.method
    layers = decoder_layers(parts.speaker(model))
    if chosen.layers > len(layers):
        raise ArgsError(
            [Problem("method.layers", f"{chosen.layers} is more than the {len(layers)} layers of this model.")]
        )
    model.requires_grad_(False)
    wanted, part = parts.chosen(model, args), parts.Parts(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part.of(name) in wanted - {"language"})
    moved: list[nn.Module] = list(layers[-chosen.layers :]) if "language" in wanted else []
    if chosen.head and moved:
        moved += [
            module
            for name, module in model.named_modules()
            if re.fullmatch(r"(model\.)?(language_model\.|text_model\.)?(norm|ln_f|final_layernorm)", name)
        ]
        moved += [head] if (head := model.get_output_embeddings()) is not None else []
    if args.task.head == "score":  # it starts by chance, so it always learns
        moved.append(model.score)
    for module in moved:
        module.requires_grad_(True)
    return _in_fp32(model)


def full(model: Any, args: TrainArgs) -> Any:
    wanted, part = parts.chosen(model, args), parts.Parts(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part.of(name) in wanted)
    return _in_fp32(model)


def task_type(args: TrainArgs) -> str:
    """PEFT's word for what stands on the model; with a score, its head is trained and saved beside the adapter."""
    return "SEQ_CLS" if args.task.head == "score" else "CAUSAL_LM"


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


def _aimed(name: str, targets: list[str]) -> bool:
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _check_targets(linear: list[str], targets: list[str]) -> None:
    endings = {name.rpartition(".")[2] for name in linear}
    unknown = [target for target in targets if not any(_aimed(name, [target]) for name in linear)]
    if unknown:
        said = f"The model has no layer called {', '.join(unknown)}. It has {', '.join(sorted(endings))}."
        raise ArgsError([Problem("method.targets", said)])
