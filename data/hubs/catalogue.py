"""The models and open datasets that people start from: found as one types, and held against what this machine has.

Reads `models.yaml` and `datasets.yaml`, whose heads say what each field means, and looks whether a model is here
already. It asks no hub and downloads nothing; a name that it does not list is none the worse for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field

from data import models
from data.datasets.entries import LIST, LOADER
from data.planning import optimisers
from data.planning.widths import PROGRAM

HERE = Path(__file__).resolve().parents[1]
T = TypeVar("T")
Kind = Literal["base", "instruct", "reasoning", "vision", "code"]
Method = Literal["lora", "full", "4-bit"]
Task = Literal["sft", "dpo", "kto", "reward", "pretrain", "grpo"]
# Bytes for each parameter, as data/planning counts them. LoRA: frozen weights in 16 bits, and 1 % of them trained.
# Full: weights and gradients in fp32, the 16-bit copy, AdamW's moments. 4-bit: half a byte, its scales, and embeddings
# and output layer in 16 bits, which is most in small models; the adapter as for LoRA.
TRAINED = 4 + 4 + 2 + optimisers.state("adamw_torch")
BYTES: dict[Method, float] = {"lora": 2 + 0.01 * TRAINED, "full": TRAINED, "4-bit": 0.7 + 0.01 * TRAINED}
NUMBER = r"(?<![\d.])"  # 1b is a size of its own, and not the end of 11b
ACTIVATIONS = 0.1  # of the above, for one short row with checkpointing: the least that anybody trains with


class _Listed(BaseModel):
    """What a model and a dataset have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    modelscope: str | None = None
    licence: str = ""
    gated: bool | None = None
    note: str = ""


class ModelEntry(_Listed):
    """One model of `models.yaml`; `parameters` is as its publisher rounds it where `rounded`. None: not checked.

    embedded: it comes with the board, in a wheel, and is prepared once.
    """

    title: str
    about: str = ""
    family: str = ""
    kind: Kind
    hub: tuple[str, ...] = Field(min_length=1)
    revision: str = ""
    parameters: int
    rounded: bool = False
    context: int | None = None
    code: bool = False
    template: str
    lora: tuple[str, ...] = ("all-linear",)
    embedded: bool = False


class DatasetEntry(_Listed):
    """One open dataset of `datasets.yaml`; `hub` is its id on Hugging Face. None: not checked."""

    hub: str
    subset: str = ""
    split: str = "train"
    task: Task
    format: str = "auto"
    rows: int | None = None
    language: tuple[str, ...] = ()


@lru_cache(maxsize=1)
def listed() -> tuple[ModelEntry, ...]:
    """Every model of the catalogue, the embedded one first."""
    known = ({**entry, "embedded": "wheel" in entry} for entry in models.known())
    return tuple(ModelEntry(**{key: said for key, said in entry.items() if key != "wheel"}) for entry in known)


@lru_cache(maxsize=1)
def datasets() -> tuple[DatasetEntry, ...]:
    """Every open dataset of the catalogue, in the order of its list."""
    stated = yaml.load((HERE / LIST).read_text(encoding="utf-8"), Loader=LOADER)
    return tuple(DatasetEntry(name=name, **fields) for name, fields in stated.items() if "hub" in fields)


def families() -> list[str]:
    """The families of models, in the order of the list."""
    return list(dict.fromkeys(entry.family for entry in listed()))


def find(name: str) -> ModelEntry | None:
    """The model of that name or hub id, if it is in the catalogue."""
    return next((entry for entry in listed() if name in (entry.name, *entry.hub)), None)


def search(
    text: str = "",
    *,
    family: str = "",
    kind: Kind | None = None,
    most: int | None = None,
    memory: int | None = None,
    method: Method = "lora",
    here: Path | None = None,
) -> list[ModelEntry]:
    """The models that fit, best first, for a box that searches as one types.

    Every word of `text` must occur in name, hub ids, family or kind, case ignored. Names that begin with the text come
    first, then names in which a word begins with the first one, then the rest; in each the smaller model first.
    `most`: so many parameters at most. `memory`: bytes in which training with `method` must fit. `here`: the workspace
    of which, or of the hub's cache, the model must be on this machine's disk.
    """
    fitting = (
        entry
        for entry in _matching(text, listed(), lambda entry: (entry.name, *entry.hub, entry.family, entry.kind))
        if (not family or entry.family == family)
        and (kind is None or entry.kind == kind)
        and (most is None or entry.parameters <= most)
        and (memory is None or fits(entry, memory, method))
        and (here is None or on_disk(entry, here) is not None)
    )
    return sorted(fitting, key=lambda entry: (_rank(text, entry.name), entry.parameters, entry.name.lower()))


def search_datasets(text: str = "", *, task: Task | None = None, language: str = "") -> list[DatasetEntry]:
    """The open datasets that fit, best first: as `search` has it, with those of equal rank in the list's order."""
    fitting = (
        entry
        for entry in _matching(text, datasets(), lambda entry: (entry.name, entry.hub, entry.task, *entry.language))
        if (task is None or entry.task == task) and (not language or {language, "mul"} & set(entry.language))
    )
    return sorted(fitting, key=lambda entry: _rank(text, entry.name))


def needed(entry: ModelEntry, method: Method) -> int:
    """Bytes that training takes at the very least: a bound to leave out what cannot fit, no promise of what does.

    Bytes for each parameter times their number, a tenth for activations, and the program. Long rows and large batches
    take more: `data/planning` counts them from the model's own files once these are here.
    """
    return round(entry.parameters * BYTES[method] * (1 + ACTIVATIONS)) + PROGRAM


def fits(entry: ModelEntry, memory: int, method: Method = "lora") -> bool:
    """Whether training with `method` may fit into so many bytes of memory; see `needed` for what that is worth."""
    return needed(entry, method) <= memory


def on_disk(entry: ModelEntry, workspace: Path) -> Path | None:
    """Where the model's weights lie on this machine: in the workspace, or in the user's hub cache; None when nowhere.

    A snapshot that was taken while its download went on counts as soon as a file of weights is in it.
    """
    folder = workspace / "models" / entry.name
    if (folder / "config.json").is_file() and any(folder.glob(models.WEIGHTS)):
        return folder
    return next((found for hub in entry.hub if (found := models.cached(hub, entry.revision))), None)


def _matching(text: str, entries: Iterable[T], said: Callable[[T], Iterable[str]]) -> Iterator[T]:
    words = [re.compile(NUMBER * word[0].isdigit() + re.escape(word)) for word in text.lower().split()]
    for entry in entries:
        where = " ".join(said(entry)).lower()
        if all(word.search(where) for word in words):
            yield entry


def _rank(text: str, name: str) -> int:
    text, name = (re.sub(r"[^a-z0-9.]+", " ", said.lower()).strip() for said in (text, name))
    if name.startswith(text):
        return 0
    return 1 if f" {text.split()[0]}" in f" {name}" else 2
