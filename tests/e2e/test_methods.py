"""Methods against what they promise: what moves and what stands still, where they start, and what merging gives."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from data.checking import preflight
from engine.contract import text
from engine.contract.errors import ArgsError, BoardError
from engine.contract.tuners import TUNERS
from engine.tuning.starts import Start
from tests.e2e.training import TINY, losses, train, weights

IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 30, 40]])
CPU = torch.device("cpu")
LORA = ["method.rank=4", "method.alpha=8"]
SMALL = {
    "fourierft": "n_frequency=50", "miss": "r=8", "psoft": "r=4", "shira": "r=4", "vblora": "vector_length=8",
    "waveft": "n_frequency=50",
}  # fmt: skip
TUNED = {
    name: ["method=tuner", f"method.tuner={name}", *([f"method.own.{SMALL[name]}"] if name in SMALL else [])]
    for name in TUNERS
}
MERGING = {
    "lora": LORA, "dora": [*LORA, "method.dora=true"], "rslora": [*LORA, "method.rslora=true"],
    "pissa": [*LORA, "method.init=pissa"], "olora": [*LORA, "method.init=olora"],
    "chosen": [*LORA, "method.targets=[q_proj, down_proj]"], "repeated": [*LORA, "method.replicate=[0-1, 1-1]"],
    "embeddings": [*LORA, "method.extra_modules=[embed_tokens]"], "oft": ["method=oft", "method.block_size=8"],
    "ia3": ["method=ia3"], **TUNED,
}  # fmt: skip
QUICK = [*list(MERGING)[: -len(TUNED)], "vera", "boft", "lokr", "ln_tuning"]
EACH = [
    pytest.param(said, id=name, marks=() if name in QUICK else pytest.mark.slow) for name, said in MERGING.items()
]  # fmt: skip


def loaded(folder: Path, **more: Any) -> Any:
    from engine.models.model import model_of

    return model_of(folder, dtype=torch.float32, device=CPU, **more)


def args_of(*said: str) -> Any:
    return text.parse({}, ["model=tiny", "data=x", *said], kind="train")


def prepared(folder: Path, *said: str, start: Start | None = None) -> Any:
    from engine.tuning import methods

    torch.manual_seed(7)
    return methods.prepared(loaded(folder), args_of(*said), start or Start(steps=10)).eval()


def shaken(model: Any) -> Any:
    """`model` as if it had learnt: its trained weights moved along a gradient, as far as an optimiser would."""
    model.train()
    moved = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(moved, lr=1e-2)
    for _ in range(2):
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return model.eval()


@torch.no_grad()
def says(model: Any) -> torch.Tensor:
    return model(input_ids=IDS).logits  # type: ignore[no-any-return]


# Where they start


@pytest.mark.parametrize("said", [*EACH, pytest.param(["method=expand", "method.layers=1"], id="expand")])
def test_training_starts_from_what_the_base_says(tiny_model: Path, said: list[str]) -> None:
    if "method.replicate=[0-1, 1-1]" in said:
        pytest.skip("a deeper model says something else")
    allowed = 5e-3 if said[-1].endswith(("unilora", "vector_length=8")) else 1e-6  # these two start a little off
    assert (says(prepared(tiny_model, *said)) - says(loaded(tiny_model))).abs().max() < allowed


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_the_half_that_moves_is_the_one_that_peft_takes_out_of_the_weights(tiny_model: Path, init: str) -> None:
    from peft import LoraConfig, get_peft_model

    ours = dict(prepared(tiny_model, *LORA, f"method.init={init}").named_parameters())
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=init, task_type="CAUSAL_LM")
    theirs = get_peft_model(loaded(tiny_model), config)
    for name, module in theirs.named_modules():
        if hasattr(module, "lora_A"):
            down, up = (ours[f"{name}.lora_{side}.default.weight"] for side in "AB")
            added = 2.0 * up[:, :4] @ down[:4]  # alpha / rank = 2
            torch.testing.assert_close(added, module.get_delta_weight("default"), atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(up[:, 4:] @ down[4:], -up[:, :4] @ down[:4], atol=1e-6, rtol=0)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_the_half_that_stands_still_does_so_and_the_adapter_fits_the_untouched_base(
    workspace: Path, tiny_model: Path, init: str
) -> None:
    from engine.models.model import with_adapter

    said = [*LORA, f"method.init={init}"]
    run = train(workspace, *said, "optim.learning_rate=1e-2", "record.save_every=2")
    start = {name: one.detach() for name, one in prepared(tiny_model, *said).named_parameters() if "lora_" in name}
    for folder in (run.model_path, run.checkpoints_path / "step-2"):
        kept = weights(folder)
        for name, tensor in kept.items():
            before = start[name.replace(".weight", ".default.weight")]
            still = slice(4, None) if "lora_A" in name else (..., slice(4, None))
            moving = slice(0, 4) if "lora_A" in name else (..., slice(0, 4))
            torch.testing.assert_close(tensor[still], before[still], atol=1e-6, rtol=0)
            assert not torch.equal(tensor[moving], before[moving])
        assert json.loads((folder / "adapter_config.json").read_text())["init_lora_weights"] is True
    again = with_adapter(loaded(tiny_model), run.model_path)
    assert (says(again) - says(loaded(tiny_model))).abs().max() > 1e-3


def test_eva_starts_in_the_strongest_directions_of_the_rows(tiny_model: Path) -> None:
    batch = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    model = prepared(tiny_model, *LORA, "method.init=eva", start=Start(batches=lambda: [batch] * 3))
    seen: dict[str, torch.Tensor] = {}
    base = loaded(tiny_model)
    layer = base.model.layers[0].self_attn.q_proj
    layer.register_forward_pre_hook(lambda module, given: seen.setdefault("x", given[0].detach()[0]))
    says(base)
    _, _, directions = torch.linalg.svd(seen["x"], full_matrices=False)
    down = dict(model.named_parameters())["base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"]
    alike = (torch.nn.functional.normalize(down, dim=1) * directions[:4]).sum(1).abs()
    assert (alike[:2] > 0.9).all(), alike  # the strongest; weaker ones depend on how the decomposition is gathered
    assert (says(model) - says(loaded(tiny_model))).abs().max() < 1e-6


def test_eva_is_told_of_batches_that_hold_no_rows(tiny_model: Path) -> None:
    few = {"input_ids": torch.ones(1, 3, dtype=torch.long), "attention_mask": torch.ones(1, 3)}
    for batch, said in (({"prompt": "x"}, "eva reads batches of rows"), (few, "No batch has 4 tokens")):
        with pytest.raises(ArgsError, match=said):
            prepared(tiny_model, *LORA, "method.init=eva", start=Start(batches=[batch].copy))


# LoRA+


def test_the_second_matrix_learns_faster_by_the_ratio_and_nothing_else_does(tiny_model: Path) -> None:
    from transformers import TrainingArguments

    from engine.tuning import optimisers

    said = [*LORA, "method.lr_ratio=8", "optim.learning_rate=1e-3", "method.extra_modules=[norm]"]
    model = prepared(tiny_model, *said)
    config = TrainingArguments(output_dir=str(tiny_model), learning_rate=1e-3, report_to=[], use_cpu=True)
    rates = {}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in optimisers.made(model, args_of(*said), config).param_groups:
        rates |= {names[id(parameter)]: group["lr"] for parameter in group["params"]}
    assert rates.keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, rate in rates.items():
        assert rate == pytest.approx(8e-3 if "lora_B" in name else 1e-3), name


# What moves


@pytest.mark.parametrize(
    "said", [["method=oft"], ["method=ia3"], ["method=prompt"], ["method=prefix"], TUNED["vera"]], ids=" ".join
)
def test_an_adapter_moves_and_its_base_stands_still(workspace: Path, tiny_model: Path, said: list[str]) -> None:
    from engine.models.model import with_adapter

    run = train(workspace, *said, "optim.learning_rate=1e-2", "data.split=80/20/0", "steps.max_steps=3")
    tuned = with_adapter(loaded(tiny_model), run.model_path)
    assert (says(tuned) - says(loaded(tiny_model))).abs().max() > 1e-4
    base, kept = loaded(tiny_model).state_dict(), tuned.get_base_model().state_dict()
    found = {name.replace(".base_layer", ""): tensor for name, tensor in kept.items()}
    assert all(torch.equal(tensor, found[name]) for name, tensor in base.items())
    assert losses(run, "eval/loss")[-1] != losses(run, "eval/loss")[0]


@pytest.mark.parametrize(
    ("said", "moved"),
    [
        (["method.layers=1", "method.which=first"], {".layers.0."}),
        (["method.layers=0", "method.modules=['*.mlp.*']"], {".mlp."}),
        (["method.layers=0", "method.modules=[model.norm]"], {"model.norm."}),
        (["method.layers=1", "method.embeddings=true"], {".layers.1.", "embed_tokens"}),
    ],
    ids=str,
)
def test_freeze_moves_what_was_chosen_and_nothing_else(workspace: Path, said: list[str], moved: set[str]) -> None:
    run = train(workspace, "method=freeze", *said)
    before, after = weights(workspace / "models" / "tiny"), weights(run.model_path)
    found = {name for name in before if not torch.equal(before[name], after[name])}
    assert found == {name for name in before if any(part in name for part in moved)}


def test_a_pattern_that_no_weight_has_is_refused_with_some_that_are_there(tiny_model: Path) -> None:
    with pytest.raises(ArgsError, match=r"method.modules.*No weight is called '\*.attention'.*model\.embed_tokens"):
        prepared(tiny_model, "method=freeze", "method.modules=['*.attention']")


def test_new_layers_move_alone_and_the_result_is_a_larger_model(workspace: Path) -> None:
    run = train(workspace, "method=expand", "method.layers=1")
    before, after = weights(workspace / "models" / "tiny"), weights(run.model_path)
    assert json.loads((run.model_path / "config.json").read_text())["num_hidden_layers"] == 3
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    new = {name: tensor for name, tensor in after.items() if name not in before}
    assert {name.split(".")[2] for name in new} == {"2"}
    assert new["model.layers.2.mlp.down_proj.weight"].abs().max() > 0  # zero at the start
    assert losses(run)[-1] < losses(run)[0]


def test_new_layers_go_between_the_others_and_lists_of_layers_grow_with_them(tmp_path: Path) -> None:
    from engine.tuning.expand import expanded
    from tests import tiny

    model = loaded(tiny.model_folder(tmp_path / "tiny", layers=4))
    model.config.per_layer = [1, 2, 3, 4]
    first = list(model.model.layers)
    before = says(model)
    new = expanded(model, model.model.layers, 2)
    assert [layer in first for layer in model.model.layers] == [True, True, False, True, True, False]
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == list(range(6))
    assert model.config.per_layer == [1, 2, 2, 3, 4, 4]
    assert len(new) == 2 and torch.equal(says(model), before)


def test_layers_that_do_not_end_as_known_are_refused(tiny_model: Path) -> None:
    from engine.tuning.expand import expanded

    model = loaded(tiny_model)
    for layer in model.model.layers:  # a family whose layers add something more
        layer.register_forward_hook(lambda module, given, said: said + 1)
    with pytest.raises(ArgsError, match="cannot be added to models of this family"):
        expanded(model, model.model.layers, 1)


# Going on from another adapter


def test_an_adapter_goes_on_where_it_was(workspace: Path) -> None:
    first = train(workspace, *LORA, "optim.learning_rate=1e-2")
    again = train(workspace, *LORA, f"method.start_from={first.id}", "steps.max_steps=1", "steps.batch_size=12")
    fresh = train(workspace, *LORA, "steps.max_steps=1", "steps.batch_size=12")
    assert losses(again)[0] < losses(fresh)[0] - 0.01
    assert weights(again.model_path).keys() == weights(first.model_path).keys()


def test_an_adapter_of_another_size_is_refused_with_its_own(workspace: Path) -> None:
    first = train(workspace, *LORA)
    with pytest.raises(ArgsError) as caught:
        train(workspace, "method.rank=8", f"method.start_from={first.id}", "method.alpha=8", "method.dora=true")
    assert {problem.path for problem in caught.value.problems} == {"method.rank", "method.dora"}
    assert "has 4. Set it to that" in str(caught.value)


def test_what_is_no_adapter_of_this_model_is_refused(workspace: Path) -> None:
    from tests import tiny

    tiny.model_folder(workspace / "models" / "other", seed=3)
    first = train(workspace, *LORA)
    with pytest.raises(BoardError, match="was trained from tiny, not from other"):
        train(workspace, "model=other", *LORA, f"method.start_from={first.id}")
    with pytest.raises(BoardError, match="is no adapter"):
        train(workspace, *LORA, "method.start_from=tiny")


@pytest.mark.parametrize(("first", "then", "why"), [
    (["method=ia3"], [], "is no LoRA adapter .IA3.. Choose one that is"),
    ([*LORA, "method.dora=true"], ["method.on_top=true"], "more than a plain LoRA adapter.* Turn method.on_top off"),
])  # fmt: skip
def test_check_knows_from_its_files_what_cannot_be_gone_on_from(
    workspace: Path, first: list[str], then: list[str], why: str
) -> None:
    made = train(workspace, *first, "steps.max_steps=1")
    args = text.parse({}, [*TINY, *LORA, *then, f"method.start_from={made.id}"], kind="train")
    [problem] = preflight.problems(args, workspace)
    assert problem.path == "method.start_from" and re.search(why, problem.text)


def test_a_new_adapter_on_top_leaves_the_first_as_it_was_and_is_saved_with_it(workspace: Path) -> None:
    from engine.models.model import with_adapter

    tiny = workspace / "models" / "tiny"
    first = train(workspace, *LORA, "optim.learning_rate=1e-2")
    said = ["method.rank=2", "method.alpha=16", f"method.start_from={first.id}", "method.on_top=true"]
    start = prepared(tiny, *said, start=Start(folder=first.model_path))
    assert (says(start) - says(with_adapter(loaded(tiny), first.model_path))).abs().max() < 1e-6
    second = train(workspace, *said, "optim.learning_rate=1e-2")
    old, new = weights(first.model_path), weights(second.model_path)
    for name in old:
        if "lora_A" in name:
            assert new[name].shape[0] == 6 and torch.equal(new[name][2:], old[name])
        else:  # scaled by 8 rather than by 2
            torch.testing.assert_close(new[name][:, 2:] * 4, old[name], atol=1e-6, rtol=0)
            assert new[name][:, :2].abs().max() > 0


# AdaLoRA


def test_rank_goes_to_its_budget_and_what_has_lost_it_stays_without(workspace: Path) -> None:
    said = ["method=tuner", "method.tuner=adalora", "method.own={init_r: 4, target_r: 2}", "optim.learning_rate=1e-2",
            "steps.max_steps=12", "record.save_every=10", "record.keep=5"]  # fmt: skip
    run = train(workspace, *said)
    for folder in (run.checkpoints_path / "step-10", run.model_path):
        scales = torch.cat([tensor.flatten() for name, tensor in weights(folder).items() if "lora_E" in name])
        assert len(scales) == 14 * 4
        assert int((scales != 0).sum()) == 14 * 2
    again = train(workspace, *said, f"resume.run={run.id}", "resume.checkpoint=step-10")
    assert losses(again) == losses(run)[10:]


def test_a_resumed_run_gives_rank_by_the_averages_of_all_its_steps(workspace: Path) -> None:
    said = ["method=tuner", "method.tuner=adalora", "method.own={init_r: 4, target_r: 2}", "optim.learning_rate=1e-2",
            "steps.max_steps=12", "record.save_every=3", "record.keep=9"]  # fmt: skip
    run = train(workspace, *said)
    again = train(workspace, *said, f"resume.run={run.id}", "resume.checkpoint=step-3")
    for folder in ("checkpoints/step-6", "model"):
        whole, resumed = weights(run.path / folder), weights(again.path / folder)
        assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items()), folder
    averages = [weights(one.checkpoints_path / "step-6" / "budget") for one in (run, again)]
    assert averages[0] and all(torch.equal(tensor, averages[1][name]) for name, tensor in averages[0].items())


def test_its_directions_are_kept_apart_by_the_papers_term(tiny_model: Path) -> None:
    from engine.tuning.methods import callbacks

    said = ["method=tuner", "method.tuner=adalora", "method.own={init_r: 4, target_r: 2, orth_reg_weight: 0.7}"]
    model = prepared(tiny_model, *said)
    [budget] = callbacks(model)
    budget.on_pre_optimizer_step(None, None, None)
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    outputs = model.train()(input_ids=IDS, labels=IDS)
    plain = model.get_base_model()(input_ids=IDS, labels=IDS)
    one = outputs.loss - plain.loss  # PEFT's own term, which it adds to a loss that the model computes
    one.backward()
    assert found and one > 0
    for name, gradient in found.items():
        torch.testing.assert_close(dict(model.named_parameters())[name].grad, gradient, atol=1e-5, rtol=1e-4)


# What is said


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (["method.on_top=true"], "method.on_top: There is nothing to train on top of"),
        (["method.start_from=x", "method.init=pissa"], "method.init: .*both say where the adapter starts"),
        (["method.replicate=[5-2]"], "'5-2' is no range of layers. Write it as 0-15"),
        (["method=freeze", "method.layers=0"], "Nothing would be trained"),
        (["method=tuner", "method.own={rank: 3}"], "vera has no setting 'rank'. It has r, vera_dropout"),
        (["method=tuner", "method.own={d_initail: 1}"], "Did you mean d_initial"),
        (["method=tuner", "method.own={r: 2.5}"], "2.5 is not a whole number from 1 to 1024"),
        (["method=tuner", "method.own={r: 0}"], "0 is out of range"),
        (["method=tuner", "method.tuner=adalora", "method.own.init_r=8"], "it must start with more"),
        (["method=ia3", "method.targets=[k_proj]", "method.feedforward=[up_proj]"], "up_proj is not among"),
        (["method=ia3", "method.feedforward=[up_proj]"], "Name those too"),
        (["method.init=pissa", "optim.weight_decay=0.1"], "optim.weight_decay: Weight decay would pull"),
        (["method=prompt", "data.packing=true"], "Packed rows would share one learnt prompt"),
        (["method=prefix", "compute.checkpointing=true"], "Turn checkpointing off"),
        (["method=prompt", "task=reward"], "does not reach the score"),
        (["method.init=eva", "task=grpo", "task.rewards.functions={length: 1}"], "writes its own"),
        (["method.init=eva", "task=pretrain"], "they share sequences"),
        (["method.init=eva", "data.packing=true"], "they share sequences"),
    ],
)
def test_what_cannot_be_is_said_with_the_way_out(said: list[str], wanted: str) -> None:
    with pytest.raises(ArgsError, match=wanted):
        args_of(*said)


@pytest.mark.parametrize(
    ("targets", "inputs"),
    [("v_proj", set()), ("v_proj, mlp.down_proj", {"mlp.down_proj"}), ("all-linear", {"down_proj"})],
)
def test_factors_scale_the_inputs_of_those_targets_that_end_the_feed_forward(
    tiny_model: Path, targets: str, inputs: set[str]
) -> None:
    model = prepared(tiny_model, "method=ia3", f"method.targets=[{targets}]")
    assert set(model.peft_config["default"].feedforward_modules) == inputs


def test_layers_that_are_not_there_are_named_with_those_that_are(tiny_model: Path) -> None:
    with pytest.raises(ArgsError, match="no range goes beyond"):
        prepared(tiny_model, *LORA, "method.replicate=[0-7]")
    with pytest.raises(ArgsError, match="no module called embed. It has .*embed_tokens"):
        prepared(tiny_model, *LORA, "method.extra_modules=[embed]")
    with pytest.raises(ArgsError, match="no norm called q_proj. It has input_layernorm"):
        prepared(tiny_model, "method=tuner", "method.tuner=ln_tuning", "method.targets=[q_proj]")
    with pytest.raises(ArgsError, match="method.own.*This model cannot take the adapter"):
        prepared(tiny_model, "method=tuner", "method.tuner=c3a", "method.own.block_size=7")
