"""Adapters on weights in 8 and 4 bits: gradients that are right, a base that stands still, a merge into full ones."""

from __future__ import annotations

import importlib
import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from data import weights as named
from data.checking import preflight
from engine.contract import rundir, text
from engine.contract.errors import ArgsError, ModelError
from engine.contract.needs import Here, unmet
from engine.contract.rundir import Run
from engine.report import Report, Stop
from tests.e2e.training import TINY, events, losses, train, weights

IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 30, 40]])
CPU = torch.device("cpu")
LORA = ["method.rank=4", "method.alpha=8"]
torchao = pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is not installed")
FORMS = ["int8", "nf4", "fp4", pytest.param("torchao_int8", marks=torchao)]


def loaded(folder: Path, form: str = "none", **more: Any) -> Any:
    from engine.models.model import model_of

    return model_of(folder, dtype=torch.float32, device=CPU, quantisation=form, **more)


@torch.no_grad()
def says(model: Any) -> torch.Tensor:
    return model(input_ids=IDS).logits  # type: ignore[no-any-return]


def done(kind: str, workspace: Path, *said: str) -> Run:
    args: Any = text.parse({}, list(said), kind=kind)
    run = rundir.make(workspace, kind, text.dump(args))
    importlib.import_module(f"engine.{kind}").run(args, run, Report(run), Stop())
    return run


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_held_in_fewer_bits_and_say_nearly_the_same(tiny_model: Path, form: str) -> None:
    full, held = loaded(tiny_model), loaded(tiny_model, form)
    if form != "torchao_int8":  # whose tensors count as what they stand for
        assert held.get_memory_footprint() < full.get_memory_footprint()
    apart = (says(held) - says(full)).abs().max()
    assert 0 < apart < (0.02 if "int8" in form else 0.3)


@pytest.mark.parametrize("form", FORMS)
def test_training_moves_the_adapter_alone_goes_on_and_is_the_same_when_loaded_again(
    workspace: Path, tiny_model: Path, form: str
) -> None:
    from engine.models.model import with_adapter
    from engine.tuning import methods

    said = [
        *LORA,
        f"model.quantisation={form}",
        "optim.learning_rate=1e-2",
        "record.save_every=2",
        "data.split=80/20/0",
    ]
    run = train(workspace, *said)
    again = train(workspace, *said, f"resume.run={run.id}", "resume.checkpoint=step-2")
    kept = weights(run.model_path)
    assert all("lora_" in name and tensor.dtype is torch.float32 for name, tensor in kept.items())
    assert all(torch.equal(tensor, weights(again.model_path)[name]) for name, tensor in kept.items())
    assert losses(run)[-1] < losses(run)[0]
    tuned = with_adapter(loaded(tiny_model, form), run.model_path)
    assert (says(tuned) - says(loaded(tiny_model, form))).abs().max() > 1e-3
    args: Any = text.parse({}, ["model=tiny", "data=x", *said], kind="train")
    made = methods.prepared(loaded(tiny_model, form), args)
    assert {name for name, one in made.named_parameters() if one.requires_grad} == {
        name for name, _ in made.named_parameters() if "lora_" in name
    }
    with tuned.disable_adapter():
        assert torch.equal(says(tuned), says(loaded(tiny_model, form)))


