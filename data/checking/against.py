"""What the shapes in a model's own files say against a method, before anything is loaded.

The engine finds the same when it builds the model; here it is found in time. Knows no rows and no device.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from data import models
from data.models import Card
from data.planning import forecast
from engine.contract import own
from engine.contract.adapters import Lora, Oft, Tuner
from engine.contract.args import TrainArgs
from engine.contract.errors import Problem
from engine.contract.fields import AUTO
from engine.contract.methods import Expand, Freeze
from engine.contract.text import flow
from engine.contract.tuners import TUNERS, UPRIGHT

Misfit = Callable[[Mapping[str, Any], int, int], bool]
# For each adapter whose size must suit its layers: the setting, when it does not (of size, out, in), and what does.
SIZES: dict[str, tuple[str, Misfit, str]] = {
    "boft": ("boft_block_size", lambda size, out, into: into % size["boft_block_size"] or size["boft_block_size"] % 2,
             "an even divisor"),
    "c3a": ("block_size", lambda size, out, into: out % size["block_size"] or into % size["block_size"], "a divisor"),
    "fourierft": ("n_frequency", lambda size, out, into: size["n_frequency"] > out * into, "at most the product"),
    "gralora": ("gralora_k", lambda size, out, into: any(side % size["gralora_k"] for side in (out, into, size["r"])),
                "a divisor, of r too"),
    "miss": ("r", lambda size, out, into: size["r"] > into, "at most the second"),
    "psoft": ("r", lambda size, out, into: size["r"] > min(out, into), "at most the smaller"),
    "road": ("group_size", lambda size, out, into: out % size["group_size"] or size["group_size"] % 2,
             "an even divisor of the first"),
    "shira": ("r", lambda size, out, into: size["r"] * (out + into) > out * into, "a smaller one"),
    "vblora": ("vector_length", lambda size, out, into: out % size["vector_length"] or into % size["vector_length"],
               "a divisor"),
    "waveft": ("n_frequency", lambda size, out, into: size["n_frequency"] > out * into, "at most the product"),
}  # fmt: skip
# What families do to logits behind the output layer, and the value that does nothing.
SCALED: dict[str, float | None] = {
    "final_logit_softcapping": None, "logits_scaling": 1.0, "logit_scale": 1.0, "lm_head_multiplier": 1.0,
}  # fmt: skip
NO_MATRIX = "This model has no layers whose matrices are known by name. Choose last or first."


def problems(card: Card, method: Any) -> Iterator[Problem]:
    """Each at its argument. A model whose shapes are not known has nothing against anything."""
    shapes, layers = card.shapes, forecast.layer_count(card.shapes)
    if not shapes:
        return
    counted = isinstance(method, Expand) or (isinstance(method, Freeze) and method.which != "spectrum")
    if counted and method.layers > layers:
        yield Problem("method.layers", f"{method.layers} is more than the {layers} layers of this model.")
    if isinstance(method, Freeze):
        yield from _chosen(shapes, method)
    if models.sees(card.folder) and (method.virtual or isinstance(method, Expand)):
        does = "learn a prompt" if method.virtual else "get new layers"
        yield Problem("method.kind", f"Only models that read text alone can {does}. Choose lora.")
    yield from _targets(card, method)
    if forecast.turned(shapes):
        yield from _turned(method)
    if isinstance(method, Lora):
        yield from _of_lora(shapes, layers, method)
    if isinstance(method, Tuner) and method.tuner in SIZES:
        yield from _size(card, method)


def _turned(method: Any) -> Iterator[Problem]:
    """What cannot be put on layers whose weights lie the other way round, as GPT-2's do."""
    lies = "the weights of this model lie the other way round"
    if isinstance(method, Oft) or (isinstance(method, Tuner) and method.tuner in UPRIGHT):
        path = "method.tuner" if isinstance(method, Tuner) else "method.kind"
        yield Problem(path, f"PEFT has no such adapter for layers like these: {lies}. Choose lora under method.kind.")
    if isinstance(method, Lora) and method.init in ("pissa", "olora", "eva"):
        yield Problem("method.init", f"{method.init} takes layers apart, and {lies}. Set it to default.")
    if isinstance(method, Lora) and method.replicate:
        yield Problem("method.replicate", "Layers are repeated in models of Llama's kind alone. Leave it empty.")


