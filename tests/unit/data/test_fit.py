"""Make it fit: what is proposed, in which order, and that it keeps the effective batch."""

from __future__ import annotations

from typing import Any

import pytest

from data.planning.fit import Fit, fitted
from data.planning.memory import memory
from data.planning.past import Measured
from data.planning.plan import Plan
from data.planning.shape import Shape, Subject
from engine.contract import auto, needs
from engine.contract.args import TrainArgs

LLAMA = Shape(hidden=4096, inner=14336, layers=32, heads=32, keys=8, head=128, vocabulary=128_000)
B8 = Subject(LLAMA, LLAMA.tensors(), 8_028_164_096)
GB = 10**9
USUAL = {
    "model": {"dtype": "bf16"}, "data": {"max_length": 8192}, "steps": {"batch_size": 4, "accumulation": 2},
    "compute": {"checkpointing": False, "device": "cuda"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def every_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with a GPU and every optional package."""
    monkeypatch.setattr(needs, "_installed", lambda package: True)


def plan(free: float, measured: Measured | None = None, **said: Any) -> Plan:
    args = TrainArgs.model_validate({**USUAL, **said})
    needed = memory(B8, args, longest=8192, device="cuda")
    return Plan(args, B8, 1, 8192, needed, free=round(free), total=80 * GB, measured=measured)


def rows_a_step(args: TrainArgs) -> int:
    return args.steps.batch_size * auto.accumulation_of(args)


def paths(fit: Fit) -> list[str]:
    return [path for change in fit.changes for path in change.put]


def test_what_fits_is_left_alone() -> None:
    fit = fitted(plan(10**13))
    assert fit.changes == () and fit.fits


def test_the_cheapest_change_comes_first_and_no_more_is_asked_than_is_needed() -> None:
    found = plan(60 * GB)
    assert not found.fits
    fit = fitted(found)
    assert fit.fits and paths(fit) == ["compute.checkpointing"]
    assert found.memory.total - fit.needed == pytest.approx(sum(change.saves for change in fit.changes), abs=2)


def test_all_methods_together_train_an_eight_billion_model_on_long_rows_in_ten_gigabytes() -> None:
    """Four rows of 8,192 tokens, none of them cut: some 890 GB where nothing is saved. A little room is left free."""
    fit = fitted(plan(10.5 * GB))
    assert fit.fits and fit.needed < 10 * GB
    assert {"compute.checkpointing", "steps.batch_size", "model.quantisation"} <= set(paths(fit))
    assert "data.max_length" not in paths(fit)
    assert rows_a_step(fit.args) == 8


@pytest.mark.parametrize("free", [120, 60, 30, 20, 12, 8, 4])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_step_learns_from_as_many_rows_as_before(free: int, method: str) -> None:
    fit = fitted(plan(free * GB, method=method))
    assert rows_a_step(fit.args) == 8
    assert fit.needed <= plan(free * GB, method=method).memory.total


def test_what_cannot_fit_says_so() -> None:
    fit = fitted(plan(1 * GB))
    assert not fit.fits and fit.changes


def test_a_measurement_corrects_the_arithmetic() -> None:
    estimated = plan(60 * GB, compute={"checkpointing": True, "device": "cuda"})
    assert fitted(estimated).changes == ()
    peak = Measured(peak=70 * GB)
    assert fitted(plan(60 * GB, peak, compute={"checkpointing": True, "device": "cuda"})).changes
    ran_out = Measured(out_of_memory=True)
    assert fitted(plan(60 * GB, ran_out, compute={"checkpointing": True, "device": "cuda"})).changes


def test_nothing_is_proposed_that_this_machine_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "_installed", lambda package: False)
    fit = fitted(plan(10 * GB))
    assert "model.quantisation" not in paths(fit)


def test_accepted_changes_are_arguments_that_a_run_takes() -> None:
    fit = fitted(plan(8 * GB, method="full"))
    assert TrainArgs.model_validate(fit.args.model_dump()) == fit.args
    assert {path: value for path, value in fit.put.items() if path == "method.kind"} == {"method.kind": "lora"}
