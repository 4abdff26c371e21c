"""GRPO and RLOO on the tiny model: advantages and losses by hand, learning, what is recorded, stops and resumes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.contract import judging, rundir, text
from engine.contract.rundir import Run
from engine.report import Report, Stop, Stopped
from tests.e2e.test_embedded_model import folder as embedded  # noqa: F401 (a fixture)
from tests.e2e.training import asked, events, losses, train, weights

VOWELS = ["task.rewards.functions=regex=1", "task.rewards.pattern=[aeiou]", "task.max_new_tokens=4", "task.group=4"]
SMALL = [*VOWELS, "steps.accumulation=4", "method=full"]  # two questions, four answers to each
PROMPTS = [[3, 4, 5], [3, 4, 5], [6, 7], [6, 7]]
ANSWERS = [[8, 9, 10], [11, 12], [13], [14, 15, 16]]
REWARDS = [1.0, 0.0, 0.25, 1.0]


class Fixed:
    """Rewards that are known beforehand."""

    names, judges, weights = ("known",), (lambda *_: [],), torch.ones(1)

    def __call__(self, *_: Any) -> torch.Tensor:
        return torch.tensor(REWARDS)[:, None]

    def total(self, scores: torch.Tensor) -> torch.Tensor:
        return scores[:, 0]


@pytest.fixture
def made(workspace: Path) -> Callable[..., Any]:
    """A trainer whose model writes ANSWERS to PROMPTS, two to a question, for which it gets REWARDS."""
    from datasets import Dataset
    from transformers import set_seed

    from engine.models.model import model_of, tokenizer_of
    from engine.recipes import grpo, rloo
    from engine.recipes.run import _config
    from engine.recipes.setting import Setting
    from engine.training.rows import Rows
    from engine.tuning import methods

    def make(task: str, *overrides: str) -> Any:
        said = [
            "model=tiny",
            "data=x",
            f"task={task}",
            "method=full",
            "task.group=2",
            "task.max_new_tokens=4",
            "steps.batch_size=4",
        ]
        fixed = ["steps.accumulation=1", "steps.max_steps=2", "record.evaluate_every=1", "record.save_every=2"]
        more = ["compute.checkpointing=false", "optim.learning_rate=1e-2", "compute.device=cpu"]
        args: Any = text.parse({}, [*said, *fixed, *more, *overrides], kind="train")
        run = Run(rundir.make(workspace, "test", text.dump(args)).path)
        device, dtype = torch.device("cpu"), torch.float32
        folder = workspace / "models" / "tiny"
        set_seed(1)
        model = methods.prepared(model_of(folder, dtype=dtype, device=device), args)
        row = json.dumps({"prompt": [{"role": "user", "content": "?"}]})
        data = Dataset.from_list([{"input_ids": prompt, "row": row} for prompt in (PROMPTS[0], PROMPTS[2])])
        rows, tokenizer, report = Rows(data, None, 2), tokenizer_of(folder), Report(run)
        setting = Setting(args, run, report, Stop(), folder, tokenizer, device, dtype, rows)
        recipe: Any = {"grpo": grpo, "rloo": rloo}[task]
        trainer = recipe.Task(
            model=model, args=_config(recipe, args, run, rows, dtype, device), train_dataset=data, eval_dataset=None,
            data_collator=recipe.Collate(0), processing_class=tokenizer,
            **{**recipe.beside(setting, model), "scorers": Fixed()},
        )  # fmt: skip
        trainer.record(run, report, Stop(), keep=1)
        trainer.write = lambda prompts, sampling: ANSWERS
        trainer.current_gradient_accumulation_steps = 1
        return trainer

    return make


def scored(trainer: Any) -> dict[str, Any]:
    """A rollout as the trainer makes it."""
    trainer.model.train()
    row = trainer.train_dataset[0]["row"]
    return trainer._generate_and_score_completions(
        [{"prompt": prompt, "input_ids": prompt, "row": row} for prompt in PROMPTS]
    )


def logps(model: Any, temperature: float = 1.0) -> list[torch.Tensor]:
    """The log-probability of each token of each answer, one row at a time, without padding."""
    found = []
    for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
        scores = model(torch.tensor([prompt + answer])).logits[0, -len(answer) - 1 : -1] / temperature
        found.append(scores.log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)])
    return found


def shake(model: Any, seed: int = 5) -> None:
    torch.manual_seed(seed)
    with torch.no_grad():
        for moved in model.parameters():
            if moved.requires_grad:
                moved += 0.05 * torch.randn_like(moved)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages_are_what_an_answer_has_over_its_group(made: Callable[..., Any], scale: str) -> None:
    trainer = made("grpo", f"task.scale={scale}")
    rewards = torch.tensor(REWARDS).view(2, 2)
    wanted = rewards - rewards.mean(1, keepdim=True)
    if scale == "group":
        wanted = wanted / (rewards.std(1, keepdim=True) + 1e-4)
    elif scale == "batch":
        wanted = wanted / (rewards.std() + 1e-4)
    torch.testing.assert_close(scored(trainer)["advantages"], wanted.flatten(), atol=1e-6, rtol=1e-6)


def test_an_answer_is_judged_by_the_mean_of_the_others_and_its_way_from_the_start(made: Callable[..., Any]) -> None:
    trainer = made("rloo", "method=full", "task.beta=0.5")
    before = [one.detach() for one in logps(trainer.model)]
    shake(trainer.model)
    now = [one.detach() for one in logps(trainer.model)]
    kl = torch.stack([(one - other).sum() for one, other in zip(now, before, strict=True)])
    rewards = (torch.tensor(REWARDS) - 0.5 * kl).view(2, 2)
    wanted = rewards - rewards.flip(1)  # of two, the other one is the mean of the others
    torch.testing.assert_close(scored(trainer)["advantages"], wanted.flatten(), atol=1e-5, rtol=1e-5)


LORA = ["method=lora", "method.rank=4", "method.alpha=8"]


@pytest.mark.parametrize(
    ("loss", "method"),
    [
        *((loss, ["method=full"]) for loss in ("dapo", "grpo", "bnpo", "dr_grpo")), ("dapo", LORA),
        ("dapo", [*LORA, "method.extra_modules=[lm_head]"]), ("dapo", ["method=freeze", "method.layers=1"]),
        ("dapo", ["method=prefix"]),
    ],
    ids=lambda said: said if isinstance(said, str) else said[-1],
)  # fmt: skip
def test_the_loss_and_its_gradient_equal_the_formula(made: Callable[..., Any], loss: str, method: list[str]) -> None:
    """Shao et al., 2024, equations 3 and 4; the KL weighed by the ratio, since its answers are older than the model
    (DeepSeek-V3.2, 2025)."""
    trainer = made("grpo", *method, f"task.loss={loss}", "task.beta=0.3", "task.temperature=0.7", "task.iterations=2")
    base = [one.detach() for one in logps(trainer.model, 0.7)]
    shake(trainer.model, 6)
    old = [one.detach() for one in logps(trainer.model, 0.7)]
    found = scored(trainer)
    shake(trainer.model, 7)
    moved = [one for one in trainer.model.parameters() if one.requires_grad]
    ours = trainer.compute_loss(trainer.model, found)
    gradient = torch.autograd.grad(ours, moved, allow_unused=True)

    answers = []
    for now, then, start, gain in zip(logps(trainer.model, 0.7), old, base, found["advantages"], strict=True):
        ratio = (now - then).exp()
        push = torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain)
        answers.append(-push + 0.3 * ratio * ((start - now).exp() - (start - now) - 1))
    tokens = torch.cat(answers)
    wanted = {
        "dapo": tokens.mean(), "bnpo": tokens.mean(), "grpo": torch.stack([one.mean() for one in answers]).mean(),
        "dr_grpo": tokens.sum() / (4 * 4),
    }[loss]  # fmt: skip
    assert ours.item() == pytest.approx(wanted.item(), abs=1e-5)
    theirs = torch.autograd.grad(wanted, moved, allow_unused=True)
    for one, other in zip(gradient, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


def test_the_loss_of_rloo_equals_the_formula(made: Callable[..., Any]) -> None:
    trainer = made("rloo", "method=full", "task.beta=0", "task.iterations=2")
    old = [one.detach().sum() for one in logps(trainer.model)]
    found = scored(trainer)
    shake(trainer.model, 7)
    pushes = []
    for now, then, gain in zip(logps(trainer.model), old, found["advantages"], strict=True):
        ratio = (now.sum() - then).exp()
        pushes.append(-torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain))
    ours = trainer.compute_loss(trainer.model, found)
    assert ours.item() == pytest.approx(torch.stack(pushes).mean().item(), abs=1e-5)


def test_the_model_reads_our_own_rendering_once(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.feedback import rollout

    read, write = [], rollout.write

    def spied(model: Any, prompts: Any, *rest: Any) -> Any:
        read.extend(prompts)
        return write(model, prompts, *rest)

    monkeypatch.setattr(rollout, "write", spied)
    train(workspace, "task=grpo", *SMALL, "steps.max_steps=1")
    from engine.models.model import tokenizer_of

    tokenizer = tokenizer_of(workspace / "models" / "tiny")
    for ids in read:
        said = tokenizer.decode(ids)
        assert said.startswith("<|im_start|>") and not said.startswith("<|im_start|><|im_start|>")
        assert said.endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize("task", ["grpo", "rloo"])
def test_training_raises_the_reward_and_stays_near(workspace: Path, task: str) -> None:
    rule = ["task.rewards.functions=regex=1", "task.rewards.pattern=^[a-m]", "task.max_new_tokens=2", "task.group=16"]
    sizes = [
        "steps.batch_size=64",
        "steps.accumulation=1",
        "steps.max_steps=25",
        "optim.learning_rate=2e-2",
        "method=full",
    ]
    run = train(workspace, f"task={task}", *rule, *sizes, "data.max_rows=4", "optim.schedule=constant")
    reward, kl = losses(run, "train/reward"), losses(run, "train/kl")
    assert sum(reward[:3]) / 3 < 0.6
    assert sum(reward[-3:]) / 3 > sum(reward[:3]) / 3 + 0.3
    assert all(abs(one) < 20 for one in kl)


def test_the_run_says_what_it_wrote_and_what_that_was_worth(workspace: Path) -> None:
    run = train(workspace, "task=grpo", *SMALL, "task.rewards.functions=regex=2, length=-1", "data.split=80/20/0")
    shown = events(run, "sample")
    assert {one["step"] for one in shown} == {0, 1, 2, 3} and len(shown) == 4 * 4
    assert all(one["reward"] in (-1, 1) or -1 <= one["reward"] <= 1 for one in shown)
    values = {name for record in rundir.records(run.metrics_path) for name in record["values"]}
    names = {"reward", "reward/regex", "reward/length", "reward_spread", "alike", "kl", "entropy", "clip_share",
             "length", "ended"}  # fmt: skip
    assert {f"train/{name}" for name in names} <= values
    assert {"eval/reward", "eval/reward/regex", "eval/length", "eval/ended"} <= values
    total, regex, length = (losses(run, f"train/{name}") for name in ("reward", "reward/regex", "reward/length"))
    assert total == pytest.approx([2 * one - other for one, other in zip(regex, length, strict=True)], abs=1e-5)


def test_held_out_questions_are_answered_once_and_the_same_in_any_batch(workspace: Path) -> None:
    found = []
    for size in (1, 2, 4):
        sizes = [f"steps.batch_size={size}", f"steps.accumulation={8 // size}", "steps.max_steps=1"]
        split = ["data.split=50/50/0", "task.rewards.functions=length=1", "task.rewards.length=3"]
        run = train(workspace, "task=grpo", *VOWELS, "method=full", *sizes, *split, "task.rewards.length_is=target")
        found.append(losses(run, "eval/reward")[0])
    assert found == pytest.approx([found[0]] * 3, abs=1e-6)


@pytest.mark.parametrize("iterations", [1, 3])
def test_a_resumed_run_equals_one_that_was_never_interrupted(workspace: Path, iterations: int) -> None:
    """Through an epoch's end, and in the middle of steps that learn from the same answers."""
    said = ["task=grpo", *SMALL, f"task.iterations={iterations}", "data.max_rows=6", "optim.schedule=constant"]
    said += ["task.temperature=1.1", "record.save_every=2", "record.keep=9"]
    whole = train(workspace, *said, "steps.max_steps=8")
    for step in (2, 4):
        rest = train(workspace, *said, "steps.max_steps=8", f"resume.run={whole.id}", f"resume.checkpoint=step-{step}")
        assert losses(rest) == losses(whole)[step:]
        one, other = weights(rest.model_path), weights(whole.model_path)
        assert all(torch.equal(one[name], other[name]) for name in other)


