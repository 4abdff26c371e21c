"""A model's architecture as a few numbers: from its config, or what is typical of its size where no file is here yet.

Whatever the planner counts, it counts from these numbers and from the shapes of tensors. Nothing is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from data import models
from data.hubs import catalogue
from data.models import Card
from data.planning.forecast import (
    EMBEDDING,
    LANGUAGE,
    LAYER,
    OUTPUT,
    Shapes,
    layer_count,
    linear,
    matrices,
    part,
    trained_parameters,
    within,
)
from data.planning.sizes import resized
from engine.contract.args import TrainArgs
from engine.contract.errors import ArgsError, BoardError
from engine.contract.imitation import Pretrain
from engine.contract.vision import Vision

Known = Literal["files", "config", "size"]
PARTS = ("language", "projector", "tower")

# Feed-forward layers with two matrices instead of three: no gate.
PLAIN = {"gpt2", "gpt_neox", "gptj", "opt", "bloom", "falcon", "phi", "mpt", "codegen", "gpt_bigcode", "starcoder2"}


@dataclass(frozen=True)
class Shape:
    """hidden: the width between layers.   inner: of the feed-forward (of one expert).   heads, keys: of queries, and of
    keys and values.   head: the width of one.   experts, active: feed-forwards a layer, and how many a token takes."""

    hidden: int
    inner: int
    layers: int
    heads: int
    keys: int
    head: int
    vocabulary: int
    tied: bool = False
    gated: bool = True
    experts: int = 1
    active: int = 1

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape | None:
        """As `config.json` says it; None where it speaks of no stack of attention layers."""
        text = config.get("text_config") or config

        def number(*names: str) -> int:
            return next((int(text[name]) for name in names if isinstance(text.get(name), int)), 0)

        hidden, layers = number("hidden_size", "n_embd", "d_model"), number("num_hidden_layers", "n_layer", "n_layers")
        heads = number("num_attention_heads", "n_head", "n_heads")
        if not (hidden and layers and heads):
            return None
        experts = number("num_local_experts", "num_experts", "n_routed_experts") or 1
        inner = number("moe_intermediate_size") if experts > 1 else 0
        return cls(
            hidden=hidden,
            inner=inner or number("intermediate_size", "n_inner", "ffn_dim") or 4 * hidden,
            layers=layers,
            heads=heads,
            keys=number("num_key_value_heads") or heads,
            head=number("head_dim") or hidden // heads,
            vocabulary=number("vocab_size"),
            tied=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
            gated=text.get("model_type") not in PLAIN,
            experts=experts,
            active=number("num_experts_per_tok") or 1,
        )

    @classmethod
    def typical(cls, parameters: int) -> Shape:
        """What models of that size look like: a layer has some 13 hidden² parameters, and the width is 128 times the
        depth (Kaplan et al., 2020, section 3: loss depends on the size, hardly on the shape). The feed-forward takes
        what is left of `parameters`."""
        layers = max(2, round((parameters / (13 * 128**2)) ** (1 / 3)))
        words = 128_000 if parameters > 5e8 else 32_000
        rest = cls(128 * layers, 0, layers, layers, max(1, layers // 4), 128, words, tied=parameters < 2e9)
        left = max(0, parameters - count(rest.tensors()))
        return replace(rest, inner=max(128, round(left / (3 * rest.hidden * layers))))

    @property
    def queries(self) -> int:
        """The width of all queries."""
        return self.heads * self.head

    @property
    def values(self) -> int:
        """The width of all keys; that of all values is the same."""
        return self.keys * self.head

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every weight of a decoder like Llama's: two norms a layer, no biases, a norm at the end."""
        hidden, inner = self.hidden, self.inner
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, hidden)}
        for layer in range(self.layers):
            stem = f"model.layers.{layer}"
            found |= {
                f"{stem}.self_attn.q_proj.weight": (self.queries, hidden),
                f"{stem}.self_attn.k_proj.weight": (self.values, hidden),
                f"{stem}.self_attn.v_proj.weight": (self.values, hidden),
                f"{stem}.self_attn.o_proj.weight": (hidden, self.queries),
                f"{stem}.input_layernorm.weight": (hidden,),
                f"{stem}.post_attention_layernorm.weight": (hidden,),
            }
            for expert in range(self.experts):
                part = f"{stem}.mlp.experts.{expert}" if self.experts > 1 else f"{stem}.mlp"
                found |= {f"{part}.up_proj.weight": (inner, hidden), f"{part}.down_proj.weight": (hidden, inner)}
                if self.gated:
                    found[f"{part}.gate_proj.weight"] = (inner, hidden)
            if self.experts > 1:
                found[f"{stem}.mlp.gate.weight"] = (self.experts, hidden)
        found["model.norm.weight"] = (hidden,)
        if not self.tied:
            found["lm_head.weight"] = (self.vocabulary, hidden)
        return found


