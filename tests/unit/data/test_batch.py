"""Rows at once, where the plan decides: as many as fit, and a step keeps its rows."""

from __future__ import annotations

from typing import Any

import pytest

from data.planning.batch import settled
from data.planning.memory import memory
from data.planning.shape import Shape, Subject
from engine.contract import machine, text
from engine.contract.args import TrainArgs
from engine.contract.auto import Facts, resolved

SMALL = Shape(hidden=576, inner=1536, layers=30, heads=9, keys=3, head=64, vocabulary=49_152, tied=True)
M135 = Subject(SMALL, SMALL.tensors(), 134_515_008)
LONGEST = 512


@pytest.fixture(params=["cuda", "cpu"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    here = machine.Machine(request.param, "a device", 2, bf16=True)
    for place in ("engine.contract.needs.machine", "engine.contract.machine.machine"):
        monkeypatch.setattr(place, lambda: here)
    return str(request.param)


def args(*said: str) -> TrainArgs:
    usual = ["steps.batch_size=4", "steps.accumulation=4", "compute.auto_batch=true", "data.packing=false"]
    given: Any = text.parse({}, [*usual, *said], kind="train")
    return resolved(given, Facts(machine.machine(), M135.parameters, 100))


def needs(rows: int, device: str) -> int:
    given = args(f"steps.batch_size={rows}", f"steps.accumulation={16 // rows}")
    return memory(M135, given, longest=LONGEST, device=device).total


def batch(free: float, *said: str) -> tuple[int, int, str]:
    found = settled(args(*said), M135, longest=LONGEST, free=round(free))
    steps = found.args.steps
    assert not found.args.compute.auto_batch and steps.global_batch == 16
    return steps.batch_size, int(steps.accumulation), found.why


def test_a_device_with_room_takes_the_whole_step_and_a_processor_what_was_asked(device: str) -> None:
    whole, asked = "16 rows at once, once a step: ", "4 rows at once, 4 times a step: "
    rows, times, why = batch(1e15)
    assert (rows, times) == ((16, 1) if device == "cuda" else (4, 4))
    assert why.startswith(whole if device == "cuda" else asked)
    assert why.endswith("that is the whole step." if device == "cuda" else "more at once are no faster.")


def test_as_many_as_fit_are_taken(device: str) -> None:
    rows, times, why = batch(needs(2, device) / 0.94)
    assert (rows, times) == (2, 8) and f"more would need {needs(4, device) / 1e9:.1f} GB" in why


def test_where_nothing_fits_the_fewest_are_taken_and_it_is_said(device: str) -> None:
    rows, times, why = batch(1e6)
    assert (rows, times) == (1, 16) and "the fewest there can be, and short" in why


def test_what_must_come_in_one_batch_stays_in_one(device: str) -> None:
    one = ["method=full", "optim.optimiser=lomo", "steps.batch_size=16", "steps.accumulation=1", "compute.loss=plain"]
    assert settled(args(*one), M135, longest=LONGEST, free=10**6).args.steps.batch_size == 16


def test_what_was_asked_stays_without_it(device: str) -> None:
    given = args("compute.auto_batch=false")
    assert settled(given, M135, longest=LONGEST, free=10**6).args is given
