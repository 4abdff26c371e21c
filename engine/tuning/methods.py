"""Which weights move: from a loaded model to one whose trained weights require gradients.

Adapters are made in `adapters.py`; here are the methods that train the model's own weights, and what holds for all.
Invariant: trained weights are fp32 whatever the arithmetic is, frozen ones stay as they were loaded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback

from data.checking.against import NO_MATRIX
from data.planning import forecast
from engine.contract import methods
from engine.contract.args import TrainArgs
from engine.contract.errors import ArgsError, Problem
from engine.models import parts
from engine.tuning import spectrum
from engine.tuning.adapters import ADAPTERS
from engine.tuning.expand import expanded
from engine.tuning.starts import Start

# The norm at the end of the stack, as families call it.
LAST_NORM = re.compile(
    r"(model\.|transformer\.)?(language_model\.|text_model\.)?(norm|ln_f|final_layernorm|final_layer_norm)"
)


def freeze(model: Any, args: TrainArgs, start: Start) -> Any:
    chosen: methods.Freeze = args.method
    layers = decoder_layers(parts.speaker(model))
    ends = chosen.which != "spectrum"
    if ends and chosen.layers > len(layers):
        said = f"{chosen.layers} is more than the {len(layers)} layers of this model."
        raise ArgsError([Problem("method.layers", said)])
    model.requires_grad_(False)
    wanted, part = parts.chosen(model, args), parts.Parts(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part.of(name) in wanted - {"language"})
    if "language" in wanted:
        first = 0 if chosen.which == "first" else len(layers) - chosen.layers
        for module in [*(layers[first : first + chosen.layers] if ends else []), *_ends(model, chosen)]:
            module.requires_grad_(True)
        _open_named(model, chosen.modules)
        if not ends:
            _open_strongest(model, layers, chosen.share, start)
    if args.task.head == "score":  # it starts by chance, so it always learns
        model.score.requires_grad_(True)
    return model


def _ends(model: Any, chosen: methods.Freeze) -> Iterator[nn.Module]:
    """What is trained before and behind the layers."""
    if chosen.embeddings:
        yield model.get_input_embeddings()
    if chosen.head:
        yield from (module for name, module in model.named_modules() if LAST_NORM.fullmatch(name))
        if (output := model.get_output_embeddings()) is not None:
            yield output


def _open_named(model: Any, patterns: list[str]) -> None:
    names = dict(model.named_parameters())
    for pattern in patterns:
        found = [name for name in names if any(fnmatchcase(name, one) for one in (pattern, f"{pattern}.*"))]
        if not found:
            some = ", ".join(list(names)[:: max(1, len(names) // 4)][:4])
            said = f"No weight is called {pattern!r}. They are called {some}; * stands for anything."
            raise ArgsError([Problem("method.modules", said)])
        for name in found:
            names[name].requires_grad_(True)


def _open_strongest(model: Any, layers: nn.ModuleList, share: float, start: Start) -> None:
    """Chosen among what does not move already: `method.modules` adds to it."""
    stack = {id(parameter) for parameter in layers.parameters()}
    weights = {name: parameter for name, parameter in model.named_parameters() if id(parameter) in stack}
    if not forecast.kinds({name: tuple(weight.shape) for name, weight in weights.items()}):
        raise ArgsError([Problem("method.which", NO_MATRIX)])
    names = spectrum.strongest({name: one for name, one in weights.items() if not one.requires_grad}, share)
    for name in names:
        weights[name].requires_grad_(True)
    if names:
        start.say(spectrum.told(names))


def full(model: Any, args: TrainArgs, start: Start) -> Any:
    wanted, part = parts.chosen(model, args), parts.Parts(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part.of(name) in wanted)
    return model


def expand(model: Any, args: TrainArgs, start: Start) -> Any:
    if parts.sees(model):
        raise ArgsError([Problem("method.kind", "Only models that read text alone can get new layers. Choose lora.")])
    model.requires_grad_(False)
    for layer in expanded(model, decoder_layers(model), args.method.layers):
        layer.requires_grad_(True)
    if args.task.head == "score":
        model.score.requires_grad_(True)
    return model


METHODS: dict[str, Callable[[Any, TrainArgs, Start], Any]] = {
    "full": full, "freeze": freeze, "expand": expand, **ADAPTERS,
}  # fmt: skip


def prepared(model: Any, args: TrainArgs, start: Start | None = None) -> Any:
    """`model` with the chosen method's weights set to be trained."""
    return _in_fp32(METHODS[args.method.kind](model, args, start or Start()))


