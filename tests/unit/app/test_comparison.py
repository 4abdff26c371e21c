"""What the page says of an evaluation: rows side by side, in order, and where they come from. No browser, no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from app.results import comparison, refs
from engine.contract import rundir, text
from engine.contract.args import TrainArgs
from engine.contract.rundir import Run


def ranked(number: int, margin: float) -> dict[str, Any]:
    """A pair as the evaluation of a reward model writes it down."""
    tuned = {"answer": "4" if margin > 0 else "5", "preferred": 100.0 * (margin > 0), "margin": margin}
    base = {"answer": "", "cut": False, "preferred": 50.0}
    return {"number": number, "file": "pairs.jsonl", "prompt": "2 and 2?", "reference": "4", "base": base,
            "tuned": {"cut": False, **tuned}}  # fmt: skip


def test_pairs_are_ordered_by_what_they_were_measured_by_where_the_chosen_measure_is_not_theirs(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.results_path.mkdir()
    lines = [json.dumps(ranked(number, margin)) for number, margin in ((1, 2.0), (2, -1.0), (3, 1.0))]
    (run.results_path / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert [row["number"] for row in comparison.ordered(run, "loss", "Worst first")][0] == 2


def test_a_pair_says_what_is_preferred_and_nobody_wrote_it() -> None:
    shown, _, _ = comparison.rows([ranked(1, 2.0)], 0, "loss")
    assert "Tuned prefers" in shown and "Better answer" in shown and "as a coin would" in shown
    assert "nothing" not in shown and "<mark>" not in shown


def test_a_run_is_spoken_of_by_its_name(tmp_path: Path) -> None:
    run = rundir.make(tmp_path, "sft", text.dump(TrainArgs(name="first try")))
    assert refs.spoken(f"held out by {run.id}", tmp_path) == "held out by first try"
    assert refs.spoken("held out by 20200101-000000-gone", tmp_path) == "held out by 20200101-000000-gone"
