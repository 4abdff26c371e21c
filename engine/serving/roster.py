"""Who can answer: each base loaded once, its adapters attached to it, and a name for every one of them.

Switching between them costs nothing and changes nothing: with its adapters off, a base gives exactly what it gives
without any. Knows no HTTP.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from transformers import GenerationConfig

from data import models
from data import weights as named
from data.encoding.render import ChatTemplate
from data.encoding.templates import Family, families, suggest
from data.encoding.tools import Call, parse
from data.rows import pictures
from data.rows.conversation import Message
from data.weights import check_writes
from engine.contract import text
from engine.contract.args import ServeArgs
from engine.contract.errors import DataError, ModelError, ResourceError
from engine.contract.machine import memory
from engine.models.attached import Speaker, attached
from engine.models.model import device_of, dtype_of, folder_of, model_of, tokenizer_of
from engine.models.vision import Shown, Sight, expand
from engine.serving.generate import Beside


@dataclass(frozen=True)
class Voice:
    """One that answers by `name`: a base, an adapter on it, or a model that was trained whole (`full`).

    context: tokens that it can read and write in all, or None when its config does not say. ends: ids that end a turn.
    stops: texts that end one, where no token does. family: how it writes tool calls, where that is known.
    """

    name: str
    kind: Literal["base", "adapter", "full"]
    base: str
    folder: Path
    context: int | None
    ends: tuple[int, ...]
    stops: tuple[str, ...]
    family: Family | None
    fingerprint: str
    tokenizer: Any
    template: ChatTemplate | None
    speaker: Speaker
    sight: Sight | None = None

    def prompt(self, messages: list[Message], tools: list[dict[str, Any]] | None = None) -> list[int]:
        """The token ids of a conversation that waits for an answer, rendered as in training."""
        if self.template is None:
            raise DataError(
                f"{self.name} brings no chat template, so it cannot hold a conversation.",
                "Load it with a template, such as template=chatml, or ask for /v1/completions.",
            )
        shown = pictures.of(messages), pictures.of(messages, "video")
        if any(shown) and self.sight is None:
            raise DataError(f"{self.name} reads text alone.", "Leave the picture out, or load a model that sees.")
        asked = self.template.render(messages, tools, add_generation_prompt=True)
        if self.sight:
            asked = expand(asked, self.sight.signs, self.sight.expanded(*shown))[0]
        return list(self.tokenizer(asked, add_special_tokens=False).input_ids)

    def beside(self, shown: Shown) -> Beside:
        """What the model takes beside the tokens of a prompt that shows these pictures, for as many rows of it."""
        sight = self.sight
        if sight is None:
            return lambda ids: {}
        return lambda ids: {
            name: value.to(ids.device) for name, value in sight.beside(ids.cpu(), [shown] * len(ids)).items()
        }

    def calls(self, ids: list[int], tools: list[dict[str, Any]] | None) -> tuple[str, list[Call]]:
        """What the tokens of an answer say outside its tool calls, and the calls; none where they cannot be read."""
        if not tools or self.family is None or self.family.tools is None:
            return "", []
        # Some families mark their calls with special tokens, which the text for people leaves out.
        text, calls = parse(self.tokenizer.decode(ids, skip_special_tokens=False), self.family.tools, tools)
        for special in self.tokenizer.all_special_tokens:
            text = text.replace(special, "")
        return text.strip(), calls

    def speaking(self) -> AbstractContextManager[Any]:
        """The model, switched to this voice. One at a time: the others share its weights."""
        return self.speaker.speaking()


class Roster:
    """The voices by name, in the order in which they were asked for; the bases that nobody named come last."""

    def __init__(self, voices: Mapping[str, Voice]) -> None:
        self.voices = dict(voices)

    def find(self, name: str) -> Voice:
        """The voice called `name`, the first for an empty name. Raises ModelError naming those that there are."""
        if not name:
            return next(iter(self.voices.values()))
        if name in self.voices:
            return self.voices[name]
        near = difflib.get_close_matches(name, self.voices, n=1, cutoff=0.4)
        raise ModelError(
            f"There is no model {name!r} here; loaded are {', '.join(self.voices)}.",
            f"Did you mean {near[0]}?" if near else "",
        )


class Base(NamedTuple):
    """A base as it is held in memory."""

    folder: Path
    quantisation: str = "none"
    double: bool = True


@dataclass(frozen=True)
class _Wanted:
    word: str
    weights: named.Weights


def load(args: ServeArgs, workspace: Path, say: Callable[[str], None] = print) -> Roster:
    """Load what the words of `args.models` name. Raises ModelError or ResourceError with the way out."""
    device = device_of(args.device)
    dtype = dtype_of(args.dtype, device)
    groups: dict[Base, list[_Wanted]] = {}
    for word in dict.fromkeys(args.models):
        weights = named.find(word, workspace)
        check_writes(word, workspace)
        folder = folder_of(weights.base, workspace, weights.revision, code=args.trust_remote_code, say=say)
        held = Base(folder, weights.quantisation, weights.double_quantisation)
        groups.setdefault(held, []).append(_Wanted(word, weights))
    groups = _joined(groups)
    _check_room(list(groups), dtype, device)
    loaded: dict[str, Voice] = {}
    for held, wanted in groups.items():
        loaded |= _family(held, wanted, args, device, dtype, loaded, say)
    first = [word for word in dict.fromkeys(args.models)]
    return Roster({name: loaded[name] for name in [*first, *(name for name in loaded if name not in first)]})


def _joined(groups: dict[Base, list[_Wanted]]) -> dict[Base, list[_Wanted]]:
    """A base that was asked for by itself joins the adapters on it, however these hold it: it is not loaded twice."""
    tuned = {base for base, wanted in groups.items() if any(one.weights.adapter for one in wanted)}
    plain = [base for base in groups if base not in tuned]
    for base in plain:
        if other := next((one for one in tuned if one.folder.samefile(base.folder)), None):
            groups[other] = [*groups.pop(base), *groups[other]]
    return groups


def _family(
    held: Base,
    wanted: list[_Wanted],
    args: ServeArgs,
    device: torch.device,
    dtype: torch.dtype,
    taken: Mapping[str, Voice],
    say: Callable[[str], None],
) -> dict[str, Voice]:
    """One base and the adapters on it, by name."""
    alone = [one for one in wanted if one.weights.adapter is None]
    tuned = [one for one in wanted if one.weights.adapter is not None]
    folder = held.folder
    model = model_of(
        folder,
        dtype=dtype,
        device=device,
        trust_remote_code=args.trust_remote_code,
        quantisation=held.quantisation,
        double_quantisation=held.double,
    )
    tokenizer = tokenizer_of(folder, trust_remote_code=args.trust_remote_code)
    ends = _end_ids(model, tokenizer)
    model.generation_config = GenerationConfig()  # its recommendations would fill what a request leaves out
    base = alone[0].word if alone else _name(tuned[0].weights.base, folder, taken)
    size = model.get_memory_footprint()
    speakers = attached(model, {f"adapter{number}": one.weights.adapter for number, one in enumerate(tuned)}, folder)
    beside = f", with {', '.join(one.word for one in tuned)} attached" if tuned else ""
    how = str(dtype).removeprefix("torch.")
    how += f" over {held.quantisation} weights, as in training," if held.quantisation != "none" else ""
    say(f"{base}: {size / 1e9:.2f} GB in {how} on {device}{beside}.")

    # All are shown pictures as the first of them that was trained here was.
    trained = next((text.load(one.weights.run.args_path) for one in wanted if one.weights.run), None)
    sight = Sight.of(folder, getattr(trained, "vision", None))
    # A base without a template of its own is asked in the one that its adapters were trained with.
    fallback = next((one.weights.template for one in tuned if one.weights.template != "auto"), "auto")

    def voice(word: str, weights: named.Weights | None, adapter: str = "") -> Voice:
        own = weights.template if weights else "auto"
        template = _template(folder, args.template, own) or _template(folder, "auto", fallback)
        whole = weights is not None and weights.run is not None
        chosen = next((name for name in (args.template, own) if name != "auto"), "")
        family = families().get(chosen) or suggest(base) or suggest(folder.name)
        end_ids, stops = _stops(family, tokenizer)
        return Voice(
            name=word,
            kind="adapter" if adapter else "full" if whole else "base",
            base=base,
            folder=folder,
            context=max(0, models.card(folder).context - speakers[adapter].takes) or None,
            ends=tuple(sorted({*ends, *_turn_end(template, tokenizer), *end_ids})),
            stops=stops,
            family=family,
            fingerprint=_fingerprint(folder, weights.adapter if weights else None, dtype),
            tokenizer=tokenizer,
            template=template,
            speaker=speakers[adapter],
            sight=sight,
        )

    voices = {one.word: voice(one.word, one.weights) for one in alone} or {base: voice(base, None)}
    return {**{one.word: voice(one.word, one.weights, f"adapter{i}") for i, one in enumerate(tuned)}, **voices}


def _name(base: str, folder: Path, taken: Mapping[str, Voice]) -> str:
    """What to call a base that only its adapters named; one that lies in a run, by the run."""
    own = f"{folder.parent.name}-{folder.name}" if (folder.parent / "args.yaml").is_file() else folder.name
    name = own if Path(base).is_absolute() else base
    return name if name not in taken else str(folder)


def _check_room(bases: list[Base], dtype: torch.dtype, device: torch.device) -> None:
    width = {"none": dtype.itemsize, "int8": 1.0, "torchao_int8": 1.0}
    needed = sum(models.card(base.folder).parameters * width.get(base.quantisation, 0.6) for base in bases)
    folders = [base.folder for base in bases]
    free = memory(device=device.type).free
    if needed > free:
        many = f"The {len(folders)} models need" if len(folders) > 1 else f"{folders[0].name} needs"
        raise ResourceError(
            f"{many} about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free.",
            "Load fewer or smaller models, or end what else holds memory.",
        )


def _template(folder: Path, asked: str, own: str) -> ChatTemplate | None:
    """The template that was asked for, else the run's, else the model's; None when the model has none."""
    chosen = next((name for name in (asked, own) if name != "auto"), None)
    if chosen is None and models.card(folder).template == "none":
        return None
    return ChatTemplate.of(folder, chosen)


def _end_ids(model: Any, tokenizer: Any) -> set[int]:
    """Every id that the model's own files say ends an answer."""
    said = [model.generation_config.eos_token_id, model.config.get_text_config().eos_token_id, tokenizer.eos_token_id]
    return {id for ids in said if ids is not None for id in (ids if isinstance(ids, list) else [ids])}