@pytest.mark.parametrize("form", ["nf4", "fp4"])
def test_gradients_are_those_of_the_widened_weights_after_an_evaluation_too(tiny_model: Path, form: str) -> None:
    from engine.tuning import methods

    args: Any = text.parse({}, ["model=tiny", "data=x", *LORA, f"model.quantisation={form}"], kind="train")
    gradients = []
    for widened in (False, True):
        model = loaded(tiny_model, form)
        if widened:
            model = model.dequantize().float()
        torch.manual_seed(3)
        model = methods.prepared(model, args)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.copy_(0.1 * torch.randn_like(parameter))
        says(model.eval())  # what repacks 4-bit weights on some processors
        model.train()(input_ids=IDS, labels=IDS).loss.backward()
        gradients.append({name: one.grad for name, one in model.named_parameters() if one.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-5, rtol=1e-3)


def test_no_layer_is_left_with_what_repacks_its_weights(tiny_model: Path) -> None:
    flags = [m.support_avx512bf16_for_cpu for m in loaded(tiny_model, "nf4").modules() if hasattr(m, "quant_state")]
    assert flags and not any(flags)


def test_the_scales_are_quantised_too_unless_that_is_off(tiny_model: Path) -> None:
    nested = [loaded(tiny_model, "nf4", double_quantisation=on).model.layers[0].mlp.up_proj.weight.quant_state.nested
              for on in (True, False)]  # fmt: skip
    assert nested == [True, False]


@pytest.mark.parametrize("form", ["int8", "nf4"])
def test_it_is_judged_as_it_was_trained_and_merged_into_full_precision(
    workspace: Path, tiny_model: Path, form: str
) -> None:
    from engine.models.model import with_adapter

    run = train(workspace, *LORA, f"model.quantisation={form}", "data.split=60/40/0", "optim.learning_rate=1e-2")
    judged = done("evaluate", workspace, f"tuned={run.id}", "max_tokens=2", "dtype=fp32")
    assert any(f"Both answer over {form} weights" in event["text"] for event in events(judged, "note"))
    summary = json.loads((judged.results_path / "summary.json").read_text())
    base = done("evaluate", workspace, f"tuned={run.id}", "base=tiny", "max_tokens=2", "dtype=fp32")
    assert summary["metrics"]["loss"]["tuned"] == pytest.approx(losses(run, "eval/loss")[-1], abs=1e-4)
    assert json.loads((base.results_path / "summary.json").read_text())["metrics"]["loss"] == summary["metrics"]["loss"]
    done("export", workspace, f"tuned={run.id}", "dtype=fp32", "to=whole")
    written = loaded(workspace / "exports" / "whole")
    assert "quantization_config" not in json.loads((workspace / "exports" / "whole" / "config.json").read_text())
    assert (says(written) - says(with_adapter(loaded(tiny_model), run.model_path))).abs().max() < 1e-5


def test_base_and_adapter_are_loaded_for_chat_as_the_adapter_was_trained(workspace: Path, tiny_model: Path) -> None:
    from engine.models.model import with_adapter
    from engine.serving.roster import load

    said: list[str] = []
    run = train(workspace, *LORA, "model.quantisation=nf4", "optim.learning_rate=1e-2")
    args: Any = text.parse({}, [f"models=[{run.id}, tiny]", "dtype=fp32"], kind="serve")
    roster = load(args, workspace, said.append)
    assert len(said) == 1 and "over nf4 weights, as in training" in said[0]
    with roster.find(run.id).speaking() as model:
        assert torch.equal(says(model), says(with_adapter(loaded(tiny_model, "nf4"), run.model_path)))
    with roster.find("tiny").speaking() as model:
        assert torch.equal(says(model), says(loaded(tiny_model, "nf4")))


def test_loftq_starts_nearer_to_the_full_weights_and_merges_into_those_that_it_mended(
    workspace: Path, tiny_model: Path
) -> None:
    from engine.models.model import with_adapter
    from engine.tuning import methods

    said = [*LORA, "model.quantisation=nf4", "method.init=loftq"]
    args: Any = text.parse({}, ["model=tiny", "data=x", *said], kind="train")
    plain, mended = loaded(tiny_model, "nf4"), methods.prepared(loaded(tiny_model, "nf4"), args).eval()
    full = loaded(tiny_model)
    assert (says(mended) - says(full)).square().mean() < 0.8 * (says(plain) - says(full)).square().mean()
    run = train(workspace, *said, "optim.learning_rate=1e-2")
    done("export", workspace, f"tuned={run.id}", "dtype=fp32", "to=whole")
    written = loaded(workspace / "exports" / "whole")
    tuned = with_adapter(loaded(tiny_model, "nf4"), run.model_path)
    assert (says(written) - says(tuned)).abs().max() < 1e-4


def test_what_goes_on_from_loftq_belongs_to_the_weights_that_it_mended(workspace: Path, tiny_model: Path) -> None:
    from engine.models.model import with_adapter

    said = [*LORA, "model.quantisation=nf4", "optim.learning_rate=1e-2"]
    first = train(workspace, *said, "method.init=loftq")
    run = train(workspace, *said, f"method.start_from={first.id}")
    done("export", workspace, f"tuned={run.id}", "dtype=fp32", "to=further")
    tuned = with_adapter(loaded(tiny_model, "nf4"), run.model_path)
    assert (says(loaded(workspace / "exports" / "further")) - says(tuned)).abs().max() < 1e-4
    args = text.parse({}, [*TINY, *LORA, f"method.start_from={first.id}"], kind="train")
    assert [problem.path for problem in preflight.problems(args, workspace)] == ["model.quantisation"]


def test_what_goes_on_from_loftq_is_known_when_its_parent_is_gone(workspace: Path, tiny_model: Path) -> None:
    said = [*LORA, "model.quantisation=nf4", "steps.max_steps=1"]
    first = train(workspace, *said, "method.init=loftq")
    run = train(workspace, *said, f"method.start_from={first.id}")
    shutil.rmtree(first.path)
    assert named.find(run.id, workspace).mends
    facts = json.loads(run.env_path.read_text())
    run.env_path.write_text(json.dumps({name: fact for name, fact in facts.items() if name != "mends"}))  # an older run
    sentence = rf"{run.id} went on from {first.id} \(method.start_from\), which is gone"
    for kind, word in (("export", "tuned"), ("evaluate", "tuned")):
        with pytest.raises(ModelError, match=sentence):
            done(kind, workspace, f"{word}={run.id}", "data=sums.jsonl" if kind == "evaluate" else "to=lost")
    asked = text.parse({}, [f"models={run.id}"], kind="serve")
    further = text.parse({}, [*TINY, *said, f"method.start_from={run.id}"], kind="train")
    for args in (asked, further):
        assert [first.id in problem.text for problem in preflight.problems(args, workspace)] == [True]
    run.env_path.write_text(json.dumps({**facts, "mends": True}))  # the way out
    assert named.find(run.id, workspace).mends


def test_an_adapter_whose_own_base_is_gone_says_which_and_what_to_do(workspace: Path, tiny_model: Path) -> None:
    parent = workspace / "models" / "parent"
    shutil.copytree(tiny_model, parent)
    run = train(workspace, *LORA, f"model={parent}", "steps.max_steps=1")
    shutil.rmtree(parent)
    for kind in ("export", "evaluate"):
        with pytest.raises(ModelError, match=rf"{run.id} stands on the model in {parent}, which is gone"):
            done(kind, workspace, f"tuned={run.id}", "to=lost" if kind == "export" else "data=sums.jsonl")
    args = text.parse({}, [f"models={run.id}"], kind="serve")
    (problem,) = preflight.problems(args, workspace)
    assert "Put that folder back" in problem.text


def test_an_exported_loftq_adapter_brings_along_how_its_base_is_held(workspace: Path, tiny_model: Path) -> None:
    from engine.models.model import with_adapter
    from engine.serving import roster

    said = [*LORA, "model.quantisation=nf4", "model.double_quantisation=false", "method.init=loftq"]
    run = train(workspace, *said, "optim.learning_rate=1e-2")
    done("export", workspace, f"tuned={run.id}", "form=adapter", "to=apart")
    shutil.rmtree(run.path)
    args: Any = text.parse({}, ["models=exports/apart", "dtype=fp32", "device=cpu"], kind="serve")
    tuned = with_adapter(loaded(tiny_model, "nf4", double_quantisation=False), workspace / "exports" / "apart")
    with roster.load(args, workspace).find("exports/apart").speaking() as model:
        assert torch.equal(says(model), says(tuned))
    done("export", workspace, "tuned=exports/apart", "dtype=fp32", "to=whole")
    assert (says(loaded(workspace / "exports" / "whole")) - says(tuned)).abs().max() < 1e-4
    card = (workspace / "exports" / "apart" / "README.md").read_text()
    assert 'bnb_4bit_quant_type="nf4"' in card and "bnb_4bit_use_double_quant=False" in card


def test_a_reward_model_with_loftq_scores_and_is_merged_as_it_was_trained(workspace: Path) -> None:
    from engine.feedback.scoring import Scorer

    rows = [{"prompt": f"What is {n}?", "chosen": f"It is {n}.", "rejected": "No idea."} for n in range(8)]
    (workspace / "datasets" / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    run = train(workspace, *LORA, "task=reward", "data=pairs.jsonl", "model.quantisation=nf4", "method.init=loftq",
                "optim.learning_rate=1e-2")  # fmt: skip
    done("export", workspace, f"tuned={run.id}", "dtype=fp32", "to=judge")
    asked = [[{"role": "user", "content": "What is 3?"}, {"role": "assistant", "content": f"It is {n}."}]
             for n in range(4)]  # fmt: skip
    found = [Scorer.of(ref, workspace, torch.device("cpu"), dtype="fp32").scores(asked)
             for ref in (run.id, "exports/judge")]  # fmt: skip
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("form", ["int8", "nf4"])
@pytest.mark.parametrize("other", [["method=oft"], ["method=ia3"], ["method=prefix"], ["method=tuner"]], ids=" ".join)
def test_other_adapters_share_a_quantised_base_with_it(
    tiny_model: Path, tmp_path: Path, form: str, other: list[str]
) -> None:
    from engine.models.attached import attached
    from engine.models.model import with_adapter
    from engine.tuning import methods

    folders = {}
    for name, said in (("lora", LORA), ("other", other)):
        args: Any = text.parse({}, ["model=tiny", "data=x", *said, f"model.quantisation={form}"], kind="train")
        model = methods.prepared(loaded(tiny_model, form), args).train()
        moved = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimiser = torch.optim.Adam(moved, lr=1e-2)
        for _ in range(2):
            model(input_ids=IDS, labels=IDS).loss.backward()
            optimiser.step()
        model.save_pretrained(tmp_path / name)
        folders[name] = tmp_path / name
    speakers = attached(loaded(tiny_model, form), folders, tiny_model)
    for name in ("other", "lora", "", "other"):
        with speakers[name].speaking() as model:
            alone = loaded(tiny_model, form)
            assert torch.equal(says(model), says(with_adapter(alone, folders[name]).eval() if name else alone)), name


# What is refused


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (["method=full"], "model.quantisation: nf4 weights cannot be trained themselves, as full"),
        (["method=expand"], "as expand"),
        (["method=freeze"], "Choose lora there, or set model.quantisation to none"),
        (["method.init=pissa"], "method.init: pissa takes the weights in full precision apart"),
        (["method=tuner", "method.tuner=hra"], "cannot stand on nf4 weights"),
        (["method.dora=true", "model.quantisation=int8"], "method.dora: DoRA cannot stand on int8"),
        (["method.init=loftq", "model.quantisation=none"], "method.init: loftq mends what quantising"),
    ],
)
def test_what_quantised_weights_cannot_do_is_said_with_the_way_out(said: list[str], wanted: str) -> None:
    with pytest.raises(ArgsError, match=wanted):
        text.parse({}, ["model=tiny", "data=x", "model.quantisation=nf4", *said], kind="train")


