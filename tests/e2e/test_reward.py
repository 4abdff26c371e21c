"""Reward models: the loss against a reference written by hand, and what the result is good for afterwards."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from data.checking import preflight
from engine.contract import rundir, text
from engine.contract.args import EvaluateArgs, ExportArgs, ServeArgs
from engine.contract.errors import ArgsError, DataError, ModelError
from engine.contract.rundir import Run
from engine.feedback.scoring import Scorer
from engine.report import Report, Stop
from tests.e2e.preferring import LORA, MARGINS, PAIRS, PROMPT, ROWS, compare, shake, trainer
from tests.e2e.training import events, losses, train

CPU = torch.device("cpu")
METHODS = (["method=full"], LORA, ["method=freeze", "method.layers=1"])


@pytest.mark.parametrize("method", METHODS, ids=["full", "lora", "freeze"])
@pytest.mark.parametrize(("margin", "centring"), [(0.0, 0.0), (0.3, 0.05)])
def test_the_loss_and_its_gradient_equal_the_formula(
    workspace: Path, method: list[str], margin: float, centring: float
) -> None:
    made = trainer(workspace, "reward", ROWS, *method, f"task.margin={margin}", f"task.centring={centring}")
    made.model.eval()
    shake(made.model)
    found = []
    for (better, worse), own in zip(PAIRS, MARGINS, strict=True):
        chosen, rejected = (made.model(torch.tensor([PROMPT + answer])).logits[0, 0] for answer in (better, worse))
        loss = torch.log1p(torch.exp(-(chosen - rejected - margin - own)))
        found.append(loss + centring * (chosen + rejected) ** 2)
    compare(made, ROWS, torch.stack(found).mean())


@pytest.mark.parametrize("method", METHODS, ids=["full", "lora", "freeze"])
def test_training_moves_the_head_with_every_method(workspace: Path, method: list[str]) -> None:
    made = trainer(workspace, "reward", ROWS, *method)
    heads = {name: one.detach().clone() for name, one in made.model.named_parameters() if "score" in name}
    made.train()
    moved = [name for name, one in made.model.named_parameters() if name in heads and not torch.equal(heads[name], one)]
    assert moved
    assert losses(made.run, "eval/margin")[-1] > losses(made.run, "eval/margin")[0]


@pytest.fixture
def pairs(workspace: Path) -> Path:
    """The workspace, with sixteen preferences in `pairs.jsonl` that a look at one word decides."""
    lines = [{"prompt": f"Is {n} even?", "chosen": "Surely yes!", "rejected": "Surely no."} for n in range(16)]
    (workspace / "datasets" / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return workspace


def learnt(workspace: Path, *overrides: str) -> Run:
    said = ["task=reward", "data=pairs.jsonl", "data.split=50/50/0", "steps.max_steps=6", "optim.learning_rate=1e-2"]
    return train(workspace, *said, *overrides)


def talk(number: int, answer: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": f"Is {number} even?"}, {"role": "assistant", "content": answer}]


@pytest.mark.parametrize("method", [["method=full"], LORA], ids=["full", "lora"])
def test_a_scorer_gives_the_scores_of_training(pairs: Path, method: list[str]) -> None:
    run = learnt(pairs, *method)
    scorer = Scorer.of(run.id, pairs, CPU, dtype="fp32")
    scores = scorer.scores([talk(n, answer) for answer in ("Surely yes!", "Surely no.") for n in range(8)])
    assert (scores[:8] > scores[8:]).all()
    alone = torch.cat([scorer.scores([talk(n, "Surely yes!")]) for n in range(8)])
    torch.testing.assert_close(scores[:8], alone, atol=1e-5, rtol=1e-5)
    held = [json.loads(line) for line in run.heldout_path.read_text().splitlines()]
    talks = [[*row["prompt"], *row[side]] for row in held for side in ("chosen", "rejected")]
    found = scorer.scores(talks)
    assert float((found[::2] - found[1::2]).mean()) == pytest.approx(losses(run, "eval/margin")[-1], abs=1e-4)


def test_the_result_of_full_training_is_an_ordinary_classifier(pairs: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    model, told = AutoModelForSequenceClassification.from_pretrained(
        learnt(pairs, "method=full").model_path, output_loading_info=True
    )
    assert model.config.num_labels == 1
    assert not told["missing_keys"]


def do(workspace: Path, kind: Any, args: Any, module: Any) -> Run:
    run = rundir.make(workspace, kind, text.dump(args))
    module.run(args, run, Report(run), Stop())
    return run


@pytest.mark.parametrize(
    ("method", "form"),
    [pytest.param(["method=full"], "merged", marks=pytest.mark.slow), (LORA, "merged"),
     pytest.param(LORA, "adapter", marks=pytest.mark.slow)],
    ids=["full", "lora merged", "lora"],
)  # fmt: skip
def test_an_export_scores_as_the_run_does(pairs: Path, method: list[str], form: str) -> None:
    from engine import export

    run = learnt(pairs, *method)
    do(pairs, "export", ExportArgs(tuned=run.id, to="mine", form=form, dtype="fp32"), export)
    talks = [talk(3, "Surely yes!"), talk(4, "Maybe.")]
    wanted = Scorer.of(run.id, pairs, CPU, dtype="fp32").scores(talks)
    torch.testing.assert_close(
        Scorer.of("exports/mine", pairs, CPU, dtype="fp32").scores(talks), wanted, atol=1e-5, rtol=1e-5
    )
    assert not (pairs / "exports/mine/Modelfile").exists()
    assert "SequenceClassification" in (pairs / "exports/mine/README.md").read_text()


def test_evaluation_asks_how_often_the_better_answer_is_preferred(pairs: Path) -> None:
    from engine import evaluate

    run = learnt(pairs, *LORA)
    judged = do(pairs, "evaluate", EvaluateArgs(tuned=run.id, dtype="fp32"), evaluate)
    summary = json.loads((judged.results_path / "summary.json").read_text())
    assert summary["metrics"]["preferred"]["tuned"] == 100 * losses(run, "eval/preferred")[-1] == 100
    assert summary["metrics"]["preferred"]["base"] == 50
    assert (summary["verdict"], summary["base"], summary["rows"]) == ("better", "a coin", 8)
    again = do(pairs, "evaluate", EvaluateArgs(tuned=run.id, base=run.id, dtype="fp32"), evaluate)
    assert json.loads((again.results_path / "summary.json").read_text())["metrics"]["margin"]["difference"] == 0
    for tuned, base in ((run.id, "tiny"), ("tiny", run.id)):  # said before the start too, and both ways
        [wrong] = preflight.problems(EvaluateArgs(tuned=tuned, base=base, data=["pairs.jsonl"]), pairs)
        assert wrong.path == "base" and "scores" in wrong.text and "writes" in wrong.text
    with pytest.raises(ModelError, match="tiny writes answers and scores none"):
        do(pairs, "evaluate", EvaluateArgs(tuned=run.id, base="tiny"), evaluate)


def test_what_needs_answers_refuses_a_model_that_scores(pairs: Path) -> None:
    from engine.serving import roster

    run = learnt(pairs, *LORA, "steps.max_steps=1")
    with pytest.raises(ModelError, match="scores answers and writes none"):
        roster.load(ServeArgs(models=[run.id]), pairs)
    with pytest.raises(ArgsError, match="scores answers and does not say how likely"):
        train(pairs, "task=dpo", "data=pairs.jsonl", f"task.reference_model={run.id}")
    with pytest.raises(ArgsError, match="A reward model writes no answers"):
        learnt(pairs, 'record.samples=["What?"]')


def test_a_model_that_writes_is_refused_as_one_that_scores(pairs: Path) -> None:
    run = train(pairs, "task=dpo", "data=pairs.jsonl", "steps.max_steps=1", *LORA)
    for ref in ("tiny", run.id):
        with pytest.raises(ModelError, match=r"scores (no texts|none)"):
            Scorer.of(ref, pairs, CPU)


def test_a_classifier_with_labels_scores_by_the_log_odds_of_the_chosen_one(workspace: Path, tiny_model: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder, tokenizer = workspace / "models" / "mood", AutoTokenizer.from_pretrained(tiny_model)
    names = {0: "sad", 1: "calm", 2: "glad"}
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=3, id2label=names)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    found = Scorer.of("mood", workspace, CPU, "glad", "fp32").scores(["Good morning", "x"])
    model.config.pad_token_id = tokenizer.pad_token_id
    with torch.no_grad():
        share = torch.cat(
            [model(**tokenizer(said, return_tensors="pt")).logits.softmax(-1) for said in ("Good morning", "x")]
        )
    torch.testing.assert_close(found, torch.log(share[:, 2] / (1 - share[:, 2])), atol=1e-5, rtol=1e-5)
    assert Scorer.of("mood", workspace, CPU, "1", "fp32").label == 1
    with pytest.raises(ModelError, match="mood has several labels") as refused:
        Scorer.of("mood", workspace, CPU)
    assert "sad, calm, glad" in refused.value.hint


@pytest.mark.parametrize("margin", ["much", 1e300])
def test_a_margin_in_the_rows_that_is_no_number_is_refused_with_its_row(pairs: Path, margin: Any) -> None:
    file = pairs / "datasets" / "pairs.jsonl"
    odd = {"prompt": "Why?", "chosen": "So.", "rejected": "No.", "margin": margin}
    file.write_text(json.dumps(odd) + "\n" + file.read_text(), encoding="utf-8")
    with pytest.raises(DataError, match=re.escape(f"the margin is {margin!r}")):
        learnt(pairs)


def test_margins_of_the_rows_reach_the_loss(pairs: Path) -> None:
    file = pairs / "datasets" / "wide.jsonl"
    lines = [json.loads(line) | {"margin": 2} for line in (pairs / "datasets" / "pairs.jsonl").read_text().splitlines()]
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    plain, wide = (learnt(pairs, f"data={name}.jsonl", *LORA, "steps.max_steps=1") for name in ("pairs", "wide"))
    assert losses(wide)[0] > losses(plain)[0] + 1
    assert events(wide, "result")
