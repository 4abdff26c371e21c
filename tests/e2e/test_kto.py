"""KTO against a reference written by hand, who borrows whose answer, and what the two kinds of answer count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.contract.preference import Kto
from engine.recipes import kto
from tests.e2e.preferring import LORA, answer_logps, compare, shake, trainer
from tests.e2e.training import events, losses, train, weights

ASKED = [[3, 4], [5, 6, 7], [8], [9, 10]]
ANSWERS = [[11, 12, 13], [14], [15, 16], [17, 18, 19, 20]]
GOOD = [True, False, True, True]
BETA = 0.3
ROWS = [
    {"input_ids": asked + answer, "labels": [-100] * len(asked) + answer, "label": good}
    for asked, answer, good in zip(ASKED, ANSWERS, GOOD, strict=True)
]


def base(workspace: Path) -> Any:
    from engine.models.model import model_of

    return model_of(workspace / "models" / "tiny", dtype=torch.float32, device=torch.device("cpu"))


def ratio(model: Any, before: Any, asked: list[int], answer: list[int]) -> torch.Tensor:
    with torch.no_grad():
        then = answer_logps(before, asked + answer, len(asked)).sum()
    return answer_logps(model, asked + answer, len(asked)).sum() - then


def prepared(workspace: Path, *overrides: str) -> Any:
    made = trainer(workspace, "kto", ROWS, *LORA, f"task.beta={BETA}", *overrides)
    shake(made.model, seed=7)  # towards the answers: the distance moved is above nothing
    return made


def mixed(made: Any) -> list[dict[str, Any]]:
    return [made.train_dataset[place] for place in range(len(ROWS))]


@pytest.mark.parametrize("loss", ["kto", "apo_zero"])
def test_the_loss_and_its_gradient_equal_the_formula(workspace: Path, loss: str) -> None:
    made, before = (
        prepared(workspace, f"task.loss={loss}", "task.good_weight=0.5", "task.bad_weight=2"),
        base(workspace),
    )
    others = [row["other_ids"][len(asked) :] for row, asked in zip(mixed(made), ASKED, strict=True)]
    with torch.no_grad():
        drifts = [ratio(made.model, before, *both) for both in zip(ASKED, others, strict=True)]
    moved = torch.stack(drifts).mean().clamp(min=0) if loss == "kto" else torch.zeros(())
    assert loss != "kto" or moved > 0.01  # else the estimate would not be tested
    found = []
    for asked, answer, good in zip(ASKED, ANSWERS, GOOD, strict=True):
        gained = ratio(made.model, before, asked, answer)
        lead = BETA * ((gained - moved) if good else (moved - gained))
        found.append((0.5 if good else 2.0) * (1 - 1 / (1 + torch.exp(-lead))))
    compare(made, mixed(made), torch.stack(found).mean())


def test_every_row_borrows_an_answer_to_another_question() -> None:
    rows = [{**row, "input_ids": [1, 2, *answer], "labels": [-100, -100, *answer]}
            for row, answer in zip(ROWS, ANSWERS, strict=True)] + ROWS  # fmt: skip
    mismatched = kto.Mismatched(rows, limit=6, seed=3)
    for place, row in enumerate(rows):
        found, begin = mismatched[place], row["labels"].count(-100)
        answer = found["other_ids"][begin:]
        lenders = [one for one in rows if one["input_ids"][one["labels"].count(-100) :][: len(answer)] == answer]
        assert found["other_ids"][:begin] == row["input_ids"][:begin]
        assert answer
        assert any(one["input_ids"][: one["labels"].count(-100)] != row["input_ids"][:begin] for one in lenders)
        assert found["other_labels"] == [-100] * begin + answer
        assert len(found["other_ids"]) <= 6


@pytest.mark.parametrize(
    ("good", "bad", "said", "wanted"),
    [
        (50, 50, ("auto", "auto"), (1, 1)), (60, 50, ("auto", "auto"), (1, 1)),  # 1.2 is between 1 and 4/3
        (20, 80, ("auto", "auto"), (4, 1)), (80, 20, ("auto", "auto"), (1, 3)),
        (80, 20, (2.0, "auto"), (2, 6)), (20, 80, ("auto", 0.5), (2, 0.5)),
        (80, 20, (1.0, 1.0), (1, 1)), (7, 0, ("auto", "auto"), (1, 1)),
    ],
)  # fmt: skip
def test_weights_let_good_answers_count_one_to_four_thirds_of_bad_ones(
    good: int, bad: int, said: tuple[Any, Any], wanted: tuple[float, float]
) -> None:
    found = Kto(good_weight=said[0], bad_weight=said[1]).weights(good, bad)
    assert found == pytest.approx(wanted)
    if bad and "auto" in said:
        assert 1 - 1e-9 <= found[0] * good / (found[1] * bad) <= 4 / 3 + 1e-9


def test_weights_that_do_not_balance_are_warned_of() -> None:
    assert "count 4 times" in Kto(good_weight=1, bad_weight=1).lopsided(80, 20)
    assert Kto(good_weight=1, bad_weight=1).lopsided(55, 50) == Kto().lopsided(80, 20) == Kto().lopsided(0, 0) == ""
    assert "no bad answer" in Kto().lopsided(9, 0) and "no good answer" in Kto().lopsided(0, 9)
    assert "count for nothing" in Kto(bad_weight=0).lopsided(5, 5)


def test_training_parts_good_from_bad(workspace: Path) -> None:
    made = trainer(workspace, "kto", ROWS, *LORA)
    made.train()
    good, bad = (losses(made.run, f"eval/{name}_reward") for name in ("good", "bad"))
    assert good[0] == pytest.approx(0, abs=1e-6)
    assert good[-1] > bad[-1]
    assert losses(made.run, "eval/loss")[-1] < losses(made.run, "eval/loss")[0]
    assert losses(made.run, "eval/kl")[0] == pytest.approx(0, abs=1e-6)


def test_figures_of_evaluation_do_not_move_with_the_batch_size(workspace: Path) -> None:
    found = []
    for size in ("1", "3", "4"):
        made = prepared(workspace, f"steps.batch_size={size}")
        made.evaluate()
        names = ("loss", "kl", "good_reward", "bad_reward", "agreed")
        found.append([losses(made.run, f"eval/{name}")[-1] for name in names])
    assert found[0] == pytest.approx(found[1], abs=1e-5)
    assert found[0] == pytest.approx(found[2], abs=1e-5)


def test_a_reference_asked_beforehand_trains_the_same(workspace: Path) -> None:
    runs = [
        trainer(workspace, "kto", ROWS, "method=full", f"task.precompute_reference={said}") for said in ("no", "yes")
    ]
    for made in runs:
        made.train()
    for name in ("train/loss", "eval/loss", "train/kl"):
        assert losses(runs[0].run, name) == pytest.approx(losses(runs[1].run, name), abs=1e-6)


@pytest.fixture
def judged(workspace: Path) -> Path:
    """The workspace, with twelve judged answers in `judged.jsonl`, a third of them good."""
    lines = [
        {"messages": [{"role": "user", "content": f"Hello, I am {n}."}, {"role": "assistant", "content": "Hi."},
                      {"role": "user", "content": "Even?"}, {"role": "assistant", "content": "Yes." * (n % 3 + 1)}],
         "label": n % 3 == 0}
        for n in range(12)
    ]  # fmt: skip
    (workspace / "datasets" / "judged.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return workspace


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(judged: Path) -> None:
    said = ["task=kto", "data=judged.jsonl", "data.split=75/25/0", "method.rank=4", "record.save_every=2"]
    whole = train(judged, *said)
    rest = train(judged, *said, f"resume.run={whole.id}", "resume.checkpoint=step-2")
    assert losses(rest) == losses(whole)[2:]
    assert losses(rest, "eval/loss")[-1] == losses(whole, "eval/loss")[-1]
    first, second = (weights(run.model_path) for run in (whole, rest))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_all_of_an_evaluation_is_of_the_weights_that_are_kept(judged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An optimiser that trains other weights than it keeps must have put the latter in place."""
    from engine.recipes.kto import Task

    pytest.importorskip("schedulefree")
    drift, trains = Task._drift, list[bool]()

    def watched(self: Any, *given: Any) -> Any:
        if not self.model.training and self.state.global_step:
            trains.append(self.optimizer.param_groups[0]["train_mode"])
        return drift(self, *given)

    monkeypatch.setattr(Task, "_drift", watched)
    train(judged, "task=kto", "data=judged.jsonl", "data.split=75/25/0", "record.evaluate_every=1", "steps.max_steps=2",
          "optim.optimiser=schedule_free_adamw", "optim.schedule=constant")  # fmt: skip
    assert trains and not any(trains)