@contextmanager
def kept_wide(model: Any) -> Iterator[None]:
    """Trained weights come out of it in the precision that they went in: TRL narrows adapters on quantised weights."""
    kept = [(parameter, parameter.data) for parameter in model.parameters() if parameter.requires_grad]
    yield
    for parameter, data in kept:
        parameter.data = data


def callbacks(model: Any, checkpoint: Path | None = None) -> list[Budget]:
    """What the method has to do in every step beside learning. checkpoint: that the run goes on from."""
    kinds = {config.peft_type.value for config in getattr(model, "peft_config", {}).values()}
    return [Budget(model, checkpoint)] if "ADALORA" in kinds else []


class Budget(TrainerCallback):
    """AdaLoRA: keeps its directions apart, and gives rank to the layers that need it (Zhang et al., 2023, alg. 1).

    What has lost its rank stays in the matrices as zeros, so that every checkpoint has one shape and can be resumed.
    The averages by which it judges lie in a file of their own beside them.
    """

    FILE = Path("budget", "averages.safetensors")  # in a folder: beside the adapter it would count as one

    def __init__(self, model: Any, checkpoint: Path | None = None) -> None:
        """Goes on with the averages in `checkpoint`; one from before they were saved has none, and they begin anew."""
        self.model, self.config = model, model.peft_config["default"]
        self.judge = model.base_model.rankallocator
        self.settled = self.config.total_step - self.config.tfinal  # the step from which on no rank moves
        self.kept: dict[str, torch.Tensor] = {}  # from then on, 1 for a direction that has rank and 0 for one without
        self.averages = {"sensitivity": self.judge.exp_avg_ipt, "uncertainty": self.judge.exp_avg_unc}
        if checkpoint is not None and (checkpoint / self.FILE).is_file():
            self._load(checkpoint / self.FILE)

    def save(self, folder: Path) -> None:
        """Writes the averages into a checkpoint's folder."""
        (folder / self.FILE).parent.mkdir()
        state = {f"{of}:{name}": one for of, averages in self.averages.items() for name, one in averages.items()}
        save_file({name: one.cpu().contiguous() for name, one in state.items()}, folder / self.FILE)

    def _load(self, file: Path) -> None:
        places = dict(self.model.base_model.model.named_parameters())
        for label, one in load_file(file).items():
            of, _, name = label.partition(":")
            self.averages[of][name] = one.to(places[name].device)
            self.judge.ipt.setdefault(name, torch.zeros_like(places[name]))  # by which PEFT knows that it has begun

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The gradient of ||P P' - 1|| + ||Q' Q - 1||; PEFT adds it only to a loss that the model computes itself."""
        terms = []
        with torch.enable_grad():
            for name, one in self.model.named_parameters():
                if "lora_A" in name or "lora_B" in name:
                    square = one @ one.T if "lora_A" in name else one.T @ one
                    terms.append((square - torch.eye(len(square), device=one.device)).norm())
            (self.config.orth_reg_weight * torch.stack(terms).mean()).backward()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= self.settled and not self.kept:
            self.kept = {name: (one != 0).to(one.dtype) for name, one in self._scales()}

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step = state.global_step + 1
        if step <= self.settled:
            self.judge.update_and_allocate(self.model.base_model.model, step, force_mask=step == self.settled)
        with torch.no_grad():
            for name, one in self._scales() if self.kept else ():
                one.mul_(self.kept[name])

    def _scales(self) -> list[tuple[str, torch.Tensor]]:
        return [(name, one) for name, one in self.model.named_parameters() if "lora_E.default" in name]


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The stack of decoder layers: the longest list of modules in the model."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        said = "freeze (method.kind) finds no stack of layers in this model. Choose lora or full."
        raise ArgsError([Problem("method.kind", said)])
    return max(lists, key=len)


def trained(model: nn.Module) -> tuple[int, int]:
    """(trained, all) parameters; tied ones count once, and those in 4 bits as what they stand for."""
    parameters = [(parameter, _count(parameter)) for parameter in model.parameters()]
    return sum(many for one, many in parameters if one.requires_grad), sum(many for _, many in parameters)


def _count(parameter: Any) -> int:
    packed = getattr(parameter, "quant_state", None)
    return math.prod(packed.shape) if packed is not None else parameter.numel()


def _in_fp32(model: Any) -> Any:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)
    return model
