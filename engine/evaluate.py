"""An evaluation run: base against tuned on the same rows, from the arguments to a verdict with its interval.

Both are given the same batches. Candidates of one base share it in memory (its adapters are switched); others are
loaded one after the other. Rows that are finished are written at once, so a stop keeps them.
"""

from __future__ import annotations

import gc
import json
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from data.datasets import registry
from data.encoding.prepare import suited
from data.rows.conversation import Row
from data.rows.formats import restored
from data.weights import scores_texts
from engine import metrics
from engine.contract.args import EvaluateArgs
from engine.contract.errors import DataError, ModelError, ResourceError
from engine.contract.rundir import Run, records, write_json
from engine.exporting import lineage
from engine.exporting.lineage import Lineage
from engine.feedback import ranking
from engine.judge import Item, Judge, Measured, items_of
from engine.models.attached import Speaker, attached
from engine.models.model import device_of, dtype_of, folder_of, model_of
from engine.models.vision import Sight
from engine.report import Report, Stop

NAMES = ("base", "tuned")


@dataclass
class Candidate:
    """One side of the comparison; `items` are the rows in its own tokens, None where one does not fit.

    held: how its base lies in memory, as its run had it: the quantisation, and whether its scales are quantised too.
    """

    lineage: Lineage
    folder: Path
    template: str | None
    trust: bool
    held: tuple[str, bool] = ("none", True)
    sight: Sight | None = None
    items: list[Item | None] = field(default_factory=list)

    @property
    def adapter(self) -> Path | None:
        return self.lineage.weights.adapter


def run(args: EvaluateArgs, run: Run, report: Report, stop: Stop) -> None:
    if scores_texts(args.tuned, run.workspace):
        ranking.run(args, run, report, stop)
        return
    device = device_of(args.device)
    dtype = dtype_of(args.dtype, device)
    pair = _candidates(args, run, report)

    report.phase("preparing")
    rows, origin = _rows(args, pair["tuned"].lineage, run)
    rows = _as_learnt(rows, pair["tuned"].lineage, report)
    _warn_of_seen_rows(args, pair, report)
    chosen = _prepare(rows, pair, args, report)

    run.results_path.mkdir(exist_ok=True)
    book = _Book(args, run, report, pair, origin, len(chosen))
    with stop.deferred():
        for names in _sharing(pair):
            report.phase("loading")
            speakers = _load(pair, names, dtype, device)
            report.phase("evaluating")
            first = pair[names[0]]
            asked = (first.folder, first.template, args.max_tokens, stop, first.sight)
            judges = {name: Judge(speaker.model, *asked) for name, speaker in speakers.items()}
            for start in range(0, len(chosen), args.batch_size):
                batch = chosen[start : start + args.batch_size]
                for name in names:
                    with speakers[name].speaking():
                        measured = _measure(judges[name], pair[name], batch)
                    if stop.asked:
                        break
                    book.take(name, batch, measured)
                if stop.asked:
                    break
            del speakers, judges
            _free()
            if stop.asked:
                break
        book.close(stopped=stop.asked)
    stop.check()


def _candidates(args: EvaluateArgs, run: Run, report: Report) -> dict[str, Candidate]:
    workspace = run.workspace
    tuned = lineage.of(args.tuned, workspace)
    if args.base == "auto" and not tuned.base:
        raise ModelError(
            f"{args.tuned} does not say what it was trained from.", "Choose what to compare it with (base)."
        )
    base = lineage.of(tuned.base if args.base == "auto" else args.base, workspace)
    pair = {}
    for name, found in (("base", base), ("tuned", tuned)):
        revision = tuned.revision if name == "base" and args.base == "auto" else found.revision
        # Resolved: two names of one folder are one model in memory.
        folder = folder_of(
            found.weights.base, workspace, revision, code=found.trust_remote_code, say=report.note
        ).resolve()
        # Both are shown pictures as the tuned model was in training.
        sight = Sight.of(folder, tuned.args.vision if tuned.args else None, workspace / "cache" / "pictures")
        held = found.weights.quantisation, found.weights.double_quantisation
        pair[name] = Candidate(found, folder, found.template, found.trust_remote_code, held, sight)
    if base.run is None and base.weights.adapter is None and tuned.base:
        origin = folder_of(
            tuned.base, workspace, tuned.revision, code=tuned.trust_remote_code, say=report.note
        ).resolve()
        if origin == pair["base"].folder:
            pair["base"].template = tuned.template  # the base is asked as the tuned model was taught to be asked
            pair["base"].trust = tuned.trust_remote_code  # the consent was to this very code
            pair["base"].held = pair["tuned"].held
            if pair["base"].held[0] != "none":
                report.note(f"Both answer over {pair['base'].held[0]} weights, as the run was trained.")
    return pair


