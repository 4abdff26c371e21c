"""Every optimiser and schedule trains: what it should move moves, its state resumes, what it needs is said."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from data.checking import preflight
from engine.contract import rundir, text
from engine.contract.errors import ArgsError
from engine.contract.needs import _installed
from engine.contract.rundir import Run
from engine.contract.solvers import BY_MEASURE, SCHEDULES, SOLVERS
from engine.report import Stop, Stopped
from engine.tuning import optimisers
from engine.tuning.solvers import AdamMini, BlockAdamW
from tests.e2e.training import TINY, losses, train, weights

SLOW_TO_START = {"schedule_free_radam": 8}  # steps, while it knows too little of the gradients' sizes
ELSEWHERE = {"adamw_torch_xla", "adamw_torch_npu_fused", "adamw_anyprecision"}  # devices and packages of other machines
HERE = [name for name, solver in SOLVERS.items() if name not in ELSEWHERE and solver.device in ("", "cpu")]


def needs(name: str) -> None:
    solver = SOLVERS[name]
    if solver.package and not _installed(solver.package):
        pytest.skip(f"{name} needs: {solver.install}")


def moved(run: Any, workspace: Path) -> set[str]:
    before, after = weights(workspace / "models" / "tiny"), weights(run.model_path)
    return {name for name in before if not torch.equal(before[name], after[name].float())}


def small_words(name: str) -> list[str]:
    """What a tiny model and few steps need with this optimiser."""
    if name.startswith(("galore", "apollo")):
        return ["optim.own={rank: 4, update_proj_gap: 100}"]
    if name.startswith("schedule_free"):
        return ["optim.schedule=constant"]
    return ["optim.own={switch_every: 1}"] if name == "badam" else []


@pytest.mark.parametrize("name", [name for name in HERE if name != "lomo"])  # whose backward pass is accelerate's
def test_every_optimiser_lowers_a_loss(tiny: Any, name: str) -> None:
    from transformers import TrainingArguments

    needs(name)
    model = tiny()
    words = ["method=full", f"optim.optimiser={name}", "steps.accumulation=1", *small_words(name)]
    args = text.parse({}, words, kind="train")
    config = TrainingArguments("unused", learning_rate=3e-3, use_cpu=True)
    optimiser = optimisers.made(model, args, config)
    if callable(getattr(optimiser, "train", None)):
        optimiser.train()
    ids = torch.arange(40)[None] % 30
    found = []
    for _ in range(12):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        found.append(loss.item())
    assert found[-1] < found[0] - 1e-4


@pytest.fixture
def tiny() -> Any:
    """A function that makes a language model of two small layers, the same each time."""
    from transformers import LlamaConfig, LlamaForCausalLM

    def make() -> Any:
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(
            vocab_size=30, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, tie_word_embeddings=True,
        ))  # fmt: skip

    return make


@pytest.mark.parametrize("name", ["schedule_free_adamw", "schedule_free_sgd"])
def test_no_step_is_made_at_more_than_the_peak(tiny: Any, name: str) -> None:
    """These have a warm-up of their own in whole steps, to which a share would be a rate twenty times as high."""
    from transformers import TrainingArguments

    needs(name)
    args = text.parse({}, ["method=full", f"optim.optimiser={name}", "optim.schedule=constant"], kind="train")
    model, config = (
        tiny(),
        TrainingArguments("unused", learning_rate=3e-3, warmup_steps=args.optim.warmup, use_cpu=True),
    )
    optimiser = optimisers.made(model, args, config)
    optimiser.train()  # type: ignore[attr-defined]
    model(input_ids=torch.arange(9)[None], labels=torch.arange(9)[None]).loss.backward()
    optimiser.step()
    assert config.warmup_steps == 0.05
    assert {group["scheduled_lr"] for group in optimiser.param_groups} == {3e-3}


@pytest.mark.parametrize(
    "words", [["cosine"], ["polynomial"], ["linear", "optim.min_learning_rate=1e-4"]], ids=" ".join
)
def test_a_run_of_one_step_learns_in_it(words: list[str]) -> None:
    assert next(rates := schedule(words[0], 1, *words[1:])) == pytest.approx(1e-3)
    assert next(rates) <= 1e-3


@pytest.mark.parametrize("name", ["galore_adamw_layerwise", "apollo_adamw_layerwise"])
def test_those_that_step_weight_by_weight_follow_the_schedule_and_the_groups(tiny: Any, name: str) -> None:
    from transformers import TrainingArguments

    needs(name)
    words = ["method=full", f"optim.optimiser={name}", "steps.accumulation=1", "optim.own={rank: 4}",
             "optim.layer_decay=0.5", "optim.weight_decay=0.1", "optim.schedule=linear", "optim.warmup=0"]  # fmt: skip
    args, model = text.parse({}, words, kind="train"), tiny()
    config = TrainingArguments("unused", learning_rate=1e-3, warmup_steps=0, use_cpu=True)
    optimiser = optimisers.made(model, args, config)
    plan = optimisers.schedule(optimiser, args, config, steps=2)
    names, rates = {id(weights): name for name, weights in model.named_parameters()}, []
    for _ in range(3):
        before = model.model.layers[0].self_attn.q_proj.weight.clone()
        model(input_ids=torch.arange(9)[None], labels=torch.arange(9)[None]).loss.backward()
        rates.append((before - model.model.layers[0].self_attn.q_proj.weight).abs().mean().item())
        optimiser.step()
        found = {names[id(one)]: (group["lr"], group["weight_decay"]) for group in optimiser.param_groups
                 for one in group["params"]}  # fmt: skip
        plan.step()
    assert rates[1] < 0.8 * rates[0] and rates[2] == 0  # the rate falls to a half, then to nothing
    assert {key: decay for key, (_, decay) in found.items() if decay} == {
        key: 0.1 for key in found if key.endswith("proj.weight")
    }
    fresh = optimisers.made(tiny(), args, config)
    assert {group["lr"] for group in fresh.param_groups} == {1e-3, 0.5e-3, 0.25e-3}


def test_an_optimiser_without_settings_has_those_that_are_told(tiny: Any) -> None:
    from transformers import TrainingArguments

    needs("stable_adamw")  # whose paper has another memory than Adam's
    args = text.parse({}, ["method=full", "optim.optimiser=stable_adamw"], kind="train")
    groups = optimisers.made(tiny(), args, TrainingArguments("unused", use_cpu=True)).param_groups
    for key, told in SOLVERS["stable_adamw"].own.items():
        assert {group[key] for group in groups} == {told.default}, key


@pytest.mark.slow
@pytest.mark.parametrize("name", HERE)
def test_every_optimiser_trains_two_steps_and_moves_the_weights(workspace: Path, name: str) -> None:
    needs(name)
    run = train(
        workspace, "method=full", f"optim.optimiser={name}", f"steps.max_steps={SLOW_TO_START.get(name, 3)}",
        "steps.accumulation=1",
        "optim.warmup=0", *small_words(name),
    )  # fmt: skip
    assert all(map(math.isfinite, losses(run)))
    found = moved(run, workspace)
    assert len(found) >= (6 if name == "badam" else 15), found


@pytest.mark.parametrize("name", ["adamw_8bit", "muon", "schedule_free_adamw"])
def test_adapters_are_trained_by_it_too(workspace: Path, name: str) -> None:
    needs(name)
    run = train(workspace, "method.rank=4", f"optim.optimiser={name}", "steps.max_steps=2", "optim.warmup=0",
                *small_words(name))  # fmt: skip
    changed = weights(run.model_path)
    assert all(bool(tensor.any()) for name, tensor in changed.items() if "lora_B" in name)


@pytest.mark.parametrize("name", ["muon", "badam", *(
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("adamw_torch", "adam_mini", "adafactor", "stable_adamw", "schedule_free_adamw", "galore_adamw",
                 "apollo_adamw", "adamw_8bit")
)])  # fmt: skip
def test_a_resumed_run_ends_as_an_uninterrupted_one(workspace: Path, name: str) -> None:
    needs(name)
    common = ["method=full", f"optim.optimiser={name}", "record.save_every=2", "steps.accumulation=1", "optim.warmup=0"]
    common += small_words(name)
    whole = train(workspace, *common)
    resumed = train(workspace, *common, f"resume.run={whole.id}", "resume.checkpoint=step-2")
    assert losses(resumed) == losses(whole)[2:]
    for key, tensor in weights(whole.model_path).items():
        assert torch.equal(tensor, weights(resumed.model_path)[key]), key


def test_a_resumed_run_learns_at_the_rate_that_it_is_given(workspace: Path) -> None:
    common = ["method.rank=4", "record.save_every=2", "optim.warmup=1"]
    whole = train(workspace, *common)
    slower = train(workspace, *common, f"resume.run={whole.id}", "resume.checkpoint=step-2", "optim.learning_rate=1e-4")
    rates = [losses(run, "train/learning_rate") for run in (whole, slower)]
    assert rates[1] == [pytest.approx(rate / 10, abs=1e-5) for rate in rates[0][2:]]


def test_a_stop_while_a_schedule_looks_at_the_rows_held_out_saves_and_ends(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.training.trainer import Recording

    stop, held_out = Stop(), Recording._held_out

    def stopped(self: Any, *given: Any) -> Any:
        for batch in held_out(self, *given):
            stop.asked = self.state.global_step == 2
            yield batch

    monkeypatch.setattr(Recording, "_held_out", stopped)
    with pytest.raises(Stopped):
        train(workspace, "method.rank=4", "optim.schedule=reduce_lr_on_plateau", "data.split=60/40/0",
              "record.evaluate_every=2", stop=stop)  # fmt: skip
    [run] = [Run(path) for path in (workspace / "runs").iterdir()]
    assert [folder.name for _, folder in run.checkpoints()][-1] == "step-3"


@pytest.mark.parametrize(
    "said",
    ["optim.optimiser=sgd", "optim.own={beta1: 0.8}", "optim.layer_decay=0.5", "optim.weight_decay=0.1",
     "optim.schedule=greedy", "model.quantisation=nf4", "task=pretrain"],
)  # fmt: skip
def test_what_the_state_of_an_optimiser_does_not_fit_is_refused_before_a_run_goes_on(
    workspace: Path, said: str
) -> None:
    parent = rundir.make(workspace, "parent", text.dump(text.parse({}, TINY, kind="train")))
    (parent.checkpoints_path / "step-2").mkdir(parents=True)
    held = ["data.split=80/20/0"] if "greedy" in said else []
    args = text.parse({}, [*TINY, f"resume.run={parent.id}", *held, said], kind="train")
    name = said.partition("=")[0].replace("task", "task.kind")
    assert name in {problem.path for problem in preflight.problems(args, workspace)}


@pytest.mark.parametrize("name", ["reduce_lr_on_plateau", "warmup_stable_decay", *(
    pytest.param(name, marks=pytest.mark.slow)
    for name in SCHEDULES if name not in ("reduce_lr_on_plateau", "warmup_stable_decay")
)])  # fmt: skip
def test_every_schedule_gives_rates_up_to_its_peak(workspace: Path, name: str) -> None:
    held = ["data.split=80/20/0", "record.evaluate_every=1"] if name in BY_MEASURE else []
    run = train(workspace, "method.rank=4", f"optim.schedule={name}", "optim.warmup=1", "steps.accumulation=1", *held)
    rates = losses(run, "train/learning_rate")
    assert len(rates) == 4 and 0 < max(rates) <= 1e-3 * 1.5


@pytest.mark.parametrize("name", ["linear", "cosine", "polynomial", "warmup_stable_decay", "cosine_with_min_lr"])
def test_the_rate_ends_at_the_lowest_one_that_is_asked_for(name: str) -> None:
    rates = list(schedule(name, 20, "optim.min_learning_rate=1e-4", "optim.warmup=2"))
    assert rates[-1] == pytest.approx(1e-4, rel=1e-6) and max(rates) == pytest.approx(1e-3)


def test_stable_rate_falls_in_the_last_share_of_the_steps() -> None:
    own = "optim.schedule_own={decay: 0.25, decay_type: linear}"
    rates = list(schedule("warmup_stable_decay", 40, own, "optim.warmup=4"))
    assert rates[4:31] == [pytest.approx(1e-3)] * 27
    assert rates[35] == pytest.approx(0.5e-3)


def schedule(name: str, steps: int, *words: str) -> Any:
    """The learning rate before each step, and after the last."""
    from transformers import TrainingArguments

    args = text.parse({}, [f"optim.schedule={name}", "optim.learning_rate=1e-3", *words], kind="train")
    config = TrainingArguments("unused", learning_rate=1e-3, warmup_steps=args.optim.warmup, use_cpu=True)
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-3)
    made = optimisers.schedule(optimiser, args, config, steps)
    for _ in range(steps + 1):
        yield optimiser.param_groups[0]["lr"]
        optimiser.step()
        made.step()


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.norm = nn.LayerNorm(4)


def rate_of(model: nn.Module, *words: str) -> dict[str, tuple[float, float]]:
    args = text.parse({}, ["method=full", *words], kind="train")
    found = optimisers.groups(model, args, 1e-3)
    return {name: (group["lr"], group["weight_decay"]) for group in found for name in group["names"]}


def test_biases_norms_and_embeddings_are_not_decayed() -> None:
    found = rate_of(Small(), "optim.weight_decay=0.1")
    decayed = {name for name, (_, decay) in found.items() if decay}
    assert decayed == {f"layers.{number}.weight" for number in range(3)}
    towers = nn.ModuleDict(
        {name: nn.LayerNorm(4) for name in ("norm1", "layer_norm2", "pre_layrnorm")}
    )  # as towers call them
    assert not any(decay for _, decay in rate_of(towers, "optim.weight_decay=0.1").values())


def test_early_layers_and_embeddings_learn_more_slowly_when_asked() -> None:
    wrapped = nn.ModuleDict({"model": Small()})
    found = rate_of(wrapped, "optim.layer_decay=0.5", "optim.embedding_rate=0.1")
    assert [found[f"model.layers.{number}.weight"][0] for number in range(3)] == pytest.approx([0.25e-3, 0.5e-3, 1e-3])
    assert found["model.embed.weight"][0] == pytest.approx(1e-3 * 0.1 * 0.125)


def test_a_head_on_the_model_is_none_of_its_layers() -> None:
    heads = nn.ModuleDict({"value": nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))})
    found = rate_of(nn.ModuleDict({"model": Small(), "heads": heads}), "optim.layer_decay=0.5")
    assert [found[f"heads.value.{number}.weight"][0] for number in (0, 2)] == [1e-3, 1e-3]
    names = ("heads.value.0.weight", "model.layers.0.weight", "model.norm.weight")
    made = BlockAdamW([{"params": [nn.Parameter(torch.ones(2)) for _ in names], "names": names, "lr": 0.1}], every=1,
                      order="ascending", seed=0)  # fmt: skip
    assert {block: len(held) for block, held in made.blocks.items()} == {-1: 2, 0: 1}


def test_adam_mini_on_single_weights_is_adamw() -> None:
    ours, theirs = (nn.Parameter(torch.arange(1.0, 5.0)) for _ in range(2))
    mini = AdamMini([{"params": [ours], "names": ("bias",), "lr": 0.1, "weight_decay": 0.1}], heads=2, lr=0.1,
                    betas=(0.9, 0.999), eps=1e-8)  # fmt: skip
    adam = torch.optim.AdamW([theirs], lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)
    for step in range(5):
        for weights_, optimiser in ((ours, mini), (theirs, adam)):
            weights_.grad = (weights_.detach() * (step + 1)).sin()
            optimiser.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_adam_mini_shares_one_size_among_a_row_and_among_a_head() -> None:
    row, head = nn.Parameter(torch.zeros(4, 3)), nn.Parameter(torch.zeros(4, 3))
    group = {"params": [row, head], "names": ("mlp.up", "q_proj.weight"), "lr": 1.0, "weight_decay": 0.0}
    mini = AdamMini([group], heads=2, lr=1.0, betas=(0.9, 0.999), eps=1e-8)
    grad = torch.arange(1.0, 13.0).view(4, 3)
    row.grad, head.grad = grad.clone(), grad.clone()
    mini.step()
    assert torch.allclose(row, -grad / grad.square().mean(1, keepdim=True).sqrt(), atol=1e-4)
    by_head = grad.square().view(2, 6).mean(1).repeat_interleave(2)[:, None].sqrt()
    assert torch.allclose(head, -grad / by_head, atol=1e-4)
    assert mini.state[row]["exp_avg_sq"].numel() == 4 and mini.state[head]["exp_avg_sq"].numel() == 2


def test_badam_trains_one_block_at_a_time_and_keeps_state_for_it_alone() -> None:
    model = nn.ModuleDict({"model": Small()})
    names, params = zip(*model.named_parameters(), strict=True)
    badam = BlockAdamW([{"params": list(params), "names": names}], every=2, order="ascending", seed=0, lr=0.1)
    seen = []
    for _ in range(8):
        before = {name: one.clone() for name, one in model.named_parameters()}
        open_now = {name for name, one in model.named_parameters() if one.requires_grad}
        sum(one.sum() for one in model.parameters() if one.requires_grad).backward()  # type: ignore[union-attr]
        badam.step()
        badam.zero_grad()
        assert {name for name, one in model.named_parameters() if not torch.equal(one, before[name])} == open_now
        assert len(badam.state) <= len(open_now)
        seen.append(frozenset(open_now))
    assert len(set(seen)) == 4 and seen[0::2] == seen[1::2]
    assert {name for block in seen for name in block} == set(names)


@pytest.mark.parametrize(("words", "said"), [
    (["optim.optimiser=galore_adamw"], "trains an adapter"),
    (["method=full", "optim.optimiser=lomo", "steps.accumulation=2"], "steps.accumulation to 1"),
    (["optim.optimiser=schedule_free_adamw"], "optim.schedule to constant"),
    (["method=full", "optim.optimiser=badam", "launch.processes=2"], "launch.processes to 1"),
    (["optim.own={beta3: 0.5}"], "has no setting 'beta3'"),
    (["optim.optimiser=muon", "optim.own={momentum: 3}"], "out of range"),
    (["optim.optimiser=sgd", "optim.own={nesterov: true}"], "Set momentum too"),
    (["optim.optimiser=rmsprop_bnb", "optim.own={centered: true}"], "has no setting 'centered'"),
    (["optim.optimiser=rmsprop_bnb_8bit", "optim.own={alpha: 0}"], "out of range"),
    (["optim.optimiser=schedule_free_sgd", "optim.schedule=constant", "optim.own={momentum: 0}"], "out of range"),
    (["method=full", "optim.optimiser=apollo_adamw", "optim.own={proj_type: left}"], "Set scale_type to tensor"),
    (["method=full", "optim.optimiser=lomo", "steps.accumulation=1", "optim.layer_decay=0.5"], "all weights alike"),
    (["optim.schedule=reduce_lr_on_plateau", "data.split=100/0/0"], "no row is held out"),
    (["optim.schedule=constant", "optim.min_learning_rate=1e-5"], "has no lowest rate"),
    (["optim.learning_rate=1e-5", "optim.min_learning_rate=1e-4"], "is not below the peak"),
    (["method=full", "optim.min_learning_rate=2e-5"], "may not be below the peak while that is auto"),
])  # fmt: skip
def test_what_does_not_go_together_is_said_before(words: list[str], said: str) -> None:
    with pytest.raises(ArgsError) as refused:
        text.parse({}, words, kind="train")
    assert said in str(refused.value)


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.contract.needs import Here, unmet

    monkeypatch.setattr(Here, "lacks", lambda self, package: package == "galore_torch")
    args = text.parse({}, ["method=full", "optim.optimiser=galore_adamw", "steps.accumulation=1"], kind="train")
    assert any("pip install galore-torch" in problem.text for problem in unmet(args, Here("cpu")))


def test_every_name_of_the_library_is_offered() -> None:
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    # This one cannot be made: transformers gives it a rate and leaves its relative steps on, which it refuses.
    offered = {one.value for one in OptimizerNames} - {"galore_adafactor_layerwise"}
    assert offered == set(SOLVERS) - {"muon", "adam_mini", "badam"}
    assert {one.value for one in SchedulerType} == set(SCHEDULES)
