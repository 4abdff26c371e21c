"""An evaluation of a reward model: how often it scores the better answer of a pair higher, on pairs that it never saw.

Compared with another reward model, or with a coin, which is right on half of them. A stop keeps the pairs that both
have scored. Knows nothing of how scores are made.
"""

from __future__ import annotations

import gc
import json
import random
from pathlib import Path
from typing import Any

from data.datasets import registry
from data.rows.conversation import Row, said
from data.rows.formats import restored
from data.weights import scores_texts
from engine import metrics
from engine.contract.args import EvaluateArgs
from engine.contract.errors import DataError, ModelError
from engine.contract.fields import AUTO
from engine.contract.rundir import Run, records, write_json
from engine.exporting import lineage
from engine.feedback.scoring import Scorer
from engine.models.model import device_of
from engine.report import Report, Stop

COIN = "a coin"
Scores = list[tuple[float, float]]  # of the better and of the worse answer


def run(args: EvaluateArgs, run: Run, report: Report, stop: Stop) -> None:
    """`args.tuned` scores texts."""
    base = COIN if args.base == AUTO else args.base
    if base != COIN and not scores_texts(base, run.workspace):
        raise ModelError(
            f"{base} writes answers and scores none.",
            "Leave Compare with (base) on auto to compare with chance, or choose another reward run.",
        )
    report.phase("preparing")
    pairs, origin = _pairs(args, run)
    chosen = random.Random(args.seed).sample(pairs, min(args.max_rows, len(pairs)))
    report.note(f"Judging {len(chosen):,} of {len(pairs):,} pairs.", rows=len(chosen), of=len(pairs))
    run.results_path.mkdir(exist_ok=True)
    scores: dict[str, Scores] = {}
    with stop.deferred():
        for name, ref in (("base", base), ("tuned", args.tuned)):
            if ref == COIN:
                continue
            report.phase("loading")
            scorer = Scorer.of(ref, run.workspace, device_of(args.device), dtype=args.dtype)
            report.phase("evaluating")
            scores[name] = _scored(scorer, chosen, args.batch_size, report, stop)
            del scorer
            gc.collect()
    done = min(map(len, scores.values())) if "tuned" in scores else 0
    if done:
        _close(args, run, report, chosen[:done], scores, base, origin, len(chosen))
    else:
        report.warn("Stopped before a pair was scored: nothing was compared.")
    stop.check()


def _pairs(args: EvaluateArgs, run: Run) -> tuple[list[Row], str]:
    """The pairs to judge on, and where they come from, in words."""
    if args.data:
        found, origin = [], ", ".join(args.data)
        for name in args.data:
            entry = registry.find(name, run.workspace, allowed=[Path("/")])  # the page confines its own paths
            found += registry.load(entry.model_copy(update={"fill": {**entry.fill, **args.fill}}))
    else:
        found, origin = _held_out(lineage.of(args.tuned, run.workspace).run)
    if not (pairs := [row for row in found if row.kind == "preference"]):
        raise DataError(
            f"There are no pairs of a better and a worse answer to judge on (rows: {origin or 'none held out'}).",
            "Choose a dataset of preferences, or train again with a held-out share.",
        )
    return pairs, origin


def _held_out(trained: Run | None) -> tuple[list[Row], str]:
    """What the run kept for a test, which nothing has seen; without any, what measured its training."""
    if trained is None:
        return [], ""
    for path, how in ((trained.test_path, "kept for a test"), (trained.heldout_path, "held out")):
        if rows := [_restored(record) for record in records(path)]:
            return rows, f"{how} by {trained.id}"
    return [], ""


def _restored(record: dict[str, Any]) -> Row:
    kept = {key: value for key, value in record.items() if key not in ("kind", "file", "number")}
    return restored(kept, record.get("kind", "conversation"), record["file"], record["number"])


def _scored(scorer: Scorer, pairs: list[Row], size: int, report: Report, stop: Stop) -> Scores:
    found: Scores = []
    for start in range(0, len(pairs), size):
        if stop.asked:
            break
        batch = pairs[start : start + size]
        talks = [[*row.messages, *(side or [])] for row in batch for side in (row.chosen, row.rejected)]
        scores = scorer.scores(talks, 2 * size).tolist()
        found += zip(scores[::2], scores[1::2], strict=True)
        report.progress(len(found), len(pairs), None, unit="rows")
    return found


def _close(
    args: EvaluateArgs, run: Run, report: Report, pairs: list[Row], scores: dict[str, Scores], base: str, origin: str,
    wanted: int,
) -> None:  # fmt: skip
    facts = {
        name: [_facts(row, *both) for row, both in zip(pairs, scores[name], strict=False)] if name in scores
        else [{"answer": "", "cut": False, "preferred": 50.0} for _ in pairs]
        for name in ("base", "tuned")
    }  # fmt: skip
    with open(run.results_path / "rows.jsonl", "w", encoding="utf-8") as file:
        for place, row in enumerate(pairs):
            record = {
                "number": row.number, "file": row.file, "prompt": said(row.messages[-1]) if row.messages else "",
                "reference": _text(row.chosen), "base": facts["base"][place], "tuned": facts["tuned"][place],
            }  # fmt: skip
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    shared = [key for key in ("preferred", "margin") if key in facts["base"][0]]
    found = {
        key: metrics.compare(
            *(metrics.mean([fact[key] for fact in facts[name]]) for name in ("base", "tuned")),
            confidence=args.confidence, resamples=args.resamples, seed=args.seed,
        )
        for key in shared
    }  # fmt: skip
    sentence = metrics.sentence("the share of better answers preferred (%)", found["preferred"], args.confidence)
    sentence += f" Stopped after {len(pairs)} of {wanted} pairs." if len(pairs) < wanted else ""
    summary = {
        "verdict": found["preferred"].verdict, "tuned": args.tuned, "base": base, "rows_from": origin,
        "rows": len(pairs), "rows_wanted": wanted, "stopped": len(pairs) < wanted, "loss_comparable": False,
        "confidence": args.confidence, "resamples": args.resamples, "seed": args.seed,
        "metrics": {key: comparison.facts() for key, comparison in found.items()},
    }  # fmt: skip
    write_json(run.results_path / "summary.json", {"sentence": sentence, **summary})
    report.result(sentence, **summary)


def _facts(row: Row, better: float, worse: float) -> dict[str, Any]:
    """What is shown of a pair: the answer that the model prefers, and by how much."""
    preferred = row.chosen if better > worse else row.rejected
    share = 100.0 if better > worse else 0.0
    return {"answer": _text(preferred), "cut": False, "preferred": share, "margin": better - worse}


def _text(turns: Any) -> str:
    return "\n\n".join(said(turn) for turn in turns or [])