def _stops(family: Family | None, tokenizer: Any) -> tuple[set[int], tuple[str, ...]]:
    """What else ends an answer of this family: ids of special tokens, and texts for which there is no token."""
    ids, texts = set(), []
    special = {str(token): id for id, token in tokenizer.added_tokens_decoder.items()}
    for stop in family.end.stop if family else ():
        if stop in special:
            ids.add(special[stop])
        elif not stop.startswith("<"):  # a token that this vocabulary lacks will never be said
            texts.append(stop)
    return ids, tuple(texts)


def _turn_end(template: ChatTemplate | None, tokenizer: Any) -> set[int]:
    """The special token with which the template closes an answer, if it does: some models' eos is another one."""
    if template is None:
        return set()
    try:
        text = template.render([{"role": "user", "content": "?"}, {"role": "assistant", "content": "\u2026"}])
    except DataError:
        return set()  # a template with rules of its own for conversations; the model's eos has to do
    ids = tokenizer(text.rpartition("\u2026")[2].lstrip(), add_special_tokens=False).input_ids
    special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return set(ids[:1]) & special


def _fingerprint(folder: Path, adapter: Path | None, dtype: torch.dtype) -> str:
    """Changes when the weights, their precision or torch do: then the same seed may give another answer."""
    files = sorted(file for place in (folder, adapter) if place for file in place.glob("*.safetensors"))
    facts = [torch.__version__, str(dtype), *(f"{file}{file.stat().st_mtime_ns}" for file in files)]
    return f"fp_{hashlib.sha256('|'.join(facts).encode()).hexdigest()[:10]}"
