"""From dataset names to batches: read, hold out, render, mask, cut and pack through `data/`, then collate for torch.

The very functions that the page's preview and forecast use, so that what is shown is what is trained. What was prepared
is kept in the workspace's cache and read from there, memory-mapped, so rows need no memory however many there are.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets

from data.checking.survey import unreadable
from data.datasets import sets
from data.encoding.asked import Asked
from data.encoding.batches import Batch, batches, workers_for
from data.encoding.documents import Documents, filled
from data.encoding.judged import Judged, Scored
from data.encoding.outcome import Report as Outcome
from data.encoding.pack import sequences
from data.encoding.pairs import Pairs
from data.encoding.prepare import Examples, reported
from data.encoding.render import ChatTemplate
from data.encoding.store import Changed, Kept, Store
from data.encoding.tokens import TextTokenizer
from data.rows.conversation import Row
from engine.contract.args import TrainArgs
from engine.contract.errors import DataError
from engine.contract.machine import machine
from engine.contract.rundir import Run
from engine.devices import ranks
from engine.models.seen import SeenExamples, SeenPairs, shown_by
from engine.models.vision import Sight
from engine.report import Report

SAID_EVERY = 0.5  # seconds between two words on how far the preparation is
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
UNREAD = {"name", "title", "description", "licence", "origin", "patch"}  # of an entry: what its rows don't show
FOR = {"train": "to train on", "test": "for a test"}  # what a set is for, in words


@dataclass(frozen=True)
class Rows:
    """What is trained on and what is held out, tokenised. `validation` is None when nothing is held out.

    kept: what the sets read from the disk, which stays there as long as this object.
    """

    train: Dataset
    validation: Dataset | None
    trained_rows: int
    kept: tuple[Kept, ...] = ()

    @property
    def weighed(self) -> bool:
        """Whether some turn weighs otherwise than 1."""
        return "weights" in self.train.column_names and any(
            len(chunk.values) for chunk in self.train.data.column("weights").chunks
        )


def rows_of(args: TrainArgs, folder: Path, run: Run, report: Report, sight: Sight | None = None) -> Rows:
    """The run's rows; what became of them is reported, and what is held out is written down for Evaluate."""
    for finding in unreadable(sets.entries(args, sets.named(args), run.workspace, sets.EVERYWHERE)):
        report.warn(finding.text, finding.hint)
    work = Preparation(args, folder, run, report, sight)
    train = work.prepared("train")
    if ranks.leads_here():
        work.write_down(train)
    if not train.report.examples:
        raise _nothing(args, train.report)
    held = work.prepared("held out") if run.heldout_path.stat().st_size else None
    sets_kept = [work.packed(kept) for kept in (train, held) if kept is not None and len(kept)]
    datasets = [concatenate_datasets([Dataset.from_file(str(path)) for path in kept.paths]) for kept in sets_kept]
    return Rows(datasets[0], datasets[1] if datasets[1:] else None, train.report.rows_used, tuple(sets_kept))


def _nothing(args: TrainArgs, report: Outcome) -> DataError:
    """Why nothing is left to train on, as far as the rows tell."""
    if args.task.generates and report.lost.get("row"):
        said = f"No question leaves room for an answer of {args.task.max_new_tokens} tokens (task.max_new_tokens)."
        return DataError(said, f"Lower it, or raise data.max_length ({args.data.max_length}).")
    if report.alike and report.alike == report.dropped:
        return DataError("In every row the two answers are the same, which teaches nothing.", "Mend the rows.")
    return DataError(
        "No row has a token to train on.", "Raise data.max_length, or look at the rows: are there answers?"
    )


