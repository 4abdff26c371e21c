"""SFT against references written by hand: the loss, what moves, what resumes, what is refused."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from data.datasets import registry
from data.encoding.prepare import prepare
from data.encoding.render import ChatTemplate
from data.encoding.tokens import TextTokenizer
from engine.contract.errors import ArgsError, BoardError
from engine.report import Stop, Stopped
from tests.e2e.training import copied, events, losses, train, weights

LORA = ["method.rank=4", "method.alpha=8"]


def examples(workspace: Path, train_on: str = "assistant") -> list[Any]:
    folder = workspace / "models" / "tiny"
    rows = registry.load(registry.find("sums.jsonl", workspace))
    return prepare(rows, ChatTemplate.of(folder), TextTokenizer.of(folder), train_on=train_on, max_length=128).rows


def reference_loss(workspace: Path, chosen: list[Any]) -> float:
    """Mean negative log-likelihood of the trained tokens of `chosen`, row by row, in plain PyTorch."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(workspace / "models" / "tiny", dtype=torch.float32).eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for example in chosen:
            logits = model(torch.tensor([example.input_ids])).logits[0, :-1].double()
            labels = torch.tensor(example.labels)[1:]
            kept = labels != -100
            picked = logits.log_softmax(-1)[torch.arange(len(labels)), labels.clamp(min=0)]
            total -= float(picked[kept].sum())
            count += int(kept.sum())
    return total / count


@pytest.mark.parametrize("train_on", ["assistant", "last", "everything"])
def test_first_loss_equals_a_plain_computation_over_the_same_rows(workspace: Path, train_on: str) -> None:
    run = train(
        workspace, *LORA, "steps.max_steps=1", "steps.batch_size=4", "steps.accumulation=3", f"data.train_on={train_on}"
    )
    # One step sees all twelve rows, so their order does not matter.
    assert losses(run)[0] == pytest.approx(reference_loss(workspace, examples(workspace, train_on)), abs=1e-5)


def test_accumulated_batches_equal_one_big_batch(workspace: Path) -> None:
    many = train(workspace, "method=full", "steps.batch_size=1", "steps.accumulation=6")
    one = train(workspace, "method=full", "steps.batch_size=6", "steps.accumulation=1")
    assert losses(many) == pytest.approx(losses(one), abs=1e-5)
    for name, tensor in weights(one.model_path).items():
        assert torch.allclose(tensor, weights(many.model_path)[name], atol=2e-5), name


def test_held_out_loss_does_not_depend_on_batches_or_padding(workspace: Path) -> None:
    held = f"data.validation=[{copied(workspace, 'sums.jsonl')}]"
    found = [
        losses(train(workspace, *LORA, held, "steps.max_steps=1", f"steps.batch_size={size}",
                     f"steps.accumulation={4 // size}"), "eval/loss")[0]
        for size in (1, 4)
    ]  # fmt: skip
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_packed_rows_do_not_see_each_other(workspace: Path) -> None:
    run = train(
        workspace, *LORA, "data.packing=true", "steps.max_steps=1", "steps.batch_size=2", "steps.accumulation=20"
    )
    assert losses(run)[0] == pytest.approx(reference_loss(workspace, examples(workspace)), abs=1e-5)


