"""An evaluation measures what it says: losses equal a plain computation, and a model is no better than itself."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from data.encoding.tokens import TextTokenizer
from data.rows.conversation import Row
from engine import evaluate, judge
from engine.contract import rundir, text
from engine.contract.args import EvaluateArgs, TrainArgs
from engine.contract.errors import DataError, ModelError
from engine.contract.rundir import Run, records
from engine.report import Report, Stop, Stopped
from tests import tuned

FAST = {"max_tokens": 8, "resamples": 200, "dtype": "fp32"}


def do(workspace: Path, stop: Stop | None = None, **args: Any) -> Run:
    """One evaluation in this process, as the worker does it."""
    wanted = EvaluateArgs(**{**FAST, **args})
    run = rundir.make(workspace, "evaluate", text.dump(wanted))
    evaluate.run(wanted, run, Report(run), stop or Stop())
    return run


def summary(run: Run) -> dict[str, Any]:
    return json.loads((run.results_path / "summary.json").read_text())


def rows(run: Run) -> list[dict[str, Any]]:
    return list(records(run.results_path / "rows.jsonl"))


def plain_losses(folder: Path, adapter: Path | None, held: Path) -> dict[int, tuple[float, int]]:
    """Row number -> (summed NLL, tokens), by PyTorch alone: ChatML, the answers and their end-of-turn."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, adapter).eval() if adapter else model.eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = {}
    for row in records(held):
        ids, trained = [], []
        for message in row["messages"]:
            head = tokenizer.encode(f"<|im_start|>{message['role']}\n", add_special_tokens=False)
            said = tokenizer.encode(message["content"] + "<|im_end|>", add_special_tokens=False)
            tail = tokenizer.encode("\n", add_special_tokens=False)
            ids += head + said + tail
            trained += [False] * len(head) + [message["role"] == "assistant"] * len(said) + [False] * len(tail)
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0]
        nll = functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="none")
        chosen = torch.tensor(trained[1:])
        found[row["number"]] = float(nll[chosen].sum()), int(chosen.sum())
    return found


def test_losses_equal_a_plain_computation(workspace: Path, tiny_model: Path) -> None:
    trained = tuned.adapter_run(workspace)
    run = do(workspace, tuned=trained.id, batch_size=5)
    for name, adapter in (("base", None), ("tuned", trained.model_path)):
        wanted = plain_losses(tiny_model, adapter, trained.heldout_path)
        assert len(rows(run)) == len(wanted) == 12
        for row in rows(run):
            nll, tokens = wanted[row["number"]]
            assert row[name]["tokens"] == tokens
            assert row[name]["nll"] == pytest.approx(nll, rel=1e-5)
        mean = sum(nll for nll, _ in wanted.values()) / sum(tokens for _, tokens in wanted.values())
        assert summary(run)["metrics"]["loss"][name] == pytest.approx(mean, rel=1e-5)
        assert summary(run)["metrics"]["perplexity"][name] == pytest.approx(math.exp(mean), rel=1e-4)


def test_a_model_is_no_better_than_itself(workspace: Path) -> None:
    trained = tuned.adapter_run(workspace)
    found = summary(do(workspace, tuned=trained.id, base=trained.id))
    assert found["verdict"] == "no clear difference"
    for metric in found["metrics"].values():
        assert (metric["difference"], metric["low"], metric["high"]) == (0, 0, 0)


def test_what_ends_an_answer_ends_that_of_both(workspace: Path) -> None:
    """The model's own generation_config.json names ends that its tokenizer does not know of."""
    import shutil

    trained, folder = tuned.adapter_run(workspace), workspace / "models" / "tiny"
    folder.rename(folder.with_name("was"))
    shutil.copytree(folder.with_name("was"), folder)
    every = list(range(TextTokenizer.of(folder).vocabulary_size))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": every}))
    found = rows(do(workspace, tuned=trained.id, base=trained.id))
    assert {row[name]["answer"] for row in found for name in ("base", "tuned")} == {""}


def test_an_export_equals_the_run_that_it_came_from(workspace: Path) -> None:
    """Merged weights against base plus adapter: two models in turn, the same answers and, but for rounding, losses."""
    from engine import export
    from engine.contract.args import ExportArgs

    trained = tuned.adapter_run(workspace)
    args = ExportArgs(tuned=trained.id, to="mine", dtype="fp32", verify=False)
    made = rundir.make(workspace, "export", text.dump(args))
    export.run(args, made, Report(made), Stop())
    run = do(workspace, tuned="exports/mine", base=trained.id)
    assert summary(run)["rows_from"] == f"held out by {trained.id}"
    assert abs(summary(run)["metrics"]["loss"]["difference"]) < 1e-5
    assert all(row["base"]["answer"] == row["tuned"]["answer"] for row in rows(run))
    assert summary(do(workspace, tuned="exports/mine"))["base"] == "tiny"


