"""What only the loaded model, or its device, can say against the arguments: each check raises with the way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from data import models
from data.checking import against
from data.checking.fitness import ALIKE
from engine.contract.args import TrainArgs
from engine.contract.errors import ArgsError, Problem
from engine.contract.rules import MEASURE
from engine.training.rows import Rows


def steps_left(checkpoint: Path, steps: int) -> None:
    """The library would take a step too many."""
    if int(checkpoint.name.removeprefix("step-")) >= steps:
        said = f"{checkpoint.name} is the end of a run of {steps} steps."
        hint = "Raise steps.epochs (or steps.max_steps) to train on, or take the checkpoint as it is."
        raise ArgsError([Problem("resume.checkpoint", f"{said} {hint}")])


def sight(args: TrainArgs, folder: Path) -> None:
    """Rows with pictures are never laid end to end."""
    if models.sees(folder) and args.packs:
        path = "task.boundaries" if args.task.packs else "data.packing"
        way_out = "Set it to alone." if args.task.packs else "Turn packing off."
        raise ArgsError([Problem(path, f"Rows of a model that sees are not packed. {way_out}")])


def measured(args: TrainArgs, rows: Rows) -> None:
    """Rows that are held out may all be too long, or be no answers."""
    wanted = [name for name in ("patience", "keep_best") if getattr(args.record, name)]
    if wanted and rows.validation is None:
        said = f"No row that is held out can be used to measure by. {MEASURE}"
        raise ArgsError([Problem(f"record.{name}", said) for name in wanted])


def judged(rows: Rows) -> None:
    """Where answers are learnt from by their scores, these must differ."""
    if "score" not in rows.train.column_names:
        return
    scores = set(rows.train["score"])
    if len(scores) == 1:
        said, way_out = ALIKE
        said = said.format(count=len(rows.train), score=scores.pop())
        raise ArgsError([Problem("data.train", f"{said} {way_out}")])


def length(args: TrainArgs, model: Any) -> None:
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if wrong := list(against.length(context or 0, args)):
        raise ArgsError(wrong)


def packing(args: TrainArgs, model: Any) -> None:
    """Refuse to pack where rows in one sequence see each other. The model is asked, so it holds for any kernel."""
    ids = torch.arange(2, 14, device=model.device) % (model.config.get_text_config().vocab_size - 1)
    first, second = ids[:5], ids[5:]
    positions = torch.cat([torch.arange(5), torch.arange(7)]).to(model.device)
    with torch.no_grad():
        alone = model(input_ids=second[None], use_cache=False).logits[0].float()
        packed = model(
            input_ids=torch.cat([first, second])[None], position_ids=positions[None], use_cache=False
        ).logits[0, 5:]
    # Contamination moves logits by far more than the rounding of the arithmetic does.
    if (alone - packed.float()).abs().max() > 0.05 * alone.abs().max():
        kernel = model.config._attn_implementation
        path, way_out = ("task.boundaries", "Set it to joined.") if args.task.packs else (
            "data.packing", "Turn packing off.")  # fmt: skip
        said = f"This model's {kernel} attention does not keep packed rows apart. {way_out}"
        raise ArgsError([Problem(path, said)])