def test_the_run_says_what_good_and_bad_answers_count(judged: Path) -> None:
    run = train(judged, "task=kto", "data=judged.jsonl", "method.rank=4", "steps.max_steps=1")
    said = next(event for event in events(run, "note") if event.get("facts", {}).get("good_weight"))
    assert "4 answers are good and 8 bad; they count 2 and 1." in said["text"]


def test_only_the_answer_that_is_judged_is_learnt_from(judged: Path) -> None:
    from data.encoding.judged import Judged
    from data.encoding.render import ChatTemplate
    from data.encoding.tokens import TextTokenizer
    from data.rows.conversation import Row

    folder = judged / "models" / "tiny"
    tokenizer = TextTokenizer.of(folder)
    lines = [json.loads(line) for line in (judged / "datasets" / "judged.jsonl").read_text().splitlines()]
    rows = [Row(line["messages"], None, "f", n, "feedback", label=line["label"]) for n, line in enumerate(lines, 1)]
    maker = Judged(ChatTemplate.of(folder), tokenizer)
    rendered, texts = maker.render(rows)
    batch = maker.finish(rendered, tokenizer.encode_batch(texts))
    columns = batch.columns.to_pydict()
    trained = [tokenizer.decode([one for one in labels if one != -100]) for labels in columns["labels"]]
    assert trained == ["Yes." * (n % 3 + 1) + "<|im_end|>" for n in range(12)]
    assert columns["label"] == [n % 3 == 0 for n in range(12)]
    refused = maker.finish(*[maker.render([Row(lines[0]["messages"], None, "f", 1)])[0], []])
    assert "has no label" in refused.report.refusals[0][0]


def test_evaluation_takes_the_good_answers_that_were_held_out(judged: Path) -> None:
    from engine import evaluate
    from engine.contract import rundir, text
    from engine.contract.args import EvaluateArgs
    from engine.report import Report, Stop

    trained = train(judged, "task=kto", "data=judged.jsonl", "data.split=25/75/0", "method.rank=4", "steps.max_steps=1")
    args = EvaluateArgs(tuned=trained.id, max_tokens=2, dtype="fp32")
    run = rundir.make(judged, "evaluate", text.dump(args))
    evaluate.run(args, run, Report(run), Stop())
    held = [json.loads(line) for line in trained.heldout_path.read_text().splitlines()]
    found = json.loads((run.results_path / "summary.json").read_text())
    assert 0 < found["rows"] == sum(row["label"] for row in held) < len(held)
