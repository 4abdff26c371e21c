"""The parts of a model that sees: the vision tower, the projector behind it, and the language part.

A model that reads text alone is all language. Told apart by the model's own word for its encoder and decoder, so no
family is known by name here.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from torch import nn

from engine.contract.args import TrainArgs
from engine.contract.errors import ModelError

Part = Literal["tower", "projector", "language"]
MERGER = re.compile(r"(^|\.)\w*merger\w*(\.|$)")  # the projector of those that keep it inside the tower, as Qwen2-VL


class Parts:
    """Which part of `model` a module or parameter belongs to, by its name."""

    def __init__(self, model: Any) -> None:
        self.tower, self.language = "", [""]
        if not sees(model):
            return
        wholes = (model.get_encoder(modality="image"), model.get_decoder(), model.get_output_embeddings())
        names = {id(module): f"{name}." for name, module in model.named_modules() if name}
        tower, *language = (names.get(id(whole), "") for whole in wholes)
        if not tower or not language[0]:
            raise ModelError(
                f"The vision tower of {type(model).__name__} cannot be told from its language part.",
                "Choose a model of another family, such as Qwen2.5-VL, Gemma 3 or LLaVA.",
            )
        self.tower, self.language = tower, [name for name in language if name]

    def of(self, name: str) -> Part:
        if self.tower and name.startswith(self.tower):
            return "projector" if MERGER.search(name.removeprefix(self.tower)) else "tower"
        return "language" if any(f"{name}.".startswith(whole) for whole in self.language) else "projector"

    def wholes(self, model: Any, part: Part) -> list[str]:
        """The names of the modules that make up `part`, none inside another of them."""
        own = [name for name, _ in model.named_modules() if name and self.of(name) == part]
        own = [name for name in own if not any(whole.startswith(f"{name}.") for whole in (self.tower, *self.language))]
        return [name for name in own if name.rpartition(".")[0] not in own]


def sees(model: Any) -> bool:
    return getattr(model.config, "vision_config", None) is not None


def chosen(model: Any, args: TrainArgs) -> set[Part]:
    """The parts that `args` want trained."""
    if not sees(model):
        return {"language"}
    wanted = args.vision
    found: dict[Part, bool] = {"tower": wanted.tower, "projector": wanted.projector, "language": wanted.language}
    return {part for part, trained in found.items() if trained}


def speaker(model: Any) -> nn.Module:
    """The language part, without what projects onto the vocabulary."""
    found: nn.Module = model.get_decoder() if sees(model) else model
    return found