def _chosen(shapes: Mapping[str, Any], method: Freeze) -> Iterator[Problem]:
    if method.which == "spectrum" and not forecast.kinds(shapes):
        yield Problem("method.which", NO_MATRIX)
    for pattern in method.modules:
        if not any(fnmatchcase(name, one) for name in shapes for one in (pattern, f"{pattern}.*")):
            some = ", ".join(list(shapes)[:: max(1, len(shapes) // 4)][:4])
            said = f"No weight is called {pattern!r}. They are called {some}; * stands for anything."
            yield Problem("method.modules", said)


def _of_lora(shapes: Mapping[str, Any], layers: int, method: Lora) -> Iterator[Problem]:
    if any(last > layers for _, last in method.ranges):
        yield Problem("method.replicate", f"This model has {layers} layers, so no range goes beyond it.")
    narrowest = min((into for _, into in forecast.targeted(shapes, method.targets).values()), default=method.rank)
    if method.init == "eva" and narrowest < method.rank:
        said = f"eva (method.init) finds no more directions than a layer has inputs, and here one has {narrowest}."
        yield Problem("method.rank", f"{said} Lower it, or set method.init to default.")
    names = {part for name in shapes for part in name.split(".")[:-1] if not part.isdigit()}
    if unknown := [name for name in method.extra_modules if name.rpartition(".")[2] not in {*names, "lm_head"}]:
        said = f"The model has no module called {', '.join(unknown)}. It has {', '.join(sorted(names))}."
        yield Problem("method.extra_modules", said)


def length(context: int, args: TrainArgs) -> Iterator[Problem]:
    """Why rows of the maximum length do not go into a context of so many tokens; 0 is one that is not known."""
    learnt = getattr(args.method, "tokens", 0)
    if not 0 < context < args.data.max_length + learnt:
        return
    if learnt:
        said = f"{args.data.max_length} and the {learnt} learnt tokens (method.tokens) are"
        yield Problem("data.max_length", f"{said} over the model's context of {context}. Lower one of both.")
    else:
        yield Problem("data.max_length", f"{args.data.max_length} is over the model's context of {context}. Lower it.")


def positions(card: Card) -> Iterator[Problem]:
    """Why the model's positions cannot be stretched, as far as its config says how they are made."""
    config = card.config.get("text_config") or card.config
    known = config.get("rope_parameters") or config.get("rope_scaling") or {}
    said = ""
    if any(isinstance(value, Mapping) for value in known.values()):
        said = "has no rotary positions of one kind"
    elif (known.get("rope_type") or known.get("type") or "default") not in ("default", "mrope"):
        said = "has its positions stretched already"
    if said:
        yield Problem("model.rope", f"{card.name} {said}. Set it to none.")


def loss(card: Card, args: TrainArgs) -> Iterator[Problem]:
    """Why the loss cannot be taken in chunks, for which the output layer must be plain and the last thing in the model.

    Families say otherwise in their configs; of those that say nothing the engine asks the model.
    """
    if args.compute.loss != "chunked":
        return
    config = card.config.get("text_config") or card.config
    tied = not any(forecast.OUTPUT.search(name) for name in card.shapes)
    extra = args.method.extra_modules if isinstance(args.method, Lora) else []
    wrapped = {"lm_head", *(["embed_tokens"] if tied else [])} & {name.rpartition(".")[2] for name in extra}
    if models.sees(card.folder):
        said = "rows with pictures are padded"
    elif changed := [name for name, still in SCALED.items() if config.get(name, still) != still]:
        said = f"it changes its logits after the output layer ({changed[0]})"
    elif wrapped:
        said = f"its output layer is kept beside another (method.extra_modules: {min(wrapped)})"
    else:
        return
    yield Problem("compute.loss", f"This model cannot: {said}. Set it to auto.")


def continued(folder: Path, method: Lora) -> Iterator[Problem]:
    """What the adapter in `folder` says against being trained on, or against another on top of it."""
    said = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    name = method.start_from
    if said["peft_type"] != "LORA":
        yield Problem("method.start_from", f"{name} is no LoRA adapter ({said['peft_type']}). Choose one that is.")
    elif method.on_top:
        more = ("use_dora", "modules_to_save", "lora_bias", "layer_replication")
        if any(said.get(one) for one in more) or said.get("bias", "none") != "none":
            why = f"{name} is more than a plain LoRA adapter, so nothing can be trained on top of it."
            yield Problem("method.start_from", f"{why} Turn method.on_top off.")
    else:
        alpha = 2.0 * method.rank if method.alpha == AUTO else method.alpha
        wanted = {"rank": method.rank, "alpha": alpha, "dora": method.dora, "rslora": method.rslora}
        names = {"rank": "r", "alpha": "lora_alpha", "dora": "use_dora", "rslora": "use_rslora"}
        for field, value in wanted.items():
            if (has := said.get(names[field], False)) != value:
                yield Problem(f"method.{field}", f"{name} (method.start_from) has {flow(has)}. Set it to that.")


def _targets(card: Card, method: Any) -> Iterator[Problem]:
    targets = getattr(method, "targets", [AUTO])
    if targets == [AUTO] or (isinstance(method, Tuner) and TUNERS[method.tuner].norms):
        return
    unknown, has = forecast.unknown_targets(card.shapes, targets)
    if unknown:
        said = f"The model has no layer called {', '.join(unknown)}. It has {', '.join(has)}."
        spared = " Adapters leave the feed-forwards with experts as they are." if forecast.sparse(card.shapes) else ""
        yield Problem("method.targets", f"{said}{spared}")


def experts(card: Card, args: TrainArgs) -> Iterator[str]:
    """What becomes of a model's experts beside an adapter; nothing of a model without them."""
    if args.method.adapter and forecast.sparse(card.shapes):
        wide = args.model.quantisation != "none"
        size = (
            f", and in full precision: {args.model.quantisation} (model.quantisation) takes linear layers"
            if wide
            else ""
        )
        yield f"The adapter leaves the feed-forwards with experts as they are{size}. Full and Freeze train them."


def _size(card: Card, method: Tuner) -> Iterator[Problem]:
    name, misfits, wanted = SIZES[method.tuner]
    size = own.values(method.own, TUNERS[method.tuner].own)
    for layer, (out, into) in forecast.targeted(card.shapes, method.targets).items():
        if misfits(size, out, into):
            said = f"{size[name]} does not suit {layer}, which is {out} by {into}: give {wanted}."
            yield Problem(f"method.own.{name}", said)
            return