def _rows(args: EvaluateArgs, tuned: Lineage, run: Run) -> tuple[list[Row], str]:
    """The rows to judge on, and where they come from, in words."""
    if not args.data:
        return _held_out(tuned)
    found = []
    for name in args.data:
        # Whoever may write an args file may read the file system: paths from the page are confined by the page.
        entry = registry.find(name, run.workspace, allowed=[Path("/")])
        found += registry.load(entry.model_copy(update={"fill": {**entry.fill, **args.fill}}))
    return _right(found), ", ".join(args.data)


def _held_out(tuned: Lineage) -> tuple[list[Row], str]:
    """The rows that the run kept for a test, which nothing has seen; without any, those that measured its training."""
    if tuned.run:
        for path, how in ((tuned.run.test_path, "kept for a test"), (tuned.run.heldout_path, "held out")):
            if kept := _right(_restored(record) for record in records(path)):
                return kept, f"{how} by {tuned.run.id}"
    whose = f"{tuned.run.id} held out no rows" if tuned.run else f"{tuned.weights.ref} is not a run of this board"
    raise DataError(
        f"{whose}, so there are none to judge on.",
        "Choose a dataset that it was not trained on, or train again with a held-out share.",
    )


def _restored(record: dict[str, Any]) -> Row:
    """A row that a run wrote down."""
    kept = {key: value for key, value in record.items() if key not in ("kind", "file", "number")}
    return restored(kept, record.get("kind", "conversation"), record["file"], record["number"])


def _right(rows: Iterable[Row]) -> list[Row]:
    """The rows with the answer that is right: of a preference the chosen one; an answer judged bad is none, nor one
    that is scored below the average."""
    rows, found = list(rows), []
    scores = [row.score for row in rows if row.score is not None]
    for row in rows:
        if row.kind == "preference":
            row = replace(row, messages=[*row.messages, *(row.chosen or [])], kind="conversation")
        elif row.kind == "feedback" and row.label:
            row = replace(row, kind="conversation")
        elif row.score is not None and row.score >= sum(scores) / len(scores):
            row = replace(row, score=None, kind="conversation")
        found += [] if row.kind in ("feedback", "scored") else [row]
    return found


def _as_learnt(rows: list[Row], tuned: Lineage, report: Report) -> list[Row]:
    """The rows without their thoughts where the tuned model learnt to answer without."""
    if tuned.args is None or tuned.args.data.thoughts == "keep":
        return rows
    report.note("Thoughts are taken out of the answers, as they were in training.")
    return [suited(row, (row.kind,), "drop") for row in rows]


def _warn_of_seen_rows(args: EvaluateArgs, pair: dict[str, Candidate], report: Report) -> None:
    """A model that has seen the rows is better on them without being better: say so."""
    tuned, base = pair["tuned"].lineage, pair["base"].lineage
    for found in {id(found): found for found in (tuned, base)}.values():
        if found.args and (seen := sorted(set(args.data) & set(found.args.data.train))):
            report.warn(
                f"{found.weights.ref} was trained on rows of {', '.join(seen)}: on them it may only remember.",
                "Leave Datasets empty to judge on the rows that it held out.",
            )
    if not args.data and base.args and tuned.args and base.run != tuned.run:
        if (base.args.data, base.args.steps.seed) != (tuned.args.data, tuned.args.steps.seed):
            report.warn(
                f"{base.weights.ref} was trained with other rows or another seed, so it may have seen these rows.",
                "Judge on a dataset that neither run was trained on.",
            )