def test_an_adapter_starts_from_no_kl_and_is_all_that_is_saved(workspace: Path) -> None:
    run = train(workspace, "task=grpo", *SMALL, *LORA)
    assert losses(run, "train/kl")[0] == pytest.approx(0, abs=1e-6)
    assert all("lora_" in name for name in weights(run.model_path))
    assert not (run.model_path / "ref").exists()


def test_a_reward_model_scores_whole_talks(workspace: Path) -> None:
    pairs = [{"prompt": f"What is {n}?", "chosen": "yes " * (1 + n % 3), "rejected": "no"} for n in range(8)]
    (workspace / "datasets" / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    judge = train(workspace, "task=reward", "data=pairs.jsonl", *LORA, "steps.max_steps=2")
    said = ["task.rewards.functions=length=0.5", f"task.rewards.model={judge.id}", "task.rewards.model_weight=2"]
    run = train(workspace, "task=grpo", *SMALL, *LORA, *said, "steps.max_steps=2")
    total, length, model = (losses(run, f"train/{name}") for name in ("reward", "reward/length", "reward/model"))
    assert total == pytest.approx([0.5 * one + 2 * other for one, other in zip(length, model, strict=True)], abs=1e-5)
    assert len(set(model)) > 1


def test_a_run_ends_early_when_the_held_out_reward_rises_no_more(workspace: Path) -> None:
    said = ["data.split=80/20/0", "record.evaluate_every=1", "record.patience=2", "record.keep_best=true"]
    never = ["task.rewards.functions=regex", "task.rewards.pattern=never at all"]
    run = train(workspace, "task=grpo", *SMALL, *said, *never, "steps.max_steps=9", "record.save_every=1")
    [result] = events(run, "result")
    assert result["facts"]["ended_early"] and result["facts"]["steps"] == 3
    assert result["sentence"].startswith("Training reward went from 0.000 to 0.000 in 3 steps")


@pytest.mark.slow
def test_the_embedded_model_learns_how_to_begin(embedded: Path, tmp_path: Path) -> None:
    """Within minutes on two cores: the reward rises clearly, and the model stays what it was."""
    rule = ["task.max_new_tokens=4", "task.group=8", "optim.learning_rate=3e-4"]
    sizes = ["steps.batch_size=32", "steps.accumulation=1", "steps.max_steps=20"]
    run = train(tmp_path, "task=grpo", *asked(tmp_path, embedded), *rule, *sizes)
    reward, kl = losses(run, "train/reward"), losses(run, "train/kl")
    assert sum(reward[-5:]) / 5 > sum(reward[:5]) / 5 + 0.2
    assert max(kl) < 5


def test_few_questions_are_asked_more_than_once(workspace: Path) -> None:
    run = train(workspace, "task=grpo", *VOWELS, "method=full", "data.max_rows=1", "steps.max_steps=2")
    assert len(losses(run)) == 2


def test_a_person_rewards_and_a_stop_while_waiting_keeps_the_last_step(workspace: Path) -> None:
    said = ["task.rewards.functions={}", "task.rewards.person=true", "task.max_new_tokens=4", "task.group=4"]
    stop, over = Stop(), threading.Event()

    def person() -> None:
        while not over.is_set():
            for run in rundir.runs(workspace):
                for one in judging.waiting(run):
                    if one.batch > 8:
                        stop.asked = True
                    else:
                        judging.judge(run, one.number, float(one.number % 2))

    thread = threading.Thread(target=person)
    thread.start()
    try:
        with pytest.raises(Stopped):
            train(
                workspace, "task=grpo", *said, "method=full", "steps.accumulation=4", "record.save_every=9", stop=stop
            )
    finally:
        over.set()
        thread.join()
    [run] = rundir.runs(workspace)
    assert losses(run, "train/reward/person") == [0.5]
    assert [folder.name for _, folder in run.checkpoints()] == ["step-1"]
    assert judging.PHASE in {event["name"] for event in events(run, "phase")}