class Preparation:
    """Rows to tokens for one run, through the cache of its workspace."""

    def __init__(self, args: TrainArgs, folder: Path, run: Run, report: Report, sight: Sight | None = None) -> None:
        self.args, self.folder, self.run, self.report, self.sight = args, folder, run, report, sight
        self.store = Store(run.workspace / "cache" / "tokens")
        template = ChatTemplate.if_any(folder, None if args.model.template == "auto" else args.model.template)
        self.maker = maker_of(args, template, TextTokenizer.of(folder), sight)

    @cached_property
    def rows(self) -> dict[str, Sequence[Row]]:
        """The rows of each set, read when they are first asked for: what is found in the cache needs none."""
        found = sets.read(self.args, self.run.workspace)
        return {"train": found.train, "held out": found.validation, "test": found.test}

    def prepared(self, which: str) -> Kept:
        """The rows of a set as tokens, made or found; `which` is its name for people."""
        shown = shown_by(self.rows[which]) if self.sight else ""
        matters = {**self._matters(which), "shown": shown}

        def make(done: Outcome) -> Iterator[Batch]:
            rows, said = self.rows[which], self.args.data.workers
            workers = said if isinstance(said, int) else workers_for(len(rows), machine().cores)
            rest = islice(rows, done.rows, None)
            yield from reported(batches(rest, self.maker, workers), done, skip=self.args.data.bad_rows == "skip")
            if {**self._matters(which), "shown": shown} != matters:
                raise Changed("the data changed while they were read.", "Start again.")

        kept = self.store.open(self.store.key(**matters), make, self._progress(which))
        facts = kept.report
        many = "1 row" if facts.rows_used == 1 else f"{facts.rows_used:,} rows"
        self.report.note(
            f"{many} {FOR.get(which, which)}: {facts.tokens:,} tokens{self._learnt(facts)}, "
            f"the longest row {facts.longest:,}{'' if kept.made else '; found as they were prepared before'}.",
            rows=facts.rows_used, tokens=facts.tokens, trained_tokens=facts.trained_tokens, which=which,
            made=kept.made,
        )  # fmt: skip
        for sentence in facts.warnings:
            self.report.warn(f"{which}: {sentence}")
        return kept

    def _learnt(self, facts: Outcome) -> str:
        return " of questions" if self.args.task.generates else f", {facts.trained_tokens:,} of them trained"

    def write_down(self, train: Kept) -> None:
        """The rows that are held out and those for a test, as files of the run; kept beside the tokens of the others,
        on whose key they depend no less."""
        for which, path in (("held out", self.run.heldout_path), ("test", self.run.test_path)):
            beside = train.folder / path.name
            if not beside.exists():
                partial = beside.with_name(f".{beside.name}.{os.getpid()}")
                _write(self.rows[which], partial)
                partial.rename(beside)
            if which == "held out" or beside.stat().st_size:
                shutil.copyfile(beside, path)

    def packed(self, kept: Kept) -> Kept:
        """The same rows in sequences of the maximum length, if the arguments want that."""
        if not self.args.packs:
            return kept
        capacity = self.args.data.max_length
        if self.args.task.packs:
            documents, joined = kept.column("input_ids"), not self.args.task.borders
            return self.store.open(
                self.store.key(filled=kept.folder.name, capacity=capacity, joined=joined),
                lambda done: filled(documents, capacity, done, joined=joined),
            )
        ids, labels, weights = (kept.column(name) for name in ("input_ids", "labels", "weights"))
        return self.store.open(
            self.store.key(packed=kept.folder.name, capacity=capacity),
            lambda done: sequences(ids, labels, weights, ids.lengths, capacity, done),
        )

    def _matters(self, which: str) -> dict[str, Any]:
        """All that decides on the tokens of a set, as text and numbers."""
        args, template = self.args, self.maker.template
        written = template.source + (template.tool_source or "")
        return {
            "which": which,
            "made as": type(self.maker).__name__,
            "options": args.data.model_dump(mode="json", exclude={"workers", "packing"}),
            "task": {name: getattr(args.task, name) for name in args.task.decides},
            "seed": args.steps.seed,
            "data": [
                [
                    entry.model_dump(mode="json", exclude=UNREAD),
                    *map(self.store.digest, (entry.path, entry.patch)),
                ]
                for entry in sets.entries(args, sets.named(args), self.run.workspace, sets.EVERYWHERE)
            ],
            "tokenizer": [self.store.digest(self.folder / name) for name in TOKENIZER_FILES],
            "sight": [args.vision.model_dump(mode="json"), *map(self.store.digest, self.sight.files)]
            if self.sight
            else [],
            "template": [template.source, template.tool_source, dict(template.tokens)],
            "day": date.today().isoformat() if "strftime_now" in written else "",
        }

    def _progress(self, which: str) -> Callable[[int], None]:
        begun = spoken = time.monotonic()
        first: int | None = None

        def said(done: int) -> None:
            nonlocal first, spoken
            now, total = time.monotonic(), len(self.rows[which])
            first = done if first is None else first
            if now - spoken >= SAID_EVERY:
                spoken = now
                made = done - first
                left = (now - begun) / made * (total - done) if made else None
                self.report.progress(done, total, left, unit="rows")

        return said


def maker_of(
    args: TrainArgs, template: ChatTemplate, tokenizer: TextTokenizer, sight: Sight | None = None
) -> Examples | Pairs | Asked:
    """What turns rows into examples for the task of `args`."""
    data, task = args.data, args.task
    if task.generates:
        room = data.max_length - task.max_new_tokens
        return Asked(
            template, tokenizer, max_length=room, thoughts=data.thoughts, skip=data.bad_rows == "skip",
            right=task.rewards.column, compares=task.rewards.compares, needs=task.rewards.needed,
        )  # fmt: skip
    options: dict[str, Any] = {
        "max_length": data.max_length, "cut": data.cut, "thoughts": data.thoughts, "skip": data.bad_rows == "skip"
    }  # fmt: skip
    if "scored" in args.task.takes:
        return Scored(template, tokenizer, sees=False, **options)
    if "preference" in args.task.takes:
        if sight:
            return SeenPairs(template, tokenizer, sight=sight, **options)
        return Pairs(template, tokenizer, sees=False, **options)
    if "feedback" in args.task.takes:
        return Judged(template, tokenizer, sees=False, **options)
    if args.task.takes == ("text",):
        whole = {"max_length": None} if args.task.packs else {}
        return Documents(template, tokenizer, sees=False, **options | whole)
    options |= {"train_on": data.train_on}
    if sight:
        return SeenExamples(template, tokenizer, sight=sight, **options)
    return Examples(template, tokenizer, sees=False, **options)


def _write(rows: Sequence[Row], path: Path) -> None:
    """The rows as a file of JSON lines that `data.rows.formats.restored` reads back."""
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            record = {**row.record(), "kind": row.kind, "tools": row.tools, "file": row.file, "number": row.number}
            file.write(json.dumps(record, ensure_ascii=False, default=str) + "\n")


@dataclass(frozen=True)
class Collate:
    """Rows to a batch: (rows, longest) int64 tensors, padded on the right with `pad_id`, labels with -100.

    Where a turn weighs otherwise than 1, there is a tensor of `weights` (float32) too.
    A packed row brings position ids that restart at each row in it. It goes without an attention mask: transformers'
    mask code reads the borders from the positions, and only where there is no mask. Padding counts as rows of its own.
    """

    pad_id: int

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
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
        if any(example.get("weights") for example in examples):
            batch["weights"] = torch.ones(len(examples), longest)
            for row, example in enumerate(examples):
                said = iter(example["weights"])
                for first, last, weight in zip(said, said, said, strict=True):
                    batch["weights"][row, int(first) : int(last)] = weight
        return batch