def _prepare(rows: list[Row], pair: dict[str, Candidate], args: EvaluateArgs, report: Report) -> list[int]:
    """Numbers of the rows that are judged, in random order, so that a stopped run has seen a fair part of them."""
    for candidate in pair.values():
        candidate.items = items_of(rows, candidate.folder, candidate.template, args.max_length, candidate.sight)
    usable = [n for n in range(len(rows)) if all(candidate.items[n] is not None for candidate in pair.values())]
    if not usable:
        raise DataError("No row has an answer left within max_length.", "Raise max_length, or choose other rows.")
    if left := len(rows) - len(usable):
        report.warn(f"{left} of {len(rows)} rows have no answer left within {args.max_length} tokens and are left out.")
    chosen = random.Random(args.seed).sample(usable, min(args.max_rows, len(usable)))
    report.note(f"Judging {len(chosen):,} of {len(rows):,} rows.", rows=len(chosen), of=len(rows))
    return chosen


def _sharing(pair: dict[str, Candidate]) -> list[list[str]]:
    """The candidates, grouped by the folder that they are loaded from."""
    base, tuned = pair["base"], pair["tuned"]
    if (base.folder, base.template, base.held) == (tuned.folder, tuned.template, tuned.held):
        return [list(NAMES)]
    return [[name] for name in NAMES]


def _load(pair: dict[str, Candidate], names: list[str], dtype: torch.dtype, device: torch.device) -> dict[str, Speaker]:
    first = pair[names[0]]
    model = model_of(
        first.folder,
        dtype=dtype,
        device=device,
        trust_remote_code=any(pair[name].trust for name in names),
        quantisation=first.held[0],
        double_quantisation=first.held[1],
    )
    found = attached(model, {name: adapter for name in names if (adapter := pair[name].adapter)}, first.folder)
    return {name: found.get(name) or found[""] for name in names}


def _measure(judge: Judge, candidate: Candidate, batch: list[int]) -> list[Measured]:
    items = [item for number in batch if (item := candidate.items[number])]
    try:
        return judge.measure(items)
    except torch.OutOfMemoryError as problem:
        raise ResourceError(
            f"Out of memory with {len(batch)} rows at once.", "Lower batch_size, max_length or max_tokens."
        ) from problem


def _free() -> None:
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.memory.empty_cache()