def test_company_does_not_change_an_answer(workspace: Path) -> None:
    trained = tuned.adapter_run(workspace)
    alone = {row["number"]: row for row in rows(do(workspace, tuned=trained.id, batch_size=1, max_tokens=16))}
    together = rows(do(workspace, tuned=trained.id, batch_size=12, max_tokens=16))
    assert len({len(row["prompt"]) for row in together}) > 1
    for row in together:
        for name in ("base", "tuned"):
            assert row[name]["answer"] == alone[row["number"]][name]["answer"]
            assert row[name]["nll"] == pytest.approx(alone[row["number"]][name]["nll"], rel=1e-5)


def test_the_loss_is_measured_in_parts_that_fit(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = tuned.adapter_run(workspace)
    whole = rows(do(workspace, tuned=trained.id))
    monkeypatch.setattr(judge, "TOKENS_AT_ONCE", 100)
    for row, same in zip(rows(do(workspace, tuned=trained.id)), whole, strict=True):
        assert row["tuned"]["nll"] == pytest.approx(same["tuned"]["nll"], rel=1e-5)


def test_answers_are_those_of_plain_greedy_decoding(workspace: Path, tiny_model: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trained = tuned.adapter_run(workspace)
    run = do(workspace, tuned=trained.id, max_tokens=12)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), trained.model_path).eval()
    held = {row["number"]: row for row in records(trained.heldout_path)}
    for row in rows(run)[:4]:
        messages = held[row["number"]]["messages"][:-1]
        asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
        said = model.generate(**asked, do_sample=False, max_new_tokens=12)[0, asked["input_ids"].shape[1] :]
        assert row["tuned"]["answer"] == tokenizer.decode(said, skip_special_tokens=True).strip() != ""
        assert row["reference"] == held[row["number"]]["messages"][-1]["content"]


def test_a_full_run_is_compared_with_what_it_was_trained_from(workspace: Path, tiny_model: Path) -> None:
    trained = tuned.full_run(workspace)
    run = do(workspace, tuned=trained.id)
    for name, folder in (("base", tiny_model), ("tuned", trained.model_path)):
        wanted = plain_losses(folder, None, trained.heldout_path)
        assert all(row[name]["nll"] == pytest.approx(wanted[row["number"]][0], rel=1e-5) for row in rows(run))


def test_two_adapters_of_one_base_are_told_apart(workspace: Path, tiny_model: Path) -> None:
    first, second = tuned.adapter_run(workspace, seed=1), tuned.adapter_run(workspace, seed=2)
    run = do(workspace, tuned=second.id, base=first.id)
    for name, folder in (("base", first.model_path), ("tuned", second.model_path)):
        wanted = plain_losses(tiny_model, folder, second.heldout_path)
        assert all(row[name]["nll"] == pytest.approx(wanted[row["number"]][0], rel=1e-5) for row in rows(run))


class Later(Stop):
    """Asked to stop once the first batch has been measured."""

    def __init__(self) -> None:
        super().__init__()
        self.batches = 0

    def watch(self, genuine: Any) -> Any:
        def measure(*args: Any) -> Any:
            found = genuine(*args)
            self.batches += 1
            self.asked = self.batches > 2
            return found

        return measure


