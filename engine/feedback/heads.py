"""Small networks that stand on a language model beside its output layer: what a token, or all before it, is worth.

They belong to the model while it is trained (its optimiser and its device are theirs) and lie in a file of their own
beside its weights, so that the model itself stays an ordinary one. Knows nothing of what the heads are taught.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from engine.contract.errors import ModelError

FILE = Path("heads", "model.safetensors")  # in a folder: beside the weights it would count as some of them


def linear(model: Any) -> nn.Module:
    """(rows, length, width) -> (rows, length, 1), and 0 for everything before it has learnt."""
    head = nn.Linear(width(model), 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def deep(width: int, outputs: int) -> nn.Sequential:
    """(rows, length, width) -> (rows, length, outputs), through a hidden layer as wide as the model; 0 at first."""
    head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs))
    nn.init.zeros_(head[2].weight)
    nn.init.zeros_(head[2].bias)
    return head


def attach(model: Any, **heads: nn.Module) -> None:
    """Puts `heads` on `model`, in fp32: they are `model.heads`, by name."""
    device = model.get_output_embeddings().weight.device
    model.heads = nn.ModuleDict({name: head.to(device, torch.float32) for name, head in heads.items()})
    if not hasattr(model, "peft_config"):  # an adapter is saved without them anyway
        named = {f"heads.{name}" for name in model.heads.state_dict()}
        model._keys_to_ignore_on_save = {*(model._keys_to_ignore_on_save or ()), *named}


def save(model: Any, folder: Path, **facts: str) -> None:
    """facts: what whoever loads the heads must know beside their weights."""
    state = {name: value.detach().cpu().contiguous() for name, value in model.heads.state_dict().items()}
    (folder / FILE).parent.mkdir(exist_ok=True)
    save_file(state, folder / FILE, metadata=facts)


def load(model: Any, folder: Path) -> dict[str, str]:
    """Gives `model` the heads in `folder`, and returns the facts. ModelError when they are missing or do not fit."""
    if not (folder / FILE).is_file():
        raise ModelError(f"{folder.name} has no {FILE}.", "Go on from a checkpoint of a run of the same task.")
    try:
        model.heads.load_state_dict(load_file(folder / FILE))
    except RuntimeError as problem:
        raise ModelError(
            f"The heads in {folder.name} do not fit this model.", "Choose the base that they were trained on."
        ) from problem
    return facts_of(folder)


def facts_of(folder: Path) -> dict[str, str]:
    """What is known of the heads in `folder`; nothing where there are none."""
    if not (folder / FILE).is_file():
        return {}
    with safe_open(folder / FILE, "pt") as opened:
        return dict(opened.metadata() or {})


class Headed:
    """Mixin before a trainer: the heads on its model are saved and loaded wherever the model is."""

    def facts(self) -> dict[str, str]:
        """What goes with the heads."""
        return {}

    def recall(self, facts: dict[str, str]) -> None:
        """The facts of a checkpoint that is gone on from."""

    def save_beside(self, folder: Path) -> None:
        save(self.accelerator.unwrap_model(self.model), folder, **self.facts())

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            self.save_beside(Path(output_dir or self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.recall(load(self.model, Path(resume_from_checkpoint)))

    def _load_best_model(self) -> None:
        super()._load_best_model()
        load(self.accelerator.unwrap_model(self.model), Path(self.state.best_model_checkpoint))


def width(model: Any) -> int:
    """Numbers in a hidden state."""
    return int(model.config.get_text_config().hidden_size)
