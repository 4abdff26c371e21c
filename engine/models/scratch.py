"""A model with random weights, in the shape of another, as a folder that everything else takes for a model.

It lies in the run's folder (`start/`): what the run is measured against, and what Evaluate calls its base.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, set_seed

from data.datasets import sets
from data.planning.sizes import resized
from engine.contract.args import TrainArgs
from engine.contract.errors import ModelError
from engine.contract.imitation import Pretrain
from engine.contract.rundir import Run
from engine.models.links import linked
from engine.models.model import tokenizer_of
from engine.report import Report

SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")
TEXTS_AT_ONCE = 1000


def begun(args: TrainArgs, folder: Path, run: Run, report: Report) -> Path:
    """The model that the run starts from, in the shape of the one in `folder`; made once, drawn with the run's seed.

    A run that goes on takes its parent's: the tokenizer must be the same. Raises ArgsError for sizes that do not fit.
    """
    task = args.task
    assert isinstance(task, Pretrain)
    config = resized(json.loads((folder / "config.json").read_text(encoding="utf-8")), task.size)
    return once(args, run, lambda into: _make(args, task, folder, config, into, run, report))


def once(args: TrainArgs, run: Run, make: Callable[[Path], None]) -> Path:
    """The folder `start/` of the run, made whole or not at all; a run that goes on takes its parent's."""
    if run.start_path.is_dir():
        return run.start_path
    partial = run.path / f".start-{os.getpid()}"
    parent = Run(run.workspace / "runs" / args.resume.run).start_path if args.resume.run else None
    try:
        if parent is not None and parent.is_dir():
            shutil.copytree(parent, partial, copy_function=linked)
        else:
            make(partial)
        partial.rename(run.start_path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return run.start_path


def _make(
    args: TrainArgs, task: Pretrain, folder: Path, shape: dict[str, Any], into: Path, run: Run, report: Report
) -> None:
    code = args.model.trust_remote_code
    into.mkdir()
    (into / "config.json").write_text(json.dumps(shape), encoding="utf-8")
    for file in folder.glob("*.py") if code else ():
        shutil.copyfile(file, into / file.name)
    config = AutoConfig.from_pretrained(into, trust_remote_code=code)
    tokenizer = tokenizer_of(folder, trust_remote_code=code)
    if task.vocabulary:
        tokenizer = _trained(tokenizer, args, task.vocabulary, run)
        few = "" if len(tokenizer) >= task.vocabulary else f", and not {task.vocabulary:,}: there is no more to merge"
        report.note(f"The tokenizer learnt {len(tokenizer):,} tokens from the rows{few}.", vocabulary=len(tokenizer))
        config.vocab_size = len(tokenizer)
        for name in SPECIAL:
            setattr(config, name, getattr(tokenizer, name))
    tokenizer.save_pretrained(into)
    set_seed(args.steps.seed)
    own = config.dtype or torch.float32
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=code).to(own)
    if task.vocabulary:
        model.generation_config = GenerationConfig(**{name: getattr(tokenizer, name) for name in SPECIAL})
    model.save_pretrained(into)


def _trained(tokenizer: Any, args: TrainArgs, size: int, run: Run) -> Any:
    """A tokenizer of the same kind and the same special tokens, learnt from the rows to train on."""
    if not tokenizer.is_fast:
        raise ModelError(
            "The tokenizer of this model cannot be trained anew.",
            "Leave task.vocabulary empty, or choose a model with a tokenizer.json.",
        )
    rows = sets.read(args, run.workspace).train

    def texts() -> Iterator[list[str]]:
        found: list[str] = []
        for row in rows:
            found += [row.text] if row.text else []
            if len(found) == TEXTS_AT_ONCE:
                yield found
                found = []
        yield found

    return tokenizer.train_new_from_iterator(texts(), size, length=len(rows), show_progress=False)
