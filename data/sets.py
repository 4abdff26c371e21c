"""From the names of datasets to the rows for training, validation and test: the one place where that is decided.

The forecast, the pre-flight and the engine all call `read`, so the same arguments mean the same rows everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data import registry
from data.conversation import Row
from data.splitting import split
from engine.contract.args import TrainArgs
from engine.contract.dataset import Split

EVERYWHERE = (Path("/"),)


@dataclass(frozen=True)
class Sets:
    """Rows to train on, rows that measure during training, and rows that nothing sees before the last judgement."""

    train: Sequence[Row]
    validation: Sequence[Row]
    test: Sequence[Row] = ()


def read(args: TrainArgs, workspace: Path, allowed: Sequence[Path] = EVERYWHERE) -> Sets:
    """The rows of a run, placeholders filled, before anything is tokenised. Raises DataError."""
    train = rows_of(args, args.data.train, workspace, allowed)
    if args.data.validation:
        return Sets(train, rows_of(args, args.data.validation, workspace, allowed))
    return Sets(*split(train, Split.of(args.data.split).validation, args.steps.seed))


def entries(args: TrainArgs, names: Sequence[str], workspace: Path, allowed: Sequence[Path]) -> list[registry.Entry]:
    """The datasets called `names`, with the words that the arguments put in place of placeholders."""
    found = [registry.find(name, workspace, allowed) for name in names]
    return [entry.model_copy(update={"fill": {**entry.fill, **args.data.fill}}) for entry in found]


def rows_of(args: TrainArgs, names: Sequence[str], workspace: Path, allowed: Sequence[Path] = EVERYWHERE) -> list[Row]:
    """Every row of the datasets called `names`, at most `data.max_rows` of each."""
    return [
        row for entry in entries(args, names, workspace, allowed) for row in registry.load(entry)[: args.data.max_rows]
    ]
