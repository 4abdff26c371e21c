"""From the names of datasets to the rows for training, validation and test: the one place where that is decided.

The forecast, the pre-flight and the engine all call `read`, so the same arguments mean the same rows everywhere.
In this order: the rows of each dataset are read and limited; what is held out is taken from all of them together; then
what is left for training is repeated and mixed. So no repetition is ever held out, and nothing held out is repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.datasets import registry
from data.datasets.lots import Numbers, some
from data.datasets.mixing import concatenated, interleaved, repeated
from data.datasets.sources import Source, drawn, opened
from data.datasets.splitting import sides
from data.rows.conversation import Row
from engine.contract.args import TrainArgs
from engine.contract.dataset import Data, Split
from engine.contract.errors import DataError, Problem
from engine.contract.imitation import Sft

EVERYWHERE = (Path("/"),)
TAKEN = {"weights": "mixed", "repeat": "repeated", "limits": "limited"}


@dataclass(frozen=True)
class Sets:
    """Rows to train on, rows that measure during training, and rows that nothing sees before the last judgement."""

    train: Sequence[Row]
    validation: Sequence[Row]
    test: Sequence[Row] = ()


def read(args: TrainArgs, workspace: Path, allowed: Sequence[Path] = EVERYWHERE) -> Sets:
    """The rows of a run, placeholders filled, before anything is tokenised. The same arguments give the same rows in
    the same order. Raises DataError.

    With validation datasets the split holds out no validation rows of its own, though still its test rows.
    """
    data, seed = args.data, args.steps.seed
    split = Split.of(data.split)
    if data.validation:
        split = split._replace(validation=0.0)
    names = named(args)
    everything = opened(names, entries(args, names, workspace, allowed), data.max_rows)
    borders = len(data.train), len(data.train) + len(data.validation)
    sources, measuring, beside = everything[: borders[0]], everything[slice(*borders)], everything[borders[1] :]

    used = [_limited(source, data, seed) for source in sources]
    of, place = concatenated(used)
    asked = np.concatenate([source.openings()[places] for source, places in zip(sources, used, strict=True)])
    found = sides(asked, split, seed)
    kept = [place[found.train][of[found.train] == which] for which in range(len(sources))]
    if data.validation:
        validation = drawn(measuring, *concatenated([_limited(source, data, seed) for source in measuring]))
    else:
        validation = drawn(sources, of[found.validation], place[found.validation])
    test = drawn(sources, of[found.test], place[found.test])
    of, place = _mixed(sources, kept, data, seed)
    if not len(of):
        raise DataError("no row is left to train on.", "Raise data.repeat.")
    if beside:
        assert isinstance(args.task, Sft)
        which, where = concatenated([_limited(source, data, seed) for source in beside])
        of, place = _with_general((of, place), (which + len(sources), where), args.task.general_share, seed)
    return Sets(drawn([*sources, *beside], of, place), validation, test)


def named(args: TrainArgs) -> list[str]:
    """The names of all datasets of a run: those to train on, those that measure, and the general ones."""
    return [*args.data.train, *args.data.validation, *general(args)]


def general(args: TrainArgs) -> list[str]:
    """The datasets that are mixed in so that nothing is forgotten."""
    return args.task.general if isinstance(args.task, Sft) else []


def problems(args: TrainArgs) -> list[Problem]:
    """What is wrong with the arguments of mixing, each at its argument, without looking at a file."""
    found, data = [], args.data
    for path, names in (("data.train", data.train), ("data.validation", data.validation),
                        ("task.general", general(args))):  # fmt: skip
        if twice := sorted({name for name in names if names.count(name) > 1}):
            way_out = f" To take its rows twice, set data.repeat to {twice[0]}=2." if path == "data.train" else ""
            found.append(Problem(path, f"{', '.join(twice)} is named more than once.{way_out}"))
    if both := sorted({*data.train, *data.validation} & set(general(args))):
        said = f"{', '.join(both)} is chosen under Data already, so it is nothing general. Take it out here."
        found.append(Problem("task.general", said))
    for option, done in TAKEN.items():
        chosen = [*data.train, *([*data.validation, *general(args)] if option == "limits" else [])]
        for name in getattr(data, option):
            if not any(_is(name, said) for said in chosen):
                found.append(Problem(f"data.{option}", _not_chosen(name, done, data)))
    if data.weights and data.mix == "concatenate":
        said = "weights say how often a dataset is drawn from when interleaving, and the datasets are concatenated."
        found.append(Problem("data.weights", f"{said} Set data.mix to interleave, or use data.repeat."))
    return found


def _not_chosen(name: str, done: str, data: Data) -> str:
    if any(_is(name, said) for said in data.validation):
        return f"{name} only measures, so it is not {done}; take it out here."
    return f"{name} is no dataset of this run, so it cannot be {done}. Those chosen are {', '.join(data.train)}."


def entries(args: TrainArgs, names: Sequence[str], workspace: Path, allowed: Sequence[Path]) -> list[registry.Entry]:
    """The datasets called `names`, with what the arguments say about reading them."""
    found = [registry.find(name, workspace, allowed) for name in names]
    skip = args.data.bad_rows == "skip"
    return [
        entry.model_copy(update={"fill": {**entry.fill, **args.data.fill}, "skip_bad": skip or entry.skip_bad})
        for entry in found
    ]


def _is(name: str, said: str) -> bool:
    """Whether `name`, a key of an argument, means the dataset `said`: by the same words, or the end of its path."""
    return name == said or f"/{said}".endswith(f"/{name.removeprefix('./')}")


def _value(given: Mapping[str, float], name: str, otherwise: float) -> float:
    return next((value for key, value in given.items() if _is(key, name)), otherwise)


def _limited(source: Source, data: Data, seed: int) -> Numbers:
    """The places of the rows of a dataset that are used at all."""
    places = np.arange(len(source.openings()))
    return some(places, int(_value(data.limits, source.name, len(places))), seed, f"limit {source.entry.name}")


def _with_general(
    own: tuple[Numbers, Numbers], general: tuple[Numbers, Numbers], share: float, seed: int
) -> tuple[Numbers, Numbers]:
    """The rows to train on with general ones between them, which make `share` of the whole; drawn by lot where there
    are more, repeated where there are fewer."""
    wanted = max(1, round(len(own[0]) * share / (1 - share)))
    chosen = repeated(np.arange(len(general[0])), wanted / len(general[0]), seed, "general")[:wanted]
    which, turn = interleaved([np.arange(len(own[0])), chosen], [len(own[0]), len(chosen)], "all")
    of, place = np.empty(len(which), np.uint16), np.empty(len(which), np.int64)
    for side, (datasets, places) in enumerate((own, general)):
        mine = which == side
        of[mine], place[mine] = datasets[turn[mine]], places[turn[mine]]
    return of, place


def _mixed(sources: Sequence[Source], kept: Sequence[Numbers], data: Data, seed: int) -> tuple[Numbers, Numbers]:
    taken = [
        repeated(places, _value(data.repeat, source.name, 1.0), seed, source.entry.name)
        for source, places in zip(sources, kept, strict=True)
    ]
    if data.mix == "concatenate":
        return concatenated(taken)
    return interleaved(taken, [_value(data.weights, source.name, 1.0) for source in sources], data.until)