@dataclass(frozen=True)
class Subject:
    """The model that is planned for. known: by its `files`, by its `config`, or by its `size` alone."""

    shape: Shape
    shapes: Shapes
    parameters: int
    known: Known = "files"
    size: int = 0  # bytes of its files; 0 where unknown
    quantised: bool = False  # the files themselves hold quantised weights
    words: int = 0  # tokens that it gets in addition, of which adapters train the embeddings
    _trained: dict[str, int] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, card: Card) -> Subject:
        """Of a model whose files are here."""
        shape = Shape.of(card.config) or Shape.typical(max(card.parameters, 1))
        text = card.config.get("text_config") or card.config
        packed = "quantization_config" in card.config or "quantization_config" in text
        if packed:  # several weights in one number: their shapes tell nothing
            shapes: Shapes = shape.tensors()
            return cls(shape, shapes, count(shapes), size=card.size, quantised=True)
        return cls(shape, card.shapes, card.parameters, size=card.size)

    @classmethod
    def configured(cls, config: Mapping[str, Any], known: Known = "config") -> Subject:
        """Of a model of which only the config is known. Raises ValueError where that describes no decoder."""
        shape = Shape.of(config)
        if shape is None:
            raise ValueError("the config names no layers")
        shapes = shape.tensors()
        return cls(shape, shapes, count(shapes), known=known)

    @classmethod
    def sized(cls, parameters: int) -> Subject:
        """Of a model of which only the number of its parameters is known."""
        shape = Shape.typical(parameters)
        shapes = shape.tensors()
        return cls(shape, shapes, count(shapes), known="size")

    def grown(self, words: int) -> Subject:
        """The same with so many tokens more."""
        many = self.shape.vocabulary

        def taller(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
            spells = (EMBEDDING.search(name) or OUTPUT.search(name)) and shape[:1] == (many,)
            return (many + words, *shape[1:]) if spells else shape

        shapes = {name: taller(name, shape) for name, shape in self.shapes.items()}
        added = count(shapes) - count(self.shapes)
        return replace(
            self, shape=replace(self.shape, vocabulary=many + words), shapes=shapes, words=words,
            parameters=self.parameters + added, _trained={},
        )  # fmt: skip

    @cached_property
    def matrices(self) -> int:
        """Parameters in the matrices of the layers."""
        counted = sum(out * into for out, into in matrices(self.shapes).values())
        # Experts are often kept as one tensor of three dimensions.
        counted += sum(math.prod(shape) for shape in self.shapes.values() if len(shape) == 3)
        return min(counted, self.parameters)

    @cached_property
    def packed(self) -> int:
        """Parameters that quantisation takes: those in linear layers. Experts, as blocks, stay as they are."""
        return sum(out * into for out, into in linear(self.shapes).values())

    @cached_property
    def depth(self) -> int:
        """How many layers its stack has."""
        return max(1, layer_count(self.shapes) or self.shape.layers)

    def trained(self, method: Any, vision: Vision | None = None) -> int:
        """How many parameters `method` trains; counted once for each, as a mixture of experts has many tensors.

        vision: which parts are trained of a model that sees; the language part alone without it."""
        parts = {name for name in PARTS if getattr(vision or Vision(), name)} if self.sees else LANGUAGE
        key = repr((method, sorted(parts)))
        if key not in self._trained:
            learnt = self.words * self.shape.hidden * (1 if self.shape.tied else 2) if method.adapter else 0
            self._trained[key] = trained_parameters(self.shapes, method, tied=self.shape.tied, parts=parts) + learnt
        return self._trained[key]

    @cached_property
    def sees(self) -> bool:
        return any(part(name) == "tower" for name in self.shapes)

    @cached_property
    def layer(self) -> int:
        """Parameters of one layer of the stack."""
        own = within(self.shapes, LANGUAGE)
        inside = sum(math.prod(shape) for name, shape in own.items() if LAYER.search(name))
        return inside // max(1, self.shape.layers)

    @cached_property
    def block(self) -> int:
        """Parameters of a layer, or of all that is in none, whichever are more."""
        return max(self.layer, self.parameters - self.layer * self.depth)

    def ends(self, method: Any) -> tuple[int, int]:
        """Of what `method` trains, the numbers of the embeddings, and of an output layer of its own."""
        if method.adapter and not getattr(method, "extra_modules", ()):
            return 0, 0
        spelt = {name: shape for name, shape in within(self.shapes, LANGUAGE).items() if len(shape) == 2}
        ends = [{name: size for name, size in spelt.items() if end.search(name)} for end in (EMBEDDING, OUTPUT)]
        tables, output = (trained_parameters(end, method, tied=self.shape.tied) for end in ends)
        return tables, output

    @cached_property
    def working(self) -> int:
        """Parameters that multiply each token: all matrices but the table of embeddings, and of experts the active."""
        shape = self.shape
        idle = (shape.experts - shape.active) * (3 if shape.gated else 2) * shape.hidden * shape.inner * shape.layers
        return max(1, self.matrices - max(0, idle) + shape.vocabulary * shape.hidden)


def count(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def subject(name: str, card: Card | None) -> Subject | None:
    """The model called `name`, by its files (`card`) or by what the catalogue says; None where nothing is known."""
    if card:
        key = card.folder, card.size, card.parameters
        if key not in _subjects:
            while len(_subjects) >= KEPT:
                del _subjects[next(iter(_subjects))]
            _subjects[key] = Subject.of(card)
        return _subjects[key]
    entry = catalogue.find(name)
    return _sized(entry.parameters) if entry else None


def begun(args: TrainArgs, card: Card | None) -> Subject | None:
    """The model that a run begins with: the one that is named, or one from scratch or with more tokens. Sizes that do
    not fit are somebody else's to refuse."""
    found, task = subject(args.model.path, card), args.task
    if found and card and isinstance(task, Pretrain) and (task.size or task.vocabulary):
        with suppress(ArgsError, ValueError):
            config = resized(card.config, task.size)
            return Subject.configured(config | ({"vocab_size": task.vocabulary} if task.vocabulary else {}), "files")
    return found.grown(len(args.model.new_tokens)) if found and args.model.new_tokens else found


KEPT = 8  # models that are held as numbers
_subjects: dict[tuple[Path, int, int], Subject] = {}
_sized = lru_cache(maxsize=KEPT)(Subject.sized)


def named(name: str, workspace: Path) -> Subject | None:
    """The same, looked up in the workspace; None where nothing is known of it."""
    try:
        folder = models.find(name, workspace).folder
    except BoardError:
        return subject(name, None)
    return subject(name, models.card(folder) if folder else None)
