"""Adapters on one base in memory: each answers as if it were alone, and the base as if there were none.

LoRA adapters lie in the same modules and are switched. Others cannot share modules, so each has modules of its own over
the same weights: a twin, which costs next to nothing. Knows no names of runs and no conversation.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine.feedback.guidance import Guidance
from engine.models import quantised
from engine.models.model import with_adapter


@dataclass(frozen=True)
class Speaker:
    """A base with one of its adapters, or with none ("").

    takes: tokens of the context that a learnt prompt fills.   guidance: what was learnt beside the weights of what to
    write, if anything.
    """

    model: Any
    adapter: str = ""
    takes: int = 0
    guidance: Guidance | None = None

    @contextmanager
    def speaking(self) -> Iterator[Any]:
        """The model, switched to this speaker. One at a time: others may share its modules."""
        with self._switched() as model, self.guidance.on(model) if self.guidance else nullcontext():
            yield model

    @contextmanager
    def _switched(self) -> Iterator[Any]:
        if self.adapter:
            self.model.set_adapter(self.adapter, inference_mode=True)
            yield self.model
        elif hasattr(self.model, "disable_adapter"):
            with self.model.disable_adapter():
                yield self.model
        else:
            yield self.model


def attached(model: Any, adapters: Mapping[str, Path], base: Path) -> dict[str, Speaker]:
    """Speakers for the adapters in these folders by name, and for the base, which lies in the folder `base`, alone
    under "". Raises ModelError."""
    told = {name: json.loads((folder / "adapter_config.json").read_text()) for name, folder in adapters.items()}
    alone = [name for name, config in told.items() if config["peft_type"] != "LORA" or config.get("layer_replication")]
    twins = {name: twin(model) for name in alone}  # before anything is attached
    found = {}
    for name in adapters:
        if name not in twins:
            model = with_adapter(model, adapters[name], name)
    for name, folder in adapters.items():
        own = with_adapter(twins[name], folder, name) if name in twins else model
        found[name] = Speaker(
            own.eval(), name, told[name].get("num_virtual_tokens") or 0, Guidance.of(folder, model.device)
        )
    return {"": Speaker(model.eval(), guidance=Guidance.of(base, model.device)), **found}


def share(theirs: Any, ours: Any) -> int:
    """Puts the frozen weights of `ours` in the places of those of `theirs` that are the very same; returns the bytes
    that this frees. What moves in `theirs` must not be shared: it is taken to stand still."""
    kept = {_plain(name): one for name, one in ours.named_parameters() if not one.requires_grad}
    freed = 0
    for name, own in theirs.named_parameters():
        same = kept.get(_plain(name))
        if same is None or (own.dtype, own.device, own.shape) != (same.dtype, same.device, same.shape):
            continue
        if torch.equal(own, same):
            own.data = same.data
            freed += own.nbytes
    return freed


def _plain(name: str) -> str:
    """The name of a weight without what adapters put around it."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def twin(model: Any) -> Any:
    """Modules of its own over the very weights of `model`."""
    weights = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, {**weights, **quantised.shared(model)})
