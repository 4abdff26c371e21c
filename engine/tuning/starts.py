"""Where LoRA starts: in the weights' own strongest directions, in those of the rows, or on top of another adapter.

PiSSA and OLoRA take a part out of the weights and train it as the adapter. Here the weights stay: the adapter gets the
part twice, once to be trained and once, with its sign turned, to stand still. The two cancel out at the start, and what
is saved is a plain adapter of twice the rank that fits the untouched base, in every checkpoint too. Another adapter
below a new one stands still in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from data.checking import against
from engine.contract.adapters import Lora
from engine.contract.args import TrainArgs
from engine.contract.errors import ArgsError, ModelError, Problem
from engine.models.quantised import widened as unpacked

# Above this the exact decomposition takes minutes a layer, and the first directions of a random one are as good.
EXACT = 1024
ROWS = 64  # batches that EVA looks at, at most


@dataclass(frozen=True)
class Start:
    """What a method may ask beside the model. folder: of the adapter that `method.start_from` names.

    batches: makes the run's own batches, as the trainer gets them.   steps: of the whole run.   say: notes a choice.
    """

    folder: Path | None = None
    batches: Callable[[], Iterable[dict[str, Any]]] | None = None
    steps: int = 0
    say: Callable[[str], object] = lambda said: None


class Pair(NamedTuple):
    """The two matrices of one layer: down (rank, in), up (out, rank). What they add is scale x up x down."""

    down: torch.Tensor
    up: torch.Tensor
    scale: float


Before = dict[str, Pair]


def before(model: Any, args: TrainArgs, start: Start) -> Before:
    """The adapter that stays below the new one, by layer; empty without `on_top`. `model` is left as it was."""
    chosen: Lora = args.method
    if not chosen.on_top:
        return {}
    from engine.models.model import with_adapter

    if wrong := list(against.continued(start.folder, chosen)):
        raise ArgsError(wrong)
    attached = with_adapter(model, start.folder)
    found = {
        name.removeprefix("base_model.model."): Pair(
            module.lora_A["default"].weight.detach().float().clone(),
            module.lora_B["default"].weight.detach().float().clone(),
            module.scaling["default"],
        )
        for name, module in _adapted(attached)
    }
    attached.unload()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return found


def widened(chosen: Lora, keywords: dict[str, Any], before: Before) -> dict[str, Any]:
    """Rank and alpha with which the adapter also holds what stands still, scaled as it would be without."""
    split = chosen.init in ("pissa", "olora")
    still = chosen.rank if split else max((len(pair.down) for pair in before.values()), default=0)
    grown = 1 + still / chosen.rank
    alpha = keywords["lora_alpha"] * (math.sqrt(grown) if chosen.rslora else grown)
    return {"r": chosen.rank + still, "lora_alpha": alpha} if still else {}


def take(model: Any, chosen: Lora, below: Before, start: Start) -> None:
    """Set the adapter of `model` to where `chosen` wants it to start, and hold still what must not move."""
    if chosen.init == "eva":
        _eva(model, start, chosen.rank)
    for name, layer in _adapted(model):
        name = name.removeprefix("base_model.model.")
        if chosen.on_top:
            _hold(layer, chosen.rank, below.get(name))
        elif chosen.init in ("pissa", "olora"):
            _split(layer, chosen)
        elif chosen.init == "loftq":
            _mend(layer, chosen, _stored(Path(model.get_base_model().name_or_path), f"{name}.weight"))
    if chosen.on_top and (lost := set(below) - {name.removeprefix("base_model.model.") for name, _ in _adapted(model)}):
        said = f"{chosen.start_from} adapts {sorted(lost)[0]} too. Add its layers, or leave all-linear."
        raise ArgsError([Problem("method.targets", said)])


def _adapted(model: Any) -> Iterator[tuple[str, Any]]:
    """The layers of `model` with LoRA's two matrices, by name."""
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and "default" in module.lora_A:
            yield name, module


