"""ILQL against a reference written by hand, one token at a time; what moves, what resumes, and what guidance does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.contract.errors import ArgsError
from engine.contract.rundir import Run
from engine.feedback.guidance import Guidance
from engine.feedback.heads import FILE
from engine.recipes import ilql
from tests.e2e.test_ppo import louder
from tests.e2e.training import copied, events, losses, train, weights

LORA = ["method.rank=4", "method.alpha=8"]
METHODS = [LORA, ["method=full"], ["method=freeze", "method.layers=1"]]
IDS = ["lora", "full", "freeze"]
ROWS = [([3, 4, 5, 6], [8, 9, 10], 1.0), ([3, 4], [11], -2.0), ([5, 6, 7], [12, 13, 14, 15, 16], 0.5)]


@pytest.fixture
def scored(workspace: Path) -> Path:
    """`yes.jsonl`: one question, often answered badly and at times well."""
    said = [("No.", 0.0), ("No.", 0.0), ("Yes.", 1.0)] * 4
    lines = [json.dumps({"prompt": "Well", "completion": answer, "score": score}) for answer, score in said]
    (workspace / "datasets" / "yes.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return workspace


def run_of(workspace: Path, *overrides: str) -> Any:
    return train(workspace, "task=ilql", "data=yes.jsonl", "record.save_every=99", *overrides)


def batch() -> dict[str, torch.Tensor]:
    rows = [
        {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer, "score": score}
        for prompt, answer, score in ROWS
    ]
    return ilql.Collate(0)(rows)


def made(workspace: Path, *overrides: str) -> Any:
    """A trainer as a run makes it, with heads that say something already."""
    from datasets import Dataset
    from transformers import set_seed

    from engine.contract import rundir, text
    from engine.contract.auto import Facts, resolved
    from engine.contract.machine import machine
    from engine.contract.rundir import Run
    from engine.models.model import model_of, tokenizer_of
    from engine.recipes.run import _config
    from engine.recipes.setting import Setting
    from engine.report import Report, Stop
    from engine.training.rows import Rows
    from engine.tuning import methods
    from tests.e2e.training import TINY

    args: Any = text.parse({}, [*TINY, "task=ilql", "task.normalise=false", *overrides], kind="train")
    args = resolved(args, Facts(machine(), 30_000, 3))
    run = Run(rundir.make(workspace, "test", text.dump(args)).path)
    folder, device, dtype = workspace / "models" / "tiny", torch.device("cpu"), torch.float32
    data = Dataset.from_list([{"input_ids": [1], "labels": [1], "score": score} for _, _, score in ROWS])
    set_seed(1)
    model = methods.prepared(model_of(folder, dtype=dtype, device=device), args)
    setting = Setting(
        args, run, Report(run), Stop(), folder, tokenizer_of(folder), device, dtype, Rows(data, None, len(data))
    )
    trainer = ilql.Task(
        model=model, args=_config(ilql, args, run, setting.rows, dtype, device), train_dataset=data,
        data_collator=ilql.Collate(0), processing_class=setting.tokenizer, **ilql.beside(setting, model),
    )  # fmt: skip
    trainer.record(run, setting.report, setting.stop, keep=1)
    with torch.no_grad():
        for one in trainer.model.parameters():
            if one.requires_grad:
                one += 0.1 * torch.randn_like(one)
        for head in ("slow_first", "slow_second"):
            for one in trainer.model.heads[head].parameters():
                one += 0.1 * torch.randn_like(one)
    trainer.model.eval()
    return trainer


def reference(trainer: Any) -> torch.Tensor:
    """The mean over all tokens of ILQL's loss, as the papers write it."""
    task, model, heads, total, count = trainer.task, trainer.model, trainer.model.heads, torch.zeros(()), 0
    for prompt, answer, score in ROWS:
        out = model(torch.tensor([prompt + answer]), output_hidden_states=True)
        logps = out.logits[0].log_softmax(-1)
        hidden = out.hidden_states[-1][0]
        for t, token in enumerate(answer):
            at = len(prompt) + t - 1  # what is known before the token
            last = t == len(answer) - 1
            reward = score if last else 0.0
            behind = 0.0 if last else heads["value"](hidden[at + 1])[0].item()
            aim = reward + task.gamma * behind
            value, slow = heads["value"](hidden[at])[0], [heads[name](hidden[at]) for name in ilql.PAIRS.values()]
            worth = min(slow[0][token].item(), slow[1][token].item())
            loss = torch.zeros(())
            for name in ilql.PAIRS:
                q = heads[name](hidden[at])
                loss = loss + (q[token] - aim) ** 2 + task.cql_weight * (q.logsumexp(-1) - q[token])
            missed = worth - value
            loss = loss + (task.expectile if missed >= 0 else 1 - task.expectile) * missed**2
            weight = torch.exp(task.sft_beta * missed).detach()
            loss = loss - task.sft_weight * weight * logps[at, token]
            total, count = total + loss, count + 1
    return total / count