def test_a_stop_keeps_the_rows_that_are_finished(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Later()
    monkeypatch.setattr(evaluate, "_measure", stop.watch(evaluate._measure))
    trained = tuned.adapter_run(workspace)
    with pytest.raises(Stopped):
        do(workspace, stop, tuned=trained.id, batch_size=5)
    (run,) = [run for run in rundir.runs(workspace) if "evaluate" in run.id]
    assert len(rows(run)) == 5 == summary(run)["rows"]
    assert summary(run)["stopped"] and "Stopped after 5 of 12 rows." in summary(run)["sentence"]


def test_a_run_without_held_out_rows_says_what_to_do(workspace: Path) -> None:
    trained = tuned.adapter_run(workspace)
    trained.heldout_path.unlink()
    with pytest.raises(DataError, match="held out no rows") as problem:
        do(workspace, tuned=trained.id)
    assert "Choose a dataset" in problem.value.hint
    found = do(workspace, tuned=trained.id, data=["sums.jsonl"])
    warnings = [record["text"] for record in records(found.events_path) if record["kind"] == "warning"]
    assert any("was trained on rows of sums.jsonl" in warning for warning in warnings)


def test_rows_kept_for_a_test_are_judged_on_before_those_held_out(workspace: Path) -> None:
    trained = tuned.adapter_run(workspace)
    lines = trained.heldout_path.read_text().splitlines(keepends=True)
    trained.test_path.write_text("".join(lines))
    trained.heldout_path.write_text("".join(lines[:3]))
    found = summary(do(workspace, tuned=trained.id))
    assert found["rows"] == 12 and found["rows_from"] == f"kept for a test by {trained.id}"
    assert "test loss" in found["sentence"].lower()


def test_what_was_learnt_without_thoughts_is_judged_without(workspace: Path) -> None:
    trained, chosen = tuned.adapter_run(workspace), {"data": {"train": ["sums.jsonl"], "thoughts": "drop"}}
    plain = [row["tuned"]["nll"] for row in rows(do(workspace, tuned=trained.id))]
    held = list(records(trained.heldout_path))
    for message in (message for row in held for message in row["messages"] if message["role"] == "assistant"):
        message["content"] = f"<think>Well, well.</think>\n{message['content']}"
    trained.heldout_path.write_text("".join(json.dumps(row) + "\n" for row in held))
    assert [row["tuned"]["nll"] for row in rows(do(workspace, tuned=trained.id))] != plain
    trained.args_path.write_text(text.dump(TrainArgs(model="tiny", method={"kind": "lora"}, **chosen)))
    assert [row["tuned"]["nll"] for row in rows(do(workspace, tuned=trained.id))] == plain


def test_of_a_preference_the_chosen_answer_is_judged(workspace: Path) -> None:
    trained = tuned.adapter_run(workspace)
    kept = [json.loads(line) for line in trained.heldout_path.read_text().splitlines()]
    for row in kept:
        *row["prompt"], answer = row.pop("messages")
        row |= {"kind": "preference", "chosen": [answer], "rejected": [{"role": "assistant", "content": "No."}]}
    plain = rows(do(workspace, tuned=trained.id))
    trained.heldout_path.write_text("".join(json.dumps(row) + "\n" for row in kept))
    assert [row["reference"] for row in rows(do(workspace, tuned=trained.id))] == [row["reference"] for row in plain]


def test_few_rows_are_judged_honestly(workspace: Path) -> None:
    found = summary(do(workspace, tuned=tuned.adapter_run(workspace).id, max_rows=3))
    assert found["verdict"] == "too few rows" and found["rows"] == 3
    assert found["sentence"].startswith("Too few rows for a verdict") and found["sentence"].count("Too few") == 1


def test_a_folder_of_unknown_origin_needs_a_base(workspace: Path) -> None:
    with pytest.raises(ModelError, match="does not say what it was trained from"):
        do(workspace, tuned="tiny", data=["sums.jsonl"])
    assert summary(do(workspace, tuned="tiny", base="tiny", data=["sums.jsonl"]))["rows"] == 12


def test_other_tokens_leave_the_verdict_to_the_answers(workspace: Path, tiny_model: Path) -> None:
    """A base that splits text differently: a loss per token would compare apples with pears."""
    import shutil

    other = workspace / "models" / "other"
    shutil.copytree(tiny_model, other)
    (other / "chat_template.jinja").write_text(
        "{% for m in messages %}<|im_start|>{{ m['role'] }}: {{ m['content'] }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant: {% endif %}"
    )
    run = do(workspace, tuned=tuned.adapter_run(workspace).id, base="other")
    assert not summary(run)["loss_comparable"]
    assert summary(run)["sentence"].count("loss") == 0
    assert any(
        record["kind"] == "warning" and "different tokens" in record["text"] for record in records(run.events_path)
    )


def test_progress_counts_every_row_of_both(workspace: Path) -> None:
    run = do(workspace, tuned=tuned.adapter_run(workspace).id, batch_size=5)
    steps = [(record["step"], record["steps"]) for record in records(run.events_path) if record["kind"] == "progress"]
    assert steps == [(5, 24), (10, 24), (15, 24), (20, 24), (22, 24), (24, 24)]


def test_of_scored_answers_those_are_right_that_are_no_worse_than_the_average() -> None:
    said = [{"role": "user", "content": "2 and 2?"}, {"role": "assistant", "content": "4"}]
    rows = [Row(said, None, "f", n, "scored", score=score) for n, score in enumerate((0.0, 1.0, 0.9))]
    found = evaluate._right(rows)
    assert [row.number for row in found] == [1, 2]
    assert {row.kind for row in found} == {"conversation"}
    assert len(evaluate._right(rows[1:2])) == 1
