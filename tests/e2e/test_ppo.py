"""PPO against references written by hand: its loss and gradient on real rollouts, what moves, what resumes, what it
learns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.contract import rundir, text
from engine.contract.errors import ArgsError
from engine.contract.rundir import Run
from engine.feedback.heads import FILE
from engine.report import Report, Stop, Stopped
from tests.e2e.test_embedded_model import folder as embedded  # noqa: F401 (a fixture)
from tests.e2e.training import TINY, asked, events, losses, train, weights

LORA = ["method=lora", "method.rank=4", "method.alpha=8"]
METHODS = [LORA, ["method=full"], ["method=freeze", "method.layers=1"]]
IDS = ["lora", "full", "freeze"]
TASK = [
    "task=ppo", "task.max_new_tokens=6", "task.rewards.functions={regex: 1}", "task.rewards.pattern=[a-m]",
    "task.passes=2", "task.minibatches=2", "record.save_every=99",
]  # fmt: skip
ASKED = [[3, 4, 5, 6, 7], [8, 9], [10, 11, 12]]


def batch() -> list[dict[str, Any]]:
    row = json.dumps({"prompt": [{"role": "user", "content": "Well?"}]})
    return [{"input_ids": ids, "row": row} for ids in ASKED]


@pytest.fixture
def made(workspace: Path) -> Callable[..., Any]:
    """A trainer as a run makes it, on the prompts of `batch`; `overrides` are those of the command line."""
    from datasets import Dataset
    from transformers import set_seed

    from engine.contract.auto import Facts, resolved
    from engine.contract.machine import machine
    from engine.models.model import model_of, tokenizer_of
    from engine.recipes import ppo
    from engine.recipes.run import _config
    from engine.recipes.setting import Setting
    from engine.training.rows import Rows
    from engine.tuning import methods

    def make(*overrides: str) -> Any:
        args: Any = text.parse({}, [*TINY, *TASK, *overrides], kind="train")
        args = resolved(args, Facts(machine(), 30_000, 3))
        run = Run(rundir.make(workspace, "test", text.dump(args)).path)
        folder, device, dtype = workspace / "models" / "tiny", torch.device("cpu"), torch.float32
        data = Dataset.from_list(batch())
        set_seed(1)
        model = methods.prepared(model_of(folder, dtype=dtype, device=device), args)
        setting = Setting(
            args, run, Report(run), Stop(), folder, tokenizer_of(folder), device, dtype, Rows(data, None, len(data))
        )
        trainer = ppo.Task(
            model=model, args=_config(ppo, args, run, setting.rows, dtype, device), train_dataset=data,
            data_collator=ppo.Collate(0), processing_class=setting.tokenizer, **ppo.beside(setting, model),
        )  # fmt: skip
        trainer.record(run, setting.report, setting.stop, keep=1)
        return trainer

    return make


def shake(model: Any, size: float) -> None:
    with torch.no_grad():
        for weights in model.parameters():
            if weights.requires_grad:
                weights += size * torch.randn_like(weights)


def reference(trainer: Any, found: Any, gains: torch.Tensor, returns: torch.Tensor) -> torch.Tensor:
    """The loss of PPO as the papers write it, one answer at a time, without padding."""
    task, model, total, count = trainer.task, trainer.model, torch.zeros(()), 0
    for row, prompt in enumerate(ASKED):
        said = found.answers.tokens[row, : found.answers.lengths[row]]
        out = model(torch.tensor([[*prompt, *said.tolist()]]), output_hidden_states=True)
        logps = (out.logits[0, len(prompt) - 1 : -1] / task.temperature).log_softmax(-1)
        hidden = out.hidden_states[-1][0, len(prompt) - 1 : -1]
        values = (hidden @ model.heads["value"].weight.T + model.heads["value"].bias)[:, 0]
        for t, token in enumerate(said.tolist()):
            ratio, gain = (logps[t, token] - found.logps[row, t]).exp(), gains[row, t]
            policy = -torch.minimum(ratio * gain, ratio.clamp(1 - task.clip, 1 + task.clip) * gain)
            was, wanted = found.values[row, t], returns[row, t]
            near = was + (values[t] - was).clamp(-task.value_clip, task.value_clip)
            value = 0.5 * torch.maximum((values[t] - wanted) ** 2, (near - wanted) ** 2)
            entropy = -(logps[t].exp() * logps[t]).sum()
            total, count = total + policy + task.value_weight * value - task.entropy_weight * entropy, count + 1
    return total / count


@pytest.mark.parametrize("method", METHODS[:2], ids=IDS[:2])
def test_loss_and_gradient_equal_the_formula(made: Callable[..., Any], method: list[str]) -> None:
    trainer = made(*method, "task.temperature=0.7", "task.entropy_weight=0.3", "task.value_clip=0.02")
    torch.manual_seed(4)
    shake(trainer.model, 0.1)
    found = trainer.write(batch())
    shake(trainer.model, 0.03)  # a step later
    said = found.answers.said
    gains, returns = torch.randn(said.shape) * said, torch.randn(said.shape) * said
    moved = [one for one in trainer.model.parameters() if one.requires_grad]
    loss = trainer.loss(trainer.model, found, gains, returns, torch.tensor([0, 1, 2])) / said.sum()
    gradient = torch.autograd.grad(loss, moved)
    wanted = reference(trainer, found, gains, returns)
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-5)
    for ours, theirs in zip(gradient, torch.autograd.grad(wanted, moved), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS, ids=IDS)
def test_the_model_is_held_to_what_it_was_at_its_start(made: Callable[..., Any], method: list[str]) -> None:
    trainer = made(*method)
    start = trainer.write(batch())
    assert torch.equal(start.logps, start.before)
    assert not start.kl.any()
    shake(trainer.model, 0.2)
    moved = trainer.write(batch())
    assert moved.kl.abs().max() > 1e-3
    from engine.models.model import model_of

    folder = trainer.processing_class.name_or_path
    base = model_of(Path(folder), dtype=torch.float32, device=torch.device("cpu"))
    for row, prompt in enumerate(ASKED):
        said = moved.answers.tokens[row, : moved.answers.lengths[row]]
        logps = base(torch.tensor([[*prompt, *said.tolist()]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        wanted = logps[torch.arange(len(said)), said]
        assert torch.allclose(moved.before[row, : len(said)], wanted, atol=1e-5)


@pytest.mark.parametrize("method", METHODS, ids=IDS)
def test_training_moves_what_the_method_says_and_the_value_head(made: Callable[..., Any], method: list[str]) -> None:
    trainer = made(*method)
    before = {name: one.clone() for name, one in trainer.model.named_parameters()}
    trainer.train()
    moved = {name for name, one in trainer.model.named_parameters() if not torch.equal(one, before[name])}
    assert moved == {name for name, one in trainer.model.named_parameters() if one.requires_grad}
    assert "heads.value.weight" in moved


def test_a_step_is_as_many_updates_as_passes_and_minibatches_say(
    made: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = made(*LORA, "task.passes=3", "task.minibatches=2", "steps.max_steps=2", "optim.warmup=0")
    steps, rates = [], []
    step = torch.optim.AdamW.step

    def counted(self: Any, *given: Any, **more: Any) -> Any:
        steps.append(trainer.state.global_step)
        rates.append(self.param_groups[0]["lr"])
        return step(self, *given, **more)

    monkeypatch.setattr(torch.optim.AdamW, "step", counted)
    trainer.train()
    # Three prompts in batches of two: a step of two batches.
    assert steps == [0] * 6 + [1] * 6
    assert rates[:6] == [rates[0]] * 6 and rates[6:] == [rates[6]] * 6
    assert rates[0] == pytest.approx(1e-3) and rates[6] < rates[0]
    assert trainer.state.global_step == trainer.state.max_steps == 2


def test_an_answer_without_an_end_has_the_score_that_is_set(made: Callable[..., Any]) -> None:
    trainer = made(*LORA, "task.missing_end=-3", "task.max_new_tokens=1")
    assert trainer.processing_class.eos_token_id in trainer.ends
    trainer.ends = list(range(32, 128))  # a third of all tokens, so that some answers end at once and others do not
    found = trainer.write(batch() * 40)
    ended = found.answers.ended
    assert ended.any() and not ended.all()
    assert torch.equal(found.scores[ended], found.rewards[ended])
    assert (found.scores[~ended] == -3).all()
    assert (found.rewards >= 0).all()


def test_a_run_records_what_it_did(workspace: Path) -> None:
    run = train(workspace, *TASK, *LORA, "data.split=80/20/0", "record.evaluate_every=2", "record.samples=[Hello]")
    for name in ("reward", "score", "kl", "entropy", "clip_share", "value_loss", "policy_loss", "length", "ended",
                 "explained_variance", "kl_coefficient"):  # fmt: skip
        assert len(losses(run, f"train/{name}")) == 4, name
    assert len(losses(run, "eval/reward")) == 3
    shown = [event for event in events(run, "sample") if event["prompt"] != "Hello"]
    assert {event["step"] for event in shown} == {0, 1, 2, 3}


def test_the_saved_model_is_an_ordinary_one_beside_its_value_head(workspace: Path) -> None:
    from transformers import AutoModelForCausalLM

    run = train(workspace, *TASK, "method=full", "record.save_every=2")
    for folder in (run.model_path, run.checkpoints_path / "step-4"):
        assert (folder / FILE).is_file()
        before = weights(workspace / "models" / "tiny")
        assert weights(folder).keys() == before.keys()
        _, told = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not told["unexpected_keys"] and not told["missing_keys"]


@pytest.mark.parametrize("method", METHODS, ids=IDS)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(workspace: Path, method: list[str]) -> None:
    common = [*TASK, *method, "steps.max_steps=4", "record.save_every=2", "record.keep=9", "data.split=80/20/0"]
    whole = train(workspace, *common)
    resumed = train(workspace, *common, f"resume.run={whole.id}", "resume.checkpoint=step-2")
    for name in ("loss", "reward", "kl", "kl_coefficient", "value_loss"):
        assert losses(resumed, f"train/{name}") == losses(whole, f"train/{name}")[2:], name
    assert losses(resumed, "eval/reward") == losses(whole, "eval/reward")[-len(losses(resumed, "eval/reward")) :]
    for folder in ("", FILE.parent):
        expected, found = weights(whole.model_path / folder), weights(resumed.model_path / folder)
        assert expected and expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_measuring_does_not_change_the_run(workspace: Path) -> None:
    common = [*TASK, *LORA, "data.split=80/20/0", "record.samples=[Hello]", "steps.max_steps=2"]
    seldom = train(workspace, *common, "record.evaluate_every=2")
    often = train(workspace, *common, "record.evaluate_every=1")
    assert losses(seldom) == losses(often)
    assert losses(often, "eval/reward")[0] == losses(seldom, "eval/reward")[0]


def test_an_optimiser_that_trains_other_weights_than_it_keeps_learns_between_measurements(workspace: Path) -> None:
    pytest.importorskip("schedulefree")
    free = ["optim.optimiser=schedule_free_adamw", "optim.schedule=constant", "data.split=80/20/0"]
    run = train(workspace, *TASK, *LORA, *free, "record.evaluate_every=1", "steps.max_steps=2")
    assert len(losses(run)) == 2 and run.model_path.is_dir()


def test_what_a_lesson_leaves_goes_to_main_memory_when_asked(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.training import offload

    packed, real = list[int](), offload.moved

    def counting(tensor: torch.Tensor) -> torch.Tensor:
        packed.append(tensor.numel())
        return real(tensor)

    # There is no accelerator to offload from: without this rule it is done on the processor.
    monkeypatch.setattr("data.checking.preflight.unmet", lambda args, here: [])
    monkeypatch.setattr(offload, "moved", counting)
    monkeypatch.setattr(offload, "SMALL", 0)
    words = [*TASK, *LORA, "steps.max_steps=2"]
    plain = train(workspace, *words)
    assert not packed
    ours = train(workspace, *words, "compute.offload=true")
    assert packed and losses(ours) == losses(plain)


def test_activations_that_are_computed_again_change_no_number(workspace: Path) -> None:
    words = [*TASK, "method=full", "optim.learning_rate=1e-2", "data.split=80/20/0", "record.evaluate_every=2"]
    kept, again = (train(workspace, *words, f"compute.checkpointing={on}") for on in ("false", "true"))
    for name in ("train/loss", "train/reward", "train/length", "eval/reward"):
        assert losses(again, name) == pytest.approx(losses(kept, name), abs=1e-5), name


def test_a_stop_saves_a_checkpoint_and_ends(workspace: Path) -> None:
    stop = Stop()
    stop.asked = True
    with pytest.raises(Stopped):
        train(workspace, *TASK, *LORA, "steps.max_steps=50", stop=stop)
    [run] = [path for path in (workspace / "runs").iterdir()]
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-1"]


def test_a_reward_model_on_the_same_base_shares_its_weights_and_scores_as_it_does_alone(
    made: Callable[..., Any], workspace: Path
) -> None:
    from engine.feedback.scoring import Scorer

    pairs = [{"prompt": f"Q{n}?", "chosen": "A good one.", "rejected": "Bad."} for n in range(6)]
    (workspace / "datasets" / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)) + "\n", encoding="utf-8")
    judge = train(workspace, "task=reward", "data=pairs.jsonl", *LORA, "optim.learning_rate=1e-2")
    rewarded = [*TASK, "task.rewards.functions={}", f"task.rewards.model={judge.id}", "task.rewards.model_weight=2"]
    trainer = made(*rewarded, *LORA)
    [note] = [event for event in events(trainer.run, "note") if "reward model shares" in event["text"]]
    assert note["facts"]["bytes"] == sum(one.nbytes for one in weights(workspace / "models" / "tiny").values())
    trainer.train()  # what is shared does not move
    talks = [[{"role": "user", "content": "Q1?"}, {"role": "assistant", "content": said}] for said in ("Fine.", "Bad.")]
    found = trainer.scorers([talk[:1] for talk in talks], [talk[1]["content"] for talk in talks], [{}, {}])
    alone = Scorer.of(judge.id, workspace, torch.device("cpu"), dtype="fp32").scores(talks)
    assert torch.allclose(trainer.scorers.total(found), 2 * alone, atol=1e-6)
    moving = made(*rewarded, "method=full")
    assert not [event for event in events(moving.run, "note") if "reward model shares" in event["text"]]


def test_the_reference_holds_in_bf16_too(made: Callable[..., Any]) -> None:
    """Autocast keeps casts of weights by their place, and would take the moved for the old ones."""
    trainer = made("method=full", "model.dtype=bf16")
    before = trainer.write(batch())
    shake(trainer.model, 0.2)
    answers = before.answers
    with torch.no_grad(), trainer.compute_loss_context_manager():
        from engine.feedback import rollout

        moved = rollout.thoughts(trainer.model, answers).logps(answers.tokens)
        with trainer.start.of(trainer.model) as start:
            again = rollout.thoughts(start, answers).logps(answers.tokens)
    assert torch.allclose(again, before.logps, atol=1e-3)
    assert not torch.allclose(moved, before.logps, atol=1e-1)


def test_dropout_is_refused() -> None:
    with pytest.raises(ArgsError, match="method.dropout: 0.1 would blur what PPO compares.*Set it to 0"):
        text.parse({}, [*TINY, *TASK, *LORA, "method.dropout=0.1"], kind="train")


@pytest.mark.parametrize(
    ("method", "rate"), [(LORA, 5e-3), pytest.param(["method=full"], 1e-3, marks=pytest.mark.slow)], ids=IDS[:2]
)
def test_the_reward_of_a_simple_rule_rises_while_kl_stays_bounded(
    workspace: Path, method: list[str], rate: float
) -> None:
    louder(workspace)
    run = train(
        workspace, *TASK, *method, "model=loud", "steps.max_steps=30", "steps.batch_size=32", "steps.accumulation=1",
        "data.repeat={sums.jsonl: 4}", "task.passes=4", "task.rewards.pattern=[ae]", "task.kl_target=5",
        "task.kl_gain=0.3", f"optim.learning_rate={rate}", "optim.schedule=constant", "record.log_every=5",
    )  # fmt: skip
    rewards, kl = losses(run, "train/reward"), losses(run, "train/kl")
    assert rewards[-1] > rewards[0] + 0.3
    assert max(kl) < 10


@pytest.mark.slow
def test_the_embedded_model_learns_how_to_begin(embedded: Path, tmp_path: Path) -> None:
    """Within minutes on two cores: the reward rises clearly, and the model stays near what it was."""
    rule = ["task.max_new_tokens=3", "task.passes=3", "optim.learning_rate=5e-4", "optim.schedule=constant"]
    sizes = ["steps.batch_size=16", "steps.accumulation=1", "steps.max_steps=6", "data.repeat={things.jsonl: 8}"]
    said = [*asked(tmp_path, embedded), *rule, *sizes, "record.log_every=1", "record.save_every=99"]
    run = train(tmp_path, "task=ppo", *said)
    reward, kl = losses(run, "train/reward"), losses(run, "train/kl")
    assert sum(reward[-2:]) / 2 > reward[0] + 0.3
    assert max(kl) < 10


def louder(workspace: Path) -> None:
    """The tiny model with words that differ more: as it is, no hidden state can make one of them likely."""
    from engine.models.model import model_of, tokenizer_of

    folder = workspace / "models" / "tiny"
    model = model_of(folder, dtype=torch.float32, device=torch.device("cpu"))
    with torch.no_grad():
        model.get_input_embeddings().weight *= 10
    model.save_pretrained(workspace / "models" / "loud")
    tokenizer_of(folder).save_pretrained(workspace / "models" / "loud")
