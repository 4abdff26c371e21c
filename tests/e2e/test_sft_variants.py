"""What SFT can do beyond the plain loss, against references written by hand: losses, weights, noise, general rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from data.checking import survey
from data.datasets import registry
from data.encoding.prepare import prepare
from data.encoding.render import ChatTemplate
from data.encoding.tokens import TextTokenizer
from engine.contract import text
from engine.contract.errors import DataError
from tests.e2e.training import TINY, events, losses, train, weights

ONE_STEP = ["method=full", "steps.max_steps=1", "steps.batch_size=2", "steps.accumulation=6",
            "optim.learning_rate=0.5", "optim.optimiser=sgd", "optim.weight_decay=0", "optim.max_grad_norm=1e6",
            "optim.schedule=constant", "optim.warmup=0"]  # fmt: skip


def weighed_rows(workspace: Path) -> None:
    """Two answers a row; of most rows one weighs otherwise than 1."""
    given = [(1, 0.5), (0, 1), (2, 1), (1, 1)] * 3
    with open(workspace / "datasets" / "sums.jsonl", "w", encoding="utf-8") as file:
        for number, (first, second) in enumerate(given):
            turns = [
                {"role": "user", "content": f"What is {number} and 1?"},
                {"role": "assistant", "content": f"It is {number + 1}.", "weight": first},
                {"role": "user", "content": "And two more?"},
                {"role": "assistant", "content": f"That makes {number + 3}, as you see.", "weight": second},
            ]
            file.write(json.dumps({"messages": turns}) + "\n")


def reference(workspace: Path, loss: str, smoothing: float) -> tuple[float, dict[str, Any]]:
    """The loss of all rows in one step, token by token, and the weights after a step of plain descent by 0.5."""
    from transformers import AutoModelForCausalLM

    folder = workspace / "models" / "tiny"
    rows = registry.load(registry.find("sums.jsonl", workspace))
    examples = prepare(rows, ChatTemplate.of(folder), TextTokenizer.of(folder), max_length=128).rows
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    total, count = torch.zeros(()), 0.0
    for example in examples:
        log_probs = model(torch.tensor([example.input_ids])).logits[0].log_softmax(-1)
        heavy = {place: example.weights[at + 2] for at in range(0, len(example.weights), 3)
                 for place in range(int(example.weights[at]), int(example.weights[at + 1]))}  # fmt: skip
        for place, label in enumerate(example.labels):
            if place == 0 or label == -100:
                continue
            said = log_probs[place - 1]
            one = -said[label]
            if loss == "dft":
                one = one * said[label].exp().detach()
            if smoothing:
                one = (1 - smoothing) * one + smoothing * -said.sum() / len(said)
            total = total + heavy.get(place, 1.0) * one
            count += heavy.get(place, 1.0)
    (total / count).backward()
    return float(total.detach() / count), {
        name: (parameter - 0.5 * parameter.grad).detach() for name, parameter in model.named_parameters()
    }


@pytest.mark.parametrize("weighed", [False, True], ids=["equal", "weighed"])
@pytest.mark.parametrize(("loss", "smoothing"), [("nll", 0.0), ("nll", 0.1), ("dft", 0.0)])
def test_the_loss_and_its_step_equal_a_plain_computation(
    workspace: Path, loss: str, smoothing: float, weighed: bool
) -> None:
    if weighed:
        weighed_rows(workspace)
    expected, moved = reference(workspace, loss, smoothing)
    run = train(workspace, *ONE_STEP, f"task.loss={loss}", f"task.label_smoothing={smoothing}")
    assert losses(run)[0] == pytest.approx(expected, abs=1e-5)
    found = weights(run.model_path)
    assert found and all(torch.allclose(found[name], moved[name], atol=1e-5) for name in found)
    before = weights(workspace / "models" / "tiny")
    gone = max(float((found[name] - before[name]).abs().max()) for name in found)
    assert gone > 1e-4  # the step is there to be compared


def test_packed_turns_keep_their_weights(workspace: Path) -> None:
    weighed_rows(workspace)
    plain = train(workspace, *ONE_STEP)
    packed = train(workspace, *ONE_STEP, "data.packing=true", "data.max_length=256")
    assert losses(packed)[0] == pytest.approx(losses(plain)[0], abs=1e-5)


def test_a_turn_that_weighs_nothing_changes_nothing(workspace: Path) -> None:
    weighed_rows(workspace)
    first = train(workspace, *ONE_STEP)
    file = workspace / "datasets" / "sums.jsonl"
    file.write_text(file.read_text().replace("It is 2.", "It is a very different thing."))
    changed = losses(train(workspace, *ONE_STEP))[0]
    assert changed == pytest.approx(losses(first)[0], abs=0.05)
    assert changed != losses(first)[0]  # what is said before it is still read


def test_held_out_rows_are_measured_by_the_likelihood_whatever_the_loss(workspace: Path) -> None:
    common = ["data.split=80/20/0", "steps.max_steps=1", "method.rank=4"]
    plain, dft, smooth = (
        losses(train(workspace, *common, *more), "eval/loss")[0]
        for more in ([], ["task.loss=dft"], ["task.label_smoothing=0.1"])
    )
    assert dft == pytest.approx(plain, abs=1e-5)
    assert smooth == pytest.approx(plain, abs=1e-5)


def test_noise_on_the_embeddings_is_of_the_strength_that_its_paper_has(workspace: Path, monkeypatch: Any) -> None:
    from engine.recipes.sft import Task

    noise: list[tuple[float, float]] = []
    step = Task.training_step

    def watched(self: Any, model: Any, inputs: Any, *rest: Any) -> Any:
        model.train()
        embed, shape = model.get_input_embeddings(), inputs["input_ids"].shape
        with torch.no_grad():
            moved = (embed(inputs["input_ids"]) - embed.weight[inputs["input_ids"]]).abs()
        noise.append((float(moved.max()), 5 / (shape[1] * embed.embedding_dim) ** 0.5))
        return step(self, model, inputs, *rest)

    monkeypatch.setattr(Task, "training_step", watched)
    run = train(workspace, "method=full", "task.neftune=5", "steps.max_steps=2", "data.split=80/20/0")
    assert len(noise) == 4
    assert all(0.9 * bound < most <= bound for most, bound in noise)
    quiet = train(workspace, "method=full", "steps.max_steps=1", "data.split=80/20/0")
    assert losses(run, "eval/loss")[0] == losses(quiet, "eval/loss")[0]
    assert losses(run)[0] != losses(quiet)[0]
    words = ["method=full", "task.neftune=5", "steps.max_steps=2", "data.split=80/20/0", "compute.padding_free=false"]
    assert losses(train(workspace, *words)) == losses(run)  # by the length of a row, not of all rows of a batch


@pytest.mark.parametrize("variant", [
    pytest.param(["task.label_smoothing=0.1"], marks=pytest.mark.slow),
    pytest.param(["task.loss=dft"], marks=pytest.mark.slow),
    ["task.neftune=5"],
])  # fmt: skip
def test_a_resumed_variant_equals_an_uninterrupted_one(workspace: Path, variant: list[str]) -> None:
    common = [*variant, "method.rank=4", "steps.max_steps=4", "record.save_every=2", "record.keep=9"]
    whole = train(workspace, *common)
    resumed = train(workspace, *common, f"resume.run={whole.id}", "resume.checkpoint=step-2")
    assert losses(resumed) == losses(whole)[2:]


def test_general_rows_are_mixed_in_at_their_share_and_never_held_out(workspace: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": f"Say {number}."}, {"role": "assistant", "content": "Gladly."}]}
            for number in range(5)]  # fmt: skip
    file = workspace / "datasets" / "chat.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    run = train(workspace, "method.rank=4", "steps.max_steps=1", "data.split=rest/4/0", "task.general=[chat.jsonl]",
                "task.general_share=0.5")  # fmt: skip
    noted = [event["facts"] for event in events(run, "note") if "which" in event["facts"]]
    assert [(facts["which"], facts["rows"]) for facts in noted] == [("train", 16), ("held out", 4)]
    assert "Gladly" not in run.heldout_path.read_text()


def test_prompts_that_fill_the_window_are_an_error_before_training(workspace: Path) -> None:
    long = {"messages": [{"role": "user", "content": "Well, " * 100}, {"role": "assistant", "content": "No."}]}
    (workspace / "datasets" / "long.jsonl").write_text("\n".join([json.dumps(long)] * 4))
    given = ["data=long.jsonl", "data.cut=answer"]
    with pytest.raises(DataError, match="No row has a token to train on. Raise data.max_length"):
        train(workspace, "method.rank=4", *given)
    [run] = (workspace / "runs").iterdir()
    assert not (run / "metrics.jsonl").read_text()
    args = text.parse({}, [*TINY, *given], kind="train")
    [found] = survey.sampled(args, workspace / "models" / "tiny", workspace).of("error")
    assert found.kind == "untrained"
    kept = train(workspace, "method.rank=4", "data=long.jsonl", "data.cut=prompt", "steps.max_steps=1")
    assert losses(kept)[0] > 0  # what is asked gives way, and the answer is learnt
