"""Which weights a method trains, and how many those are, from the shapes in the model's own files.

Nothing is loaded. What that takes of memory and time is counted in `data/planning/`.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from data.planning import trained
from engine.contract.adapters import Adapter, Ia3, Lora, Oft, Prefix, Prompt, Tuner
from engine.contract.methods import Expand, Freeze
from engine.contract.tuners import TUNERS

Shapes = Mapping[str, tuple[int, ...]]

LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|layer)\.(\d+)\.")
EMBEDDING = re.compile(r"(?:^|\.)(?:\w*embed\w*|wte|wpe)\.weight$")
NORM = re.compile(r"(?:^|\.)\w*(?:norm|ln_\w+|ln\d?)\w*\.(?:weight|bias)$")
# What families call the layers that (IA)^3 scales when nobody names others.
KEYS_AND_VALUES = ("k_proj", "v_proj", "query_key_value", "c_attn", "qkv_proj")
FEEDFORWARD = ("down_proj", "fc2", "dense_4h_to_h", "w2", "mlp.c_proj")
EXPERTS = re.compile(r"^(.*?)(?:\.experts\.|(?<=\.block_sparse_moe)\.)")
OUTPUT = re.compile(r"(?:^|\.)(?:lm_head|embed_out)\.weight$")
# What families call what a model sees with, and what stands between that and its language part.
TOWER = re.compile(r"(?:^|\.)(?:visual|vision\w*)\.")
PROJECTOR = re.compile(r"(?:^|\.)\w*(?:merger|projector|connector)\w*\.|(?:^|\.)image_newline$")
LANGUAGE = frozenset({"language"})


def part(name: str) -> str:
    """The part of a model that the weight called `name` belongs to: `tower`, `projector` or `language`, which is all of
    one that reads text alone (engine/models/parts.py asks the model itself)."""
    if PROJECTOR.search(name):
        return "projector"
    return "tower" if TOWER.search(name) else "language"


def within(shapes: Shapes, parts: Collection[str]) -> dict[str, tuple[int, ...]]:
    """Those of the weights that belong to these parts."""
    return {name: shape for name, shape in shapes.items() if part(name) in parts}


def matrices(shapes: Shapes) -> dict[str, tuple[int, int]]:
    """Layer name -> (out, in) of every matrix that multiplies tokens: no embedding and no output layer."""
    out, into = (1, 0) if turned(shapes) else (0, 1)
    return {
        name.removesuffix(".weight"): (shape[out], shape[into])
        for name, shape in shapes.items()
        if len(shape) == 2 and name.endswith(".weight") and not EMBEDDING.search(name) and not OUTPUT.search(name)
    }


def turned(shapes: Shapes) -> bool:
    """Whether the weights of layers are (in, out), as GPT-2 has them: its feed-forward then grows to the right."""
    return any(shape[0] < shape[1] for name, shape in shapes.items() if name.endswith(".mlp.c_fc.weight"))


def sparse(names: Iterable[str]) -> frozenset[str]:
    """The places of feed-forwards that hold experts, such as `model.layers.*.mlp`, from the names of a model's weights;
    none of a model without experts."""
    found = (EXPERTS.search(name) for name in names)
    return frozenset(_place(place[1]) for place in found if place)


def lies_in(name: str, places: Collection[str]) -> bool:
    """Whether the layer called `name` lies in one of the feed-forwards at these places, in whatever layer."""
    return bool(places) and any(f"{_place(name)}.".startswith(f"{place}.") for place in places)


def _place(name: str) -> str:
    return re.sub(r"\.\d+(?=\.)", ".*", name)


def linear(shapes: Shapes) -> dict[str, tuple[int, int]]:
    """The matrices that are linear layers in the loaded model. Experts are not: transformers holds all of a layer as
    one block; nor is the router, which chooses among them."""
    routers = [f"{place}.{name}" for place in sparse(shapes) for name in ("gate", "router")]
    return {
        name: shape
        for name, shape in matrices(shapes).items()
        if ".experts." not in name and _place(name) not in routers
    }


def adapted(shapes: Shapes) -> dict[str, tuple[int, int]]:
    """The linear layers that an adapter can sit on: those of PEFT's `all-linear`, without the feed-forwards that hold
    experts. PEFT takes a layer there that is called as the experts' are for these, in some families of models."""
    places = sparse(shapes)
    return {name: shape for name, shape in linear(shapes).items() if not lies_in(name, places)}


def targeted(shapes: Shapes, targets: Sequence[str]) -> dict[str, tuple[int, int]]:
    """The layers for an adapter that `targets` name: all of them, or those whose name is or ends with a target."""
    layers = adapted(shapes)
    if list(targets) == ["all-linear"]:
        return layers
    wanted = tuple(f".{target}" for target in targets)
    return {name: shape for name, shape in layers.items() if f".{name}".endswith(wanted)}


def unknown_targets(shapes: Shapes, targets: Sequence[str]) -> tuple[list[str], list[str]]:
    """The targets that no layer is called, and the names that layers do have."""
    layers = adapted(shapes)
    unknown = [] if list(targets) == ["all-linear"] else [name for name in targets if not targeted(shapes, [name])]
    return unknown, sorted({name.rpartition(".")[2] for name in layers})


def layer_count(shapes: Shapes) -> int:
    """How many layers the stack of the model, or of its language part, has."""
    return max((int(found[1]) + 1 for name in within(shapes, LANGUAGE) if (found := LAYER.search(name))), default=0)