@pytest.mark.parametrize("method", METHODS[:2], ids=IDS[:2])
def test_loss_and_gradient_equal_the_formula(workspace: Path, method: list[str]) -> None:
    trainer = made(
        workspace, *method, "task.gamma=0.9", "task.expectile=0.8", "task.cql_weight=0.3", "task.sft_weight=0.7",
        "task.sft_beta=0.5",
    )  # fmt: skip
    moved = [one for one in trainer.model.parameters() if one.requires_grad]
    found, wanted = trainer.compute_loss(trainer.model, batch()), reference(trainer)
    assert found.item() == pytest.approx(wanted.item(), abs=1e-5)
    gradients = torch.autograd.grad(found, moved)
    for ours, theirs in zip(gradients, torch.autograd.grad(wanted, moved), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_the_expectile_is_what_its_loss_is_smallest_at() -> None:
    worth = torch.tensor([0.0, 1.0, 5.0], dtype=torch.float64)
    values = torch.linspace(0, 5, 5001, dtype=torch.float64)
    for tau in (0.5, 0.9):
        found = values[torch.stack([ilql.expectile_loss(values, one, tau) for one in worth]).sum(0).argmin()]
        # Where the pull of those above equals that of those below.
        pull = sum((tau if one > found else 1 - tau) * (one - found) for one in worth)
        assert float(pull) == pytest.approx(0, abs=2e-3)
    assert float(ilql.expectile_loss(torch.tensor(1.0), torch.tensor(3.0), 0.7)) == pytest.approx(0.7 * 4)
    assert float(ilql.expectile_loss(torch.tensor(3.0), torch.tensor(1.0), 0.7)) == pytest.approx(0.3 * 4)


def test_the_conservative_loss_falls_only_when_what_was_said_stands_out() -> None:
    worth = torch.tensor([[1.0, 2.0, 3.0]])
    [loss] = ilql.conservative_loss(worth, torch.tensor([1]))
    assert float(loss) == pytest.approx(float(worth.exp().sum().log()) - 2)
    assert torch.allclose(ilql.conservative_loss(worth + 7, torch.tensor([1])), loss)


def test_nothing_is_worth_anything_behind_an_answer() -> None:
    rows = torch.tensor([0, 0, 0, 2, 2])
    earned = ilql.rewards(torch.tensor([5.0, 9.0, -1.0]), rows)
    assert earned.tolist() == [0, 0, 5, 0, -1]
    values = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    assert ilql.wanted(earned, values, rows, 0.5).tolist() == [1.0, 1.5, 5.0, 2.5, -1.0]


@pytest.mark.parametrize("method", METHODS, ids=IDS)
def test_training_moves_what_the_method_says_and_the_heads(workspace: Path, method: list[str]) -> None:
    trainer = made(workspace, *method, "task.target_rate=0.25", "steps.max_steps=1", "optim.warmup=0")
    model = trainer.model
    before = {name: one.clone() for name, one in model.named_parameters()}
    trainer.train_dataset = [
        {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer, "score": score}
        for prompt, answer, score in ROWS
    ]
    trainer.train()
    moved = {name for name, one in model.named_parameters() if not torch.equal(one, before[name])}
    slow = {name for name in before if ".slow_" in name}
    assert moved - slow == {name for name, one in model.named_parameters() if one.requires_grad}
    assert not any(one.requires_grad for name, one in model.named_parameters() if name in slow)
    after = dict(model.named_parameters())
    for name in slow:
        wanted = 0.75 * before[name] + 0.25 * after[name.replace("slow_", "")]
        assert torch.allclose(after[name], wanted, atol=1e-6)


@pytest.mark.parametrize("method", METHODS, ids=IDS)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(scored: Path, method: list[str]) -> None:
    common = [*method, "steps.max_steps=4", "record.save_every=2", "record.keep=9"]
    whole = run_of(scored, *common)
    resumed = run_of(scored, *common, f"resume.run={whole.id}", "resume.checkpoint=step-2")
    assert losses(resumed) == losses(whole)[2:]
    for folder in ("", FILE.parent):
        expected, found = weights(whole.model_path / folder), weights(resumed.model_path / folder)
        assert expected and expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_pairs_teach_what_their_two_answers_scored_1_and_minus_1_teach(workspace: Path) -> None:
    answers = [("Yes, it is.", "No."), ("Six.", "I do not know, sorry."), ("Yes.", "No, never.")]
    pairs = [{"prompt": f"Well {n}?", "chosen": good, "rejected": bad} for n, (good, bad) in enumerate(answers)]
    alone = [
        {"prompt": f"Well {n}?", "completion": answer, "score": score}
        for n, both in enumerate(answers)
        for answer, score in zip(both, (1.0, -1.0), strict=True)
    ]
    all_at_once = ["steps.batch_size=6", "steps.accumulation=1", "steps.max_steps=3", "record.save_every=99"]
    found = []
    for name, lines in (("pairs", pairs), ("alone", alone)):
        (workspace / "datasets" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
        run = train(workspace, "task=ilql", f"data={name}.jsonl", *LORA, *all_at_once)
        found.append(losses(run) + losses(run, "train/q_loss"))
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_answers_that_all_have_one_score_are_refused_before_the_model_is_loaded(workspace: Path) -> None:
    alike = [{"prompt": f"Well {n}?", "completion": answer, "score": 3} for n, answer in enumerate("abcd")]
    (workspace / "datasets" / "alike.jsonl").write_text("".join(json.dumps(row) + "\n" for row in alike))
    with pytest.raises(ArgsError, match=r"data\.train: All 4 answers have the same score \(3\)"):
        run_of(workspace, *LORA, "data=alike.jsonl")
    (run,) = (workspace / "runs").iterdir()
    assert [event["name"] for event in events(Run(run), "phase")] == ["preparing"]


def test_held_out_loss_does_not_depend_on_batches(scored: Path) -> None:
    held = f"data.validation=[{copied(scored, 'yes.jsonl')}]"
    found = [
        losses(run_of(scored, *LORA, held, "steps.max_steps=1", f"steps.batch_size={size}",
                      "steps.accumulation=1"), "eval/q_loss")[0]
        for size in (1, 3)
    ]  # fmt: skip
    assert found[0] == pytest.approx(found[1], abs=1e-6)


def guide(model: Any, strength: float) -> Guidance:
    """Heads that find token 9 worth 4 more than any other, and expect 1."""
    from torch import nn

    from engine.feedback import heads

    width, words = heads.width(model), model.config.vocab_size
    found = nn.ModuleDict({
        "slow_first": heads.deep(width, words), "slow_second": heads.deep(width, words), "value": heads.deep(width, 1)
    })  # fmt: skip
    with torch.no_grad():
        found["slow_first"][2].bias[9] = 4
        found["slow_second"][2].bias[9] = 6
        found["value"][2].bias += 1
    return Guidance(found, strength)


def test_guidance_adds_the_advantage_of_the_lower_head_to_the_logits(workspace: Path) -> None:
    from engine.models.model import model_of

    model = model_of(workspace / "models" / "tiny", dtype=torch.float32, device=torch.device("cpu"))
    ids = torch.tensor([[3, 4, 5]])
    plain = model(ids).logits
    with guide(model, 0.5).on(model):
        guided = model(ids).logits
        assert model(ids, logits_to_keep=1).logits.shape[1] == 1
        assert model.generate(ids, max_new_tokens=3, do_sample=False)[0, 3:].tolist() == [9, 9, 9]
    wanted = torch.zeros_like(plain)
    wanted[..., 9] = 4
    torch.testing.assert_close(guided, plain + 0.5 * (wanted - 1))
    assert torch.equal(model(ids).logits, plain)
    with guide(model, 0.0).on(model):
        torch.testing.assert_close(model(ids).logits, plain)


def voice_of(run: Any, workspace: Path) -> Any:
    from engine.contract import text
    from engine.serving import roster

    args: Any = text.parse({}, [f"models=[{run.id}]", "dtype=fp32", "device=cpu"], kind="serve")
    return roster.load(args, workspace).find(run.id)


def test_written_by_worth_the_rewarded_answer_wins_over_the_usual_one(scored: Path) -> None:
    """Most rows say No. and are worth nothing: imitation says No., and guidance says Yes., in training and in Chat."""
    from engine.serving.generate import Sampling, generate

    louder(scored)
    run = run_of(
        scored, "method=full", "model=loud", "steps.max_steps=150", "steps.batch_size=12", "steps.accumulation=1",
        "optim.learning_rate=5e-3", "optim.schedule=constant", "task.target_rate=0.2", "task.guidance=4",
        "record.samples=[Well]", "record.log_every=50", "record.evaluate_every=150",
        f"data.validation=[{copied(scored, 'yes.jsonl')}]",
    )  # fmt: skip
    assert events(run, "sample")[-1]["answer"] == "Yes."
    guided = voice_of(run, scored)
    plain = replace(guided, speaker=replace(guided.speaker, guidance=None))
    prompt = guided.prompt([{"role": "user", "content": "Well"}])
    for voice, wanted in ((guided, "Yes."), (plain, "No.")):
        with voice.speaking() as model:
            [answer] = generate(model, voice.tokenizer, prompt, Sampling(8, temperature=0), ends=voice.ends)
        assert answer.text == wanted


def test_an_adapter_brings_its_guidance_along_and_the_base_has_none(scored: Path) -> None:
    run = run_of(scored, *LORA, "steps.max_steps=3", "task.guidance=2")
    voice = voice_of(run, scored)
    guidance = voice.speaker.guidance
    assert guidance.strength == 2
    saved = weights(run.model_path / FILE.parent)
    assert {f"{name}" for name in guidance.heads.state_dict()} < set(saved)
    assert all(torch.equal(value, saved[name]) for name, value in guidance.heads.state_dict().items())
    ids = torch.tensor([[3, 4, 5]])
    with voice.speaking() as model, torch.no_grad():
        guided = model(ids).logits
    with replace(voice.speaker, guidance=None).speaking() as model, torch.no_grad():
        output = model(ids, output_hidden_states=True)
    wanted = output.logits + 2 * guidance.gains(output.hidden_states[-1])
    torch.testing.assert_close(guided, wanted)
    assert not torch.allclose(guided, output.logits)


@pytest.mark.parametrize("form", ["merged", "adapter"])
def test_an_export_takes_the_guidance_along_and_says_who_can_use_it(scored: Path, form: str) -> None:
    from engine import export
    from engine.contract import rundir, text
    from engine.contract.rundir import Run
    from engine.report import Report, Stop

    run = run_of(scored, *LORA, "steps.max_steps=1", "task.guidance=2")
    args: Any = text.parse({}, [f"tuned={run.id}", f"form={form}", "to=out", "device=cpu"], kind="export")
    made = Run(rundir.make(scored, "export", text.dump(args)).path)
    export.run(args, made, Report(made), Stop())
    assert any("other programs write without them" in event["text"] for event in events(made, "warning"))
    folder = scored / "exports" / "out"
    found = Guidance.of(folder, torch.device("cpu"))
    assert found is not None and found.strength == 2
    listed = json.loads((folder / "receipt.json").read_text(encoding="utf-8"))["files"]
    assert str(FILE) in {file["name"] for file in listed}
