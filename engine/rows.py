"""From dataset names to batches: read, hold out, render, mask, cut and pack through `data/`, then collate for torch.

The very functions that the page's preview and forecast use, so that what is shown is what is trained.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from data import sets
from data.pack import packed
from data.prepare import Example, Prepared, prepare
from data.render import ChatTemplate
from data.tokens import TextTokenizer
from engine.contract.args import TrainArgs
from engine.contract.errors import DataError
from engine.contract.rundir import Run
from engine.report import Report


@dataclass(frozen=True)
class Rows:
    """What is trained on and what is held out, tokenised. `validation` is None when nothing is held out."""

    train: Dataset
    validation: Dataset | None
    trained_rows: int


def rows_of(args: TrainArgs, folder: Path, run: Run, report: Report) -> Rows:
    """The run's rows; what became of them is reported, and the held-out ones are kept for Evaluate."""
    template = ChatTemplate.of(folder, None if args.model.template == "auto" else args.model.template)
    tokenizer = TextTokenizer.of(folder)
    found = sets.read(args, run.workspace)
    train, validation = found.train, found.validation
    with open(run.heldout_path, "w", encoding="utf-8") as file:
        for row in validation:
            record = {"messages": row.messages, "tools": row.tools, "file": row.file, "number": row.number}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

    workers = args.data.workers if isinstance(args.data.workers, int) else 0
    options: dict[str, Any] = {"train_on": args.data.train_on, "max_length": args.data.max_length, "workers": workers}
    prepared = prepare(train, template, tokenizer, **options)
    _say(prepared, "train", report)
    if not prepared.rows:
        raise DataError(
            "No row has a token to train on.", "Raise data.max_length, or look at the rows: are there answers?"
        )
    held = prepare(validation, template, tokenizer, **options) if validation else None
    if held is not None:
        _say(held, "held out", report)
    return Rows(
        train=_dataset(prepared.rows, args),
        validation=_dataset(held.rows, args) if held and held.rows else None,
        trained_rows=len(prepared.rows),
    )


def _say(prepared: Prepared, which: str, report: Report) -> None:
    facts = prepared.report
    report.note(
        f"{facts.rows_used:,} rows {which}: {facts.tokens:,} tokens, {facts.trained_tokens:,} of them trained, "
        f"the longest row {facts.longest:,}.",
        rows=facts.rows_used, tokens=facts.tokens, trained_tokens=facts.trained_tokens, which=which,
    )  # fmt: skip
    for sentence in facts.warnings:
        report.warn(f"{which}: {sentence}")


def _dataset(examples: list[Example], args: TrainArgs) -> Dataset:
    if args.data.packing:
        bins = packed(examples, args.data.max_length)
        return Dataset.from_dict({
            "input_ids": [bin.input_ids for bin in bins],
            "labels": [bin.labels for bin in bins],
            "position_ids": [bin.position_ids for bin in bins],
        })  # fmt: skip
    return Dataset.from_dict({
        "input_ids": [example.input_ids for example in examples],
        "labels": [example.labels for example in examples],
    })  # fmt: skip


@dataclass(frozen=True)
class Collate:
    """Rows to a batch: (rows, longest) int64 tensors, padded on the right with `pad_id`, labels with -100.

    A packed row brings position ids that restart at each row in it. It goes without an attention mask: transformers'
    mask code reads the borders from the positions, and only where there is no mask. Padding counts as rows of its own.
    """

    pad_id: int

    def __call__(self, examples: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        longest = max(len(example["input_ids"]) for example in examples)
        filling = {"input_ids": self.pad_id, "labels": -100, "position_ids": 0}
        batch = {
            key: torch.tensor([example[key] + [fill] * (longest - len(example[key])) for example in examples])
            for key, fill in filling.items()
            if key in examples[0]
        }
        if "position_ids" not in batch:
            lengths = torch.tensor([len(example["input_ids"]) for example in examples])
            batch["attention_mask"] = (torch.arange(longest)[None] < lengths[:, None]).long()
        return batch