def kinds(shapes: Shapes) -> list[dict[int, list[str]]]:
    """The matrices in the layers, by kind: the names by layer, those of one kind of one size in every layer.

    All experts of a layer are one, whether they are held as matrices or as a block (experts, rows, columns).
    """
    placed: dict[tuple[str, str], dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, shape in shapes.items():
        block = len(shape) == 3 and ".experts." in name and not name.endswith("bias")
        if (found := LAYER.search(name)) and (block or (len(shape) == 2 and name.endswith(".weight"))):
            kind = re.sub(r"\.\d+\.", ".", name[found.end() :])
            placed[name[: found.start()], kind][int(found[1])].append(name)
    sized: dict[tuple[str, str, int], dict[int, list[str]]] = defaultdict(dict)
    for kind_of, layers in placed.items():
        for layer in sorted(layers):
            sized[*kind_of, sum(math.prod(shapes[name]) for name in layers[layer])][layer] = layers[layer]
    return list(sized.values())


def share_of(share: float, many: int) -> int:
    """How many of `many` layers a share of them is: one at least, else rounded up."""
    return max(1, math.ceil(round(share * many, 6)))


def trained_parameters(shapes: Shapes, method: Any, *, tied: bool = False, parts: Collection[str] = LANGUAGE) -> int:
    """How many parameters the method trains: an adapter's own, or those of the weights that it moves.

    Freeze: all of the chosen layers; with the head also the final norm and the output layer (tied: the embeddings).
    New layers are copies of those before them, evenly spread (Wu et al., 2024). parts: those of a model that sees that
    are trained; the tower and the projector whole, or, with an adapter, where they have no layers for it.
    """
    own, others = within(shapes, parts), [within(shapes, {one}) for one in sorted(set(parts) - LANGUAGE)]
    if isinstance(method, Adapter):
        norms = isinstance(method, Tuner) and TUNERS[method.tuner].norms
        return _of_adapter(own, method) + sum(_numbers(other) for other in others if not (norms or linear(other)))
    if isinstance(method, Freeze):
        layers = layer_count(shapes)
        moved = {name for name in within(own, LANGUAGE) if _moves(name, layers, method, tied)}
        moved |= {name for name in shapes if "language" in parts and _named_by(name, method.modules)}
        moved |= {name for other in others for name in other}
        total = sum(math.prod(shapes[name]) for name in moved)
        if method.which == "spectrum":
            still = {name: shape for name, shape in within(own, LANGUAGE).items() if name not in moved}
            for kind in kinds(still):
                one = sum(math.prod(shapes[name]) for name in next(iter(kind.values())))
                total += share_of(method.share, len(kind)) * one
        return total
    if isinstance(method, Expand):
        layers = layer_count(shapes)
        copied = {round((place + 1) * layers / method.layers) - 1 for place in range(method.layers)}
        of = {name: int(found[1]) for name in shapes if (found := LAYER.search(name))}
        return sum(math.prod(shapes[name]) for name, place in of.items() if place in copied)
    return _numbers(own)


def _numbers(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def _of_adapter(shapes: Shapes, method: Adapter) -> int:
    if isinstance(method, Prompt):
        return method.tokens * _width(shapes)
    if isinstance(method, Prefix):  # keys and values of every layer
        keys = [shape[0] for name, shape in shapes.items() if name.endswith("k_proj.weight")]
        return 2 * method.tokens * (sum(keys) or _width(shapes) * layer_count(shapes))
    layers = targeted(shapes, method.targets)  # type: ignore[attr-defined]
    if isinstance(method, Ia3):
        last = _named(shapes, method.feedforward, FEEDFORWARD)
        found = _named(shapes, method.targets, (*KEYS_AND_VALUES, *FEEDFORWARD))
        return sum(into if name in last else out for name, (out, into) in found.items())
    if isinstance(method, Lora):
        again = [place for first, last in method.ranges for place in range(first, last)]
        times = {name: again.count(int(found[1])) for name in layers if again and (found := LAYER.search(name))}
        repeated = [size for name, size in layers.items() for _ in range(times.get(name, 1))]
        whole = sum(math.prod(shape) for name, shape in shapes.items() if _within(name, method.extra_modules))
        return trained.lora(method, repeated) + whole
    if isinstance(method, Oft):
        return trained.oft(method, layers.values())
    norms = sum(math.prod(shape) for name, shape in shapes.items() if NORM.search(name))
    return trained.tuner(method, list(layers.values()), norms)  # type: ignore[arg-type]


def _width(shapes: Shapes) -> int:
    return next((shape[1] for name, shape in shapes.items() if EMBEDDING.search(name) and len(shape) == 2), 0)


def _named(shapes: Shapes, names: Sequence[str], usual: Sequence[str]) -> dict[str, tuple[int, int]]:
    return targeted(shapes, usual if list(names) == ["auto"] else names)


def _within(name: str, modules: Sequence[str]) -> bool:
    """Whether the weight called `name` belongs to a module that is, or whose name ends with, one of `modules`."""
    return any(f".{module}." in f".{name}" for module in modules)


def _named_by(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, one) for pattern in patterns for one in (pattern, f"{pattern}.*"))


def _moves(name: str, layers: int, method: Freeze, tied: bool) -> bool:
    if found := LAYER.search(name):
        place = int(found[1])
        if method.which == "spectrum":
            return False
        return place < method.layers if method.which == "first" else place >= layers - method.layers
    if EMBEDDING.search(name):
        places = re.search(r"(?:^|\.)(?:wpe|embed_positions)\.", name)
        return (method.embeddings or (method.head and tied)) and not places
    return method.head or (method.embeddings and tied and bool(OUTPUT.search(name)))
