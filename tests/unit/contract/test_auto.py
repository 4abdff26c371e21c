"""What `auto` comes to: the same for the form, the args file and the worker."""

from __future__ import annotations

from typing import Any

import pytest

from engine.contract import text
from engine.contract.args import TrainArgs
from engine.contract.auto import Facts, resolved, total_steps
from engine.contract.fields import walk
from engine.contract.machine import Machine

CPU = Machine("cpu", "CPU, 2 cores", 2, bf16=False)
CPU_BF16 = Machine("cpu", "CPU, 2 cores", 2, bf16=True)
GPU = Machine("cuda", "A GPU", 8, bf16=True)
SMALL, LARGE = 135_000_000, 8_000_000_000


def settled(*overrides: str, machine: Machine = CPU, parameters: int = SMALL, rows: int = 100) -> Any:
    args = text.parse({}, overrides, kind="train")
    return resolved(args, Facts(machine, parameters, rows))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("overrides", "parameters", "rate"),
    [([], SMALL, 5e-4), ([], LARGE, 2e-4), (["method=full"], SMALL, 1e-4), (["method=freeze"], LARGE, 1e-5),
     (["optim.learning_rate=0.3"], SMALL, 0.3), ([], 0, "auto")],
)  # fmt: skip
def test_the_learning_rate_follows_method_and_size(overrides: list[str], parameters: int, rate: Any) -> None:
    assert settled(*overrides, parameters=parameters).optim.learning_rate == rate


@pytest.mark.parametrize(
    ("machine", "said", "dtype"),
    [(CPU, "auto", "fp32"), (CPU_BF16, "auto", "bf16"), (GPU, "auto", "auto"), (CPU_BF16, "fp32", "fp32")],
)
def test_the_precision_is_decided_where_it_can_be_known(machine: Machine, said: str, dtype: str) -> None:
    assert settled(f"model.dtype={said}", machine=machine).model.dtype == dtype


@pytest.mark.parametrize(
    ("overrides", "accumulation", "global_batch"),
    [
        ([], 1, 4),
        (["steps.batch_size=1"], 4, 4),
        (["steps.batch_size=8"], 1, 8),
        (["steps.batch_size=2", "steps.accumulation=3"], 3, 6),
        (["steps.batch_size=2", "steps.global_batch=16"], 8, 16),
        (["steps.batch_size=2", "steps.accumulation=4", "steps.global_batch=8"], 4, 8),
    ],
)
def test_accumulation_and_global_batch_follow_each_other(
    overrides: list[str], accumulation: int, global_batch: int
) -> None:
    steps = settled(*overrides).steps
    assert (steps.accumulation, steps.global_batch) == (accumulation, global_batch)


@pytest.mark.parametrize(
    ("overrides", "rows", "steps"),
    [
        (["steps.epochs=1"], 100, 25),
        (["steps.epochs=3"], 101, 78),  # 26 batches an epoch: the last one is small, and counts
        (["steps.epochs=0.5"], 100, 13),
        (["steps.batch_size=1", "steps.accumulation=8", "steps.epochs=1"], 20, 3),
        (["steps.max_steps=7"], 100, 7),
        ([], 0, 0),
    ],
)
def test_steps_are_counted_as_the_trainer_counts_them(overrides: list[str], rows: int, steps: int) -> None:
    args: Any = text.parse({}, overrides, kind="train")
    assert total_steps(args, Facts(CPU, SMALL, rows)) == steps


def test_a_run_is_measured_ten_times_and_saved_four_times() -> None:
    record = settled("steps.max_steps=100").record
    assert (record.evaluate_every, record.save_every) == (10, 25)
    short = settled("steps.max_steps=3").record
    assert (short.evaluate_every, short.save_every) == (1, 1)
    unknown = settled(rows=0).record
    assert (unknown.evaluate_every, unknown.save_every) == ("auto", "auto")


@pytest.mark.parametrize(("parameters", "on"), [(SMALL, False), (LARGE, True), (0, "auto")])
def test_activation_checkpointing_is_on_for_large_models(parameters: int, on: Any) -> None:
    assert settled(parameters=parameters).compute.checkpointing is on or on == "auto"


def test_alpha_is_twice_the_rank_and_absent_without_an_adapter() -> None:
    assert settled("method.rank=8").method.alpha == 16
    assert settled("method.rank=8", "method.alpha=3").method.alpha == 3
    assert not hasattr(settled("method=full").method, "alpha")


def test_what_the_user_said_is_never_changed() -> None:
    said = ["optim.learning_rate=0.01", "model.dtype=bf16", "record.save_every=9", "record.evaluate_every=8",
            "compute.checkpointing=true", "data.workers=3", "steps.accumulation=5"]  # fmt: skip
    before: Any = text.parse({}, said, kind="train")
    after = settled(*said, parameters=LARGE)
    for spec in walk(TrainArgs):
        value = text.at(before.model_dump(), spec.path)
        assert value in ("auto", text.at(after.model_dump(), spec.path)), spec.path


def test_resolving_twice_changes_nothing() -> None:
    once = settled(machine=GPU)
    assert resolved(once, Facts(CPU_BF16, LARGE, 7)) == once.model_copy(
        update={"model": once.model.model_copy(update={"dtype": "bf16"})}
    )


def test_only_what_the_worker_must_find_out_stays_auto_when_all_is_known() -> None:
    content = settled().model_dump()
    left = {spec.path for spec in walk(TrainArgs) if text.at(content, spec.path) == "auto"}
    assert left == {
        "model.template", "model.attention", "compute.device", "compute.padding_free", "compute.loss", "data.workers",
        "vision.max_pixels", "vision.min_pixels",
    }  # fmt: skip


def test_the_largest_global_batch_is_added_up_from_single_rows() -> None:
    assert settled("steps.batch_size=1", "steps.global_batch=1048576").steps.accumulation == 1_048_576