def test_what_is_not_installed_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Here, "lacks", lambda self, package: package == "torchao")
    args: Any = text.parse({}, ["model=tiny", "data=x", "model.quantisation=torchao_int8"], kind="train")
    assert [problem.path for problem in unmet(args, Here("cpu"))] == ["model.quantisation"]
    assert "pip install torchao" in next(unmet(args, Here("cpu"))).text


# Checkpoints that are quantised as they lie


def stored(tiny_model: Path, folder: Path, method: str) -> Path:
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("method", "package"),
    [("gptq", "gptqmodel"), ("awq", "gptqmodel"), ("aqlm", "aqlm"), ("compressed-tensors", "compressed-tensors")],
)
def test_a_quantised_checkpoint_names_what_reads_it(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, package: str
) -> None:
    from engine.models import quantised

    monkeypatch.setattr(quantised, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=rf"is quantised \({method}\).*pip install {package}"):
        loaded(stored(tiny_model, tmp_path / "held", method))


def test_a_quantised_checkpoint_is_refused_before_the_run_where_it_cannot_be_trained(
    workspace: Path, tiny_model: Path
) -> None:
    from data.checking import preflight

    stored(tiny_model, workspace / "models" / "held", "gptq")
    said = ["model=held", "data=sums.jsonl", "method=full", "model.quantisation=none"]
    args: Any = text.parse({}, said, kind="train")
    found = [
        problem for problem in preflight.problems(args, workspace) if problem.path in ("model.path", "method.kind")
    ]
    assert any("pip install gptqmodel" in problem.text for problem in found)
    assert any("gptq" in problem.text and "Choose lora" in problem.text for problem in found)
    twice: Any = text.parse({}, ["model=held", "data=sums.jsonl", "model.quantisation=nf4"], kind="train")
    paths = {problem.path for problem in preflight.problems(twice, workspace)}
    assert "model.quantisation" in paths


def test_a_checkpoint_that_bitsandbytes_wrote_is_trained_on_and_never_merged_into(
    workspace: Path, tiny_model: Path
) -> None:
    from transformers import AutoTokenizer

    folder = workspace / "models" / "held"
    loaded(tiny_model, "nf4").save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    run = train(workspace, "model=held", *LORA)
    assert weights(run.model_path)
    with pytest.raises(ModelError, match=r"held is quantised \(bitsandbytes\): merging into it would lose most"):
        done("export", workspace, f"tuned={run.id}")
    done("export", workspace, f"tuned={run.id}", "form=adapter", "to=alone")
    assert (workspace / "exports" / "alone" / "adapter_model.safetensors").is_file()
