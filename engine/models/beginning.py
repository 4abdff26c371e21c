"""The model that a run begins with where its arguments change the one that they name, as a folder like any other.

It lies in the run's folder (`start/`), as a model from scratch does. So whoever takes the run's adapter takes its base
with the same tokens and the same positions, without a word about them. What is the same as before lies there under a
second name and takes no room.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from transformers import AutoConfig

from data import models
from data.checking import vocabulary as words
from engine.contract.args import TrainArgs
from engine.contract.errors import ArgsError, Problem
from engine.contract.rundir import Run
from engine.contract.sections import Model
from engine.models import vocabulary
from engine.models.links import pointed
from engine.models.scratch import once
from engine.report import Report

CONFIG = "config.json"


def changed(args: TrainArgs, folder: Path, run: Run, report: Report) -> Path:
    """The model in `folder` as `args.model` changes it; made once. Raises ArgsError for what it cannot become."""
    if not args.model.changed:
        return folder
    if found := list(words.problems(folder, args.model.new_tokens)):
        raise ArgsError(found)
    return once(args, run, lambda into: _make(args, folder, into, report))


def _make(args: TrainArgs, folder: Path, into: Path, report: Report) -> None:
    if args.model.new_tokens:
        vocabulary.grow(args, folder, into, report)
    else:
        shutil.copytree(folder, into, copy_function=pointed, ignore=shutil.ignore_patterns(CONFIG, ".*"))
        shutil.copyfile(folder / CONFIG, into / CONFIG)
    if args.model.rope != "none":
        context = stretch(into, args.model, models.called(folder))
        report.note(f"The model's context grew to {context:,} tokens ({args.model.rope}).", context=context)


def stretch(folder: Path, wanted: Model, name: str) -> int:
    """Write into the config in `folder`, that of the model called `name`, that its positions are stretched; returns
    the context that it then has. Raises ArgsError."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=wanted.trust_remote_code)
    text = config.get_text_config()
    known, context = dict(getattr(text, "rope_parameters", None) or {}), getattr(text, "max_position_embeddings", 0)
    if known.get("rope_type", "") != "default" or not context:
        said = (
            "has no rotary positions of one kind" if "rope_type" not in known else "has its positions stretched already"
        )
        raise ArgsError([Problem("model.rope", f"{name} {said}. Set it to none.")])
    text.rope_parameters = known | {"rope_type": wanted.rope, "factor": wanted.rope_factor}
    if wanted.rope != "linear":
        text.rope_parameters["original_max_position_embeddings"] = context
    if wanted.rope == "llama3":
        text.rope_parameters |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}  # as Llama 3.1 has them
    text.max_position_embeddings = int(context * wanted.rope_factor)
    config.save_pretrained(folder)
    return int(text.max_position_embeddings)
