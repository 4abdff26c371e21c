"""Our names for other libraries' settings exist in the versions that are installed."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from typing import Any

import pytest

from engine.contract import text
from engine.contract.adapters import Lora
from engine.contract.args import TrainArgs
from engine.contract.errors import ArgsError
from engine.contract.fields import Spec, walk
from engine.contract.imitation import Sft
from engine.contract.tuners import TUNERS
from engine.upstream import MANAGED, extra, settings

SENT = [spec for spec in walk(TrainArgs) if spec.to]


def fields(config: type) -> set[str]:
    return {field.name for field in dataclasses.fields(config)}


@pytest.fixture(scope="module")
def known() -> dict[str, set[str]]:
    """The names that each upstream configuration takes; `trainer` by itself those that all tasks' trainers take."""
    import peft

    from engine.models import model
    from engine.recipes.run import RECIPES
    from engine.tuning import adapters

    tasks = {kind: fields(importlib.import_module(module).Config) for kind, module in RECIPES.items()}
    ours = (model.folder_of, model.model_of, model.tokenizer_of)
    return {
        "trainer": set.intersection(*tasks.values()),
        **{f"trainer of {kind}": found for kind, found in tasks.items()},
        **{f"peft of {kind}": fields(getattr(peft, config)) for kind, config in adapters.CONFIGS.items()},
        "peft of tuner": set.intersection(*(fields(getattr(peft, one.config)) for one in TUNERS.values())),
        "model": {name for function in ours for name in inspect.signature(function).parameters},
    }


@pytest.mark.parametrize("spec", SENT, ids=lambda spec: spec.path)
def test_every_name_that_is_sent_upstream_exists_there(spec: Spec, known: dict[str, set[str]]) -> None:
    config, _, name = spec.to.partition(".")
    assert name in known[f"{config} of {spec.variant}" if spec.variant else config], spec.to


@pytest.mark.parametrize("name", TUNERS)
def test_every_own_setting_of_an_adapter_exists_upstream(name: str) -> None:
    import peft

    assert set(TUNERS[name].own) | set(TUNERS[name].fixed) <= fields(getattr(peft, TUNERS[name].config))


def test_no_two_arguments_go_to_the_same_setting() -> None:
    goals = [(spec.to, spec.variant) for spec in SENT]
    assert len(goals) == len(set(goals))


def test_what_the_board_manages_exists_and_is_not_an_argument_too(known: dict[str, set[str]]) -> None:
    assert known["trainer of sft"] | known["trainer of dpo"] >= MANAGED
    assert {spec.to.partition(".")[2] for spec in SENT if spec.to.startswith("trainer.")} & MANAGED == set()


def test_every_choice_of_schedule_and_optimiser_exists_upstream() -> None:
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    choices = {spec.path: set(spec.choices) for spec in walk(TrainArgs)}
    assert choices["optim.schedule"] <= {kind.value for kind in SchedulerType}
    ours = {"muon", "adam_mini", "badam"}  # engine/tuning/optimisers.py makes them itself
    assert choices["optim.optimiser"] - ours <= {name.value for name in OptimizerNames}


def test_every_task_has_a_recipe_and_every_method_its_function() -> None:
    from engine.recipes.run import RECIPES
    from engine.tuning.methods import METHODS

    kinds = {spec.path: set(spec.choices) for spec in walk(TrainArgs) if spec.path.endswith(".kind")}
    assert kinds == {"task.kind": set(RECIPES), "method.kind": set(METHODS)}
    assert (Sft().kind, Lora().kind) == ("sft", "lora")


def test_every_loss_of_dpo_that_the_library_has_is_offered() -> None:
    import trl.trainer.dpo_trainer

    source = inspect.getsource(trl.trainer.dpo_trainer.DPOTrainer._compute_loss)
    known = set(re.findall(r'loss_type == "(\w+)"', source))
    offered = next(spec for spec in walk(TrainArgs) if (spec.path, spec.variant) == ("task.loss", "dpo")).choices
    assert known - set(offered) == {"sft", "sigmoid_norm"}  # task.sft_weight, and sigmoid with task.per_token
    assert set(offered) <= known


def test_settings_are_those_of_the_chosen_variant_by_their_upstream_names() -> None:
    args: Any = text.parse({}, ["method.rank=8", "method.dora=true", "optim.learning_rate=1e-3"], kind="train")
    assert settings(args, "peft") == {
        "r": 8, "lora_alpha": "auto", "lora_dropout": 0.0, "target_modules": ["all-linear"], "use_dora": True,
        "use_rslora": False,
    }  # fmt: skip
    assert settings(args, "trainer")["learning_rate"] == 1e-3
    full: Any = text.parse({}, ["method=full"], kind="train")
    assert settings(full, "peft") == {}


def test_further_settings_are_checked_against_the_trainers_own_names() -> None:
    from trl import SFTConfig

    assert extra({"adam_epsilon": 1e-6}, SFTConfig) == {"adam_epsilon": 1e-6}
    with pytest.raises(ArgsError) as caught:
        extra({"learnin_rate": 1, "output_dir": "x"}, SFTConfig)
    assert [problem.path for problem in caught.value.problems] == ["extra.learnin_rate", "extra.output_dir"]


def test_further_settings_cannot_override_what_has_a_field_of_its_own() -> None:
    from trl import SFTConfig

    given = {spec.to.partition(".")[2]: 1 for spec in SENT if spec.to.startswith("trainer.")}
    with pytest.raises(ArgsError) as caught:
        extra({**given, "max_steps": 1, "gradient_checkpointing": True}, SFTConfig)
    assert len(caught.value.problems) == len(given) + 2 > 10