@torch.no_grad()
def _hold(layer: Any, rank: int, below: Pair | None) -> None:
    """Put `below` behind the first `rank` directions of the adapter, where it stands still."""
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    down[rank:] = 0
    up[:, rank:] = 0
    if below is not None:
        down[rank : rank + len(below.down)] = below.down
        up[:, rank : rank + len(below.down)] = below.up * (below.scale / layer.scaling["default"])
    for weight, side in ((down, 0), (up, 1)):
        _freeze_behind(weight, rank, side)


def _freeze_behind(weight: nn.Parameter, rank: int, side: int) -> None:
    """No gradient reaches `weight` from index `rank` on, so no optimiser that starts from gradients moves it."""

    def first(gradient: torch.Tensor) -> torch.Tensor:
        kept = gradient.clone()
        kept.narrow(side, rank, kept.shape[side] - rank).zero_()
        return kept

    weight.register_hook(first)


@torch.no_grad()
def _split(layer: Any, chosen: Lora) -> None:
    """Train the strongest directions of the layer's weight, and let their first state, negated, stand still."""
    rank, scale = chosen.rank, layer.scaling["default"]
    weight = layer.get_base_layer().weight.float()
    found, up_at_start = (_pissa if chosen.init == "pissa" else _olora)(weight, rank, scale)
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    down.zero_()
    up.zero_()
    many = len(found)
    down[:many], up[:, :many] = found, up_at_start
    _hold(layer, rank, Pair(found, -up_at_start, scale))


def _pissa(weight: torch.Tensor, rank: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(down, up) with scale x up x down the best `weight` of that rank (Meng et al., 2024, eq. 2-3)."""
    up, strength, down = _directions(weight, rank)
    root = (strength / scale).sqrt()
    return root[:, None] * down, up * root


def _olora(weight: torch.Tensor, rank: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(down, up): the first rows of R and columns of Q in weight = QR (Buyukakyuz, 2024)."""
    q, r = torch.linalg.qr(weight)
    return r[:rank], q[:, :rank]


def _directions(weight: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The `rank` strongest singular directions: (out, rank), (rank,), (rank, in)."""
    if min(weight.shape) <= EXACT:
        up, strength, down = torch.linalg.svd(weight, full_matrices=False)
    else:
        up, strength, columns = torch.svd_lowrank(weight, q=min(rank + 8, *weight.shape), niter=16)
        down = columns.T
    return up[:, :rank], strength[:rank], down[:rank]


@torch.no_grad()
def _mend(layer: Any, chosen: Lora, stored: torch.Tensor) -> None:
    """LoftQ with the base as it is (Li et al., 2023, one iteration): the adapter starts as what quantising lost."""
    base, scale = layer.get_base_layer(), layer.scaling["default"]
    lost = stored.to(base.weight.device).float() - unpacked(base.weight, getattr(base, "state", None))
    up, strength, down = _directions(lost, chosen.rank)
    root = (strength / scale).sqrt()
    layer.lora_A["default"].weight[: len(root)] = root[:, None] * down
    layer.lora_B["default"].weight[:, : len(root)] = up * root


def _stored(folder: Path, name: str) -> torch.Tensor:
    """The tensor called `name` in the files of `folder`, in full precision."""
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for known in (name, name.removeprefix("model.")):
                if known in tensors.keys():
                    return tensors.get_tensor(known)
    raise ModelError(
        f"{folder.name} has no weights called {name}, which loftq compares with.", "Set method.init to default."
    )


def _eva(model: Any, start: Start, rank: int) -> None:
    """The directions in which the rows' own activations are strongest (Paischer et al., 2024), equal ranks."""
    from peft import initialize_lora_eva_weights

    assert start.batches is not None
    batches = []
    for batch in start.batches():
        if "input_ids" not in batch or "attention_mask" not in batch:
            said = "eva reads batches of rows, which this task does not make. Set method.init to default."
            raise ArgsError([Problem("method.init", said)])
        if int(batch["attention_mask"].sum()) < rank:
            continue  # of so few tokens PEFT takes none, and would wait for more without an end
        batches.append({name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")})
        if len(batches) == ROWS:
            break
    if not batches:
        said = f"No batch has {rank} tokens, of which eva (method.init) takes as many directions. Lower it"
        raise ArgsError([Problem("method.rank", f"{said}, or raise steps.batch_size.")])
    initialize_lora_eva_weights(model, batches, show_progress_bar=False)