class _Book:
    """Keeps what was measured, writes each row once both candidates have answered it, and draws the conclusion."""

    def __init__(
        self, args: EvaluateArgs, run: Run, report: Report, pair: dict[str, Candidate], origin: str, rows: int
    ) -> None:
        self.args, self.run, self.report, self.pair, self.origin, self.rows = args, run, report, pair, origin, rows
        self.measured: dict[str, dict[int, Measured]] = {name: {} for name in NAMES}
        self.finished: list[int] = []
        references = [item.reference for item in pair["tuned"].items if item]
        self.tokenizer = metrics.bleu_tokenizer(references)
        self.comparable = all(
            (a.ids, a.labels) == (b.ids, b.labels)
            for a, b in zip(pair["base"].items, pair["tuned"].items, strict=True)
            if a and b
        )
        self.started = time.monotonic()
        self.file = run.results_path / "rows.jsonl"
        self.file.write_text("", encoding="utf-8")

    def take(self, name: str, numbers: list[int], measured: list[Measured]) -> None:
        self.measured[name].update(zip(numbers, measured, strict=True))
        done = [n for n in numbers if all(n in self.measured[name] for name in NAMES)]
        if done:
            self._write(done)
        steps = len(NAMES) * self.rows
        step = sum(map(len, self.measured.values()))
        left = (time.monotonic() - self.started) / step * (steps - step)
        self.report.progress(step, steps, round(left, 1), "answers")

    def _write(self, numbers: list[int]) -> None:
        scores = {name: {key: m.by_row() for key, m in self._metrics(name, numbers).items()} for name in NAMES}
        with open(self.file, "a", encoding="utf-8") as file:
            for place, number in enumerate(numbers):
                item = self.pair["tuned"].items[number]
                assert item is not None
                record: dict[str, Any] = {
                    "number": item.number, "file": item.file, "prompt": item.prompt, "reference": item.reference,
                }  # fmt: skip
                if shown := list(item.prompt_shown[0]):
                    record["pictures"] = shown
                for name in NAMES:
                    found = self.measured[name][number]
                    record[name] = found.facts() | {key: values[place] for key, values in scores[name].items()}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self.finished += numbers

    def _metrics(self, name: str, numbers: list[int]) -> dict[str, metrics.Metric]:
        found = [self.measured[name][number] for number in numbers]
        items = [self.pair["tuned"].items[number] for number in numbers]
        references = [item.reference for item in items if item]
        answers, nlls, tokens = [m.answer for m in found], [m.nll for m in found], [m.tokens for m in found]
        return {
            "loss": metrics.loss(nlls, tokens),
            "perplexity": metrics.perplexity(nlls, tokens),
            "rouge_l": metrics.rouge_l(answers, references),
            "chrf": metrics.chrf(answers, references),
            "bleu": metrics.bleu(answers, references, self.tokenizer),
            "exact_match": metrics.exact_match(answers, references),
        }

    def close(self, *, stopped: bool) -> None:
        if not self.finished:
            self.report.warn("Stopped before a row was answered by both models: nothing was compared.")
            return
        args = self.args
        base, tuned = (self._metrics(name, self.finished) for name in NAMES)
        found = {
            key: metrics.compare(
                base[key], tuned[key], confidence=args.confidence, resamples=args.resamples, seed=args.seed
            )
            for key in base
        }
        self._warn()
        sentence = self._sentence(found, stopped)
        summary = {
            "verdict": found["loss" if self.comparable else "chrf"].verdict,
            "tuned": args.tuned,
            "base": self.pair["base"].lineage.weights.ref,
            "rows_from": self.origin,
            "rows": len(self.finished),
            "rows_wanted": self.rows,
            "stopped": stopped,
            "loss_comparable": self.comparable,
            "confidence": args.confidence,
            "resamples": args.resamples,
            "seed": args.seed,
            "bleu_tokenizer": self.tokenizer,
            "metrics": {key: comparison.facts() for key, comparison in found.items()},
        }
        write_json(self.run.results_path / "summary.json", {"sentence": sentence, **summary})
        self.report.result(sentence, **summary)

    def _sentence(self, found: dict[str, metrics.Comparison], stopped: bool) -> str:
        which = (
            "loss" if self.args.data else "test loss" if self.origin.startswith("kept for a test") else "held-out loss"
        )
        said = []
        if self.comparable:
            said.append(metrics.sentence(which, found["loss"], self.args.confidence))
        if not said or found["loss"].verdict != "too few rows":  # else it would say so twice
            said.append(metrics.sentence("chrF of the answers", found["chrf"], self.args.confidence))
        if stopped:
            said.append(f"Stopped after {len(self.finished)} of {self.rows} rows.")
        return " ".join(said)

    def _warn(self) -> None:
        if not self.comparable:
            self.report.warn(
                "The two models split text into different tokens, so their losses cannot be compared.",
                "The verdict is on chrF of the answers instead.",
            )
        cut = {name: sum(self.measured[name][number].cut for number in self.finished) for name in NAMES}
        if any(cut.values()):
            told = " and ".join(f"{count} of the {name} model" for name, count in cut.items())
            self.report.warn(
                f"Of {len(self.finished)} answers each, {told} were cut at {self.args.max_tokens} tokens.",
                "Raise max_tokens if they should be longer.",
            )