def test_packing_is_refused_where_attention_mixes_rows(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlamaForCausalLM

    forward = LlamaForCausalLM.forward

    def blind(self: Any, *given: Any, position_ids: Any = None, **more: Any) -> Any:
        return forward(self, *given, **more)  # as a model that ignores where rows begin

    monkeypatch.setattr(LlamaForCausalLM, "forward", blind)
    with pytest.raises(ArgsError, match="data.packing.*does not keep packed rows apart"):
        train(workspace, *LORA, "data.packing=true")


@pytest.mark.parametrize("variant", [[], ["method.dora=true"], ["method.rslora=true"]])
def test_lora_moves_the_adapter_and_leaves_the_base_alone(workspace: Path, variant: list[str]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run = train(workspace, *LORA, *variant)
    saved = weights(run.model_path)
    assert saved and all("lora_" in name for name in saved)
    assert all(tensor.abs().max() > 0 for name, tensor in saved.items() if "lora_B" in name)
    base = AutoModelForCausalLM.from_pretrained(workspace / "models" / "tiny", dtype=torch.float32)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    tuned = PeftModel.from_pretrained(base, run.model_path)
    kept = {
        name.replace("base_model.model.", "").replace(".base_layer", ""): t for name, t in tuned.state_dict().items()
    }
    assert all(torch.equal(before[name], kept[name]) for name in before)
    assert losses(run)[-1] < losses(run)[0]


def test_freeze_moves_the_last_layers_only(workspace: Path) -> None:
    run = train(workspace, "method=freeze", "method.layers=1")
    before, after = weights(workspace / "models" / "tiny"), weights(run.model_path)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if ".layers.1." in name}


def test_freeze_with_head_moves_norm_and_output_too(workspace: Path) -> None:
    run = train(workspace, "method=freeze", "method.layers=1", "method.head=true")
    before, after = weights(workspace / "models" / "tiny"), weights(run.model_path)
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert still == {name for name in before if ".layers.0." in name}


def test_full_moves_every_weight(workspace: Path) -> None:
    run = train(workspace, "method=full")
    before, after = weights(workspace / "models" / "tiny"), weights(run.model_path)
    assert all(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    "method",
    [LORA, [*LORA, "method.dora=true"], [*LORA, "method.rslora=true", "method.dropout=0.1"], ["method=full"],
     ["method=freeze", "method.layers=1"], [*LORA, "data.packing=true", "data.max_length=64"]],
    ids=["lora", "dora", "rslora", "full", "freeze", "packing"],
)  # fmt: skip
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(workspace: Path, method: list[str]) -> None:
    common = [*method, "steps.max_steps=6", "record.save_every=2", "record.keep=9", "data.split=80/20/0"]
    whole = train(workspace, *common)
    resumed = train(workspace, *common, f"resume.run={whole.id}", "resume.checkpoint=step-4")
    assert losses(resumed) == losses(whole)[4:]
    expected, found = weights(whole.model_path), weights(resumed.model_path)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_resuming_from_a_checkpoint_that_is_not_there_names_those_that_are(workspace: Path) -> None:
    run = train(workspace, *LORA, "record.save_every=2")
    with pytest.raises(BoardError, match="has no checkpoint step-3. It has step-2, step-4"):
        train(workspace, *LORA, f"resume.run={run.id}", "resume.checkpoint=step-3")


def test_there_is_nothing_to_resume_at_the_end_of_a_run(workspace: Path) -> None:
    run = train(workspace, *LORA, "steps.max_steps=2", "record.save_every=2")
    with pytest.raises(ArgsError, match="step-2 is the end of a run of 2 steps. Raise steps.epochs"):
        train(workspace, *LORA, "steps.max_steps=2", f"resume.run={run.id}")


def test_a_stop_saves_a_checkpoint_and_ends(workspace: Path) -> None:
    stop = Stop()
    stop.asked = True
    with pytest.raises(Stopped):
        train(workspace, *LORA, "steps.max_steps=50", stop=stop)
    [run] = [path for path in (workspace / "runs").iterdir()]
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-1"]
    assert not (run / "model").exists()


def test_a_full_disk_while_saving_leaves_earlier_checkpoints_intact(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import Trainer

    save = Trainer._save_optimizer_and_scheduler

    def full(self: Any, folder: str) -> None:
        save(self, folder)
        if self.state.global_step > 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Trainer, "_save_optimizer_and_scheduler", full)
    with pytest.raises(OSError):
        train(workspace, *LORA, "record.save_every=2")
    [run] = [path for path in (workspace / "runs").iterdir()]
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-2"]


def test_a_loss_that_is_no_number_warns_then_ends_with_advice(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.recipes.sft import Task

    compute = Task.compute_loss
    monkeypatch.setattr(Task, "compute_loss", lambda self, *a, **k: compute(self, *a, **k) * float("nan"))
    with pytest.raises(BoardError, match="no longer a number since step 1.*Lower optim.learning_rate"):
        train(workspace, *LORA, "record.save_every=1")
    [run] = [path for path in (workspace / "runs").iterdir()]
    assert not list((run / "checkpoints").glob("step-*"))
    from engine.contract.rundir import Run

    assert "not a number at step 1" in events(Run(run), "warning")[0]["text"]


def test_a_run_whose_last_loss_is_no_number_keeps_no_model(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.recipes.sft import Task

    compute = Task.compute_loss
    monkeypatch.setattr(Task, "compute_loss", lambda self, *a, **k: compute(self, *a, **k) * float("nan"))
    with pytest.raises(BoardError, match="no longer a number since step 1: the weights are ruined"):
        train(workspace, *LORA, "steps.max_steps=1")
    [run] = [path for path in (workspace / "runs").iterdir()]
    assert not (run / "model").exists()


def test_a_loss_that_is_no_number_between_two_points_of_the_curve_is_not_saved_either(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.recipes.sft import Task

    def compute(self: Any, *given: Any, **more: Any) -> Any:
        return usual(self, *given, **more) * (float("nan") if self.state.global_step > 1 else 1)

    usual = Task.compute_loss
    monkeypatch.setattr(Task, "compute_loss", compute)
    with pytest.raises(BoardError, match="no longer a number since step 3"):
        train(workspace, *LORA, "record.log_every=50", "record.save_every=3")
    [run] = [path for path in (workspace / "runs").iterdir()]
    assert not list((run / "checkpoints").glob("step-*")) and not (run / "model").exists()


def test_one_loss_that_is_no_number_leaves_those_behind_it_what_they_are(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in fp16, where the gradient of such a step is left out."""
    from engine.recipes.sft import Task

    def step(self: Any, *given: Any, **more: Any) -> Any:
        return usual(self, *given, **more) * (float("nan") if self.state.global_step == 1 else 1)

    plain = losses(train(workspace, *LORA))
    usual = Task.training_step
    monkeypatch.setattr(Task, "training_step", step)
    run = train(workspace, *LORA)
    assert losses(run) == [plain[0], None, *plain[2:]] and len(events(run, "warning")) == 1


def test_rows_cut_to_nothing_are_counted_and_never_trained(workspace: Path) -> None:
    long = {"messages": [{"role": "user", "content": "Well, " * 100}, {"role": "assistant", "content": "No."}]}
    with open(workspace / "datasets" / "sums.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(long) + "\n")
    run = train(workspace, *LORA, "steps.max_steps=1", "data.cut=answer")
    assert any("1 row has no trained token left" in event["text"] for event in events(run, "warning"))
    assert events(run, "note")[0]["facts"]["rows"] == 12


def test_sample_questions_are_answered_before_training_and_at_every_evaluation(workspace: Path) -> None:
    asked = "record.samples=['What is 1 and 1?', Hello]"
    run = train(workspace, *LORA, "data.split=80/20/0", asked, "record.evaluate_every=2")
    found = [(event["step"], event["prompt"]) for event in events(run, "sample")]
    assert found == [(step, prompt) for step in (0, 2, 4) for prompt in ("What is 1 and 1?", "Hello")]


def test_samples_are_plain_greedy_answers_that_end_where_the_template_ends_one(workspace: Path) -> None:
    """Whatever the model's generation_config.json wishes, and whatever its tokenizer calls the end."""
    import shutil

    from transformers import AutoModelForCausalLM

    from engine.contract import text
    from engine.recipes.run import _asked

    words = ["method=full", "optim.learning_rate=1e-2", "data.split=80/20/0", "record.samples=['What is 1 and 1?']"]
    plain = [event["answer"] for event in events(train(workspace, *words), "sample")]
    other = workspace / "models" / "other"
    shutil.copytree(workspace / "models" / "tiny", other)
    (other / "generation_config.json").write_text(json.dumps({"no_repeat_ngram_size": 1, "repetition_penalty": 9.0}))
    assert plain == [event["answer"] for event in events(train(workspace, *words, "model=other"), "sample")]
    assert any(plain)

    config = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": "</s>", "pad_token": "</s>"}))
    tokenizer = TextTokenizer.of(other)
    asked = _asked(text.parse({}, words, kind="train"), other, AutoModelForCausalLM.from_pretrained(other))
    assert {tokenizer.id("<|im_end|>"), tokenizer.id("</s>")} <= {*asked["ends"]}


def test_sampling_answers_does_not_change_the_run(workspace: Path) -> None:
    common = [*LORA, "method.dropout=0.1", "data.split=80/20/0", "record.evaluate_every=1"]
    plain = train(workspace, *common)
    sampled = train(workspace, *common, "record.samples=[Hello]")
    assert losses(plain) == losses(sampled)


def test_unknown_target_modules_name_those_that_exist(workspace: Path) -> None:
    with pytest.raises(ArgsError, match="no layer called nonsense. It has down_proj, gate_proj"):
        train(workspace, "method.targets=[nonsense, q_proj]")


def test_extra_settings_reach_the_trainer_and_cannot_override_the_board(workspace: Path) -> None:
    with pytest.raises(
        ArgsError, match="(?s)extra.learnin_rate.*no such setting.*extra.output_dir.*manages this itself"
    ):
        train(workspace, "extra={learnin_rate: 1, output_dir: x}")
    run = train(workspace, *LORA, "extra={eval_accumulation_steps: 2}", "steps.max_steps=1")
    assert run.model_path.is_dir()


def test_an_adapter_names_its_base_and_the_base_s_revision(workspace: Path, tmp_path: Path) -> None:
    from data.weights import find

    run = train(workspace, *LORA, "steps.max_steps=1", "model.revision=abc123")
    elsewhere = run.model_path.rename(tmp_path / "adapter")
    found = find(str(elsewhere), workspace)
    assert (found.base, found.revision) == ("tiny", "abc123")
