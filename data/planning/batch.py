"""How many rows go through the model at once where the plan decides it (`compute.auto_batch`).

A step keeps its rows: what is taken more of at once is added up less often. By arithmetic; measures nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from data.planning.fit import ROOM, changed
from data.planning.memory import memory
from data.planning.shape import Subject
from engine.contract import auto
from engine.contract.args import TrainArgs
from engine.contract.needs import Here


@dataclass(frozen=True)
class Batch:
    """The arguments with the rows at once that were chosen, and why these, in a sentence; empty where none were."""

    args: TrainArgs
    why: str = ""


def settled(args: TrainArgs, subject: Subject, *, longest: int, free: int, beside: int = 0) -> Batch:
    """As many rows at once as fit into `free` bytes, of `args` of which every other `auto` is decided.

    longest: tokens of the longest row, after the cut. beside: bytes of further models. On a processor never more than
    `steps.batch_size`: there more rows at once are no faster.
    """
    if not args.compute.auto_batch:
        return Batch(args)
    here = Here.of(args.compute.device)
    slow = here.device == "cpu"
    room = free // args.launch.here if slow else free

    def needed(tried: TrainArgs) -> int:
        return memory(subject, tried, longest=longest, device=here.device, beside=beside).total

    a_step = args.steps.batch_size * auto.accumulation_of(args)
    tried, more = args, 0
    for tried in _larger_first(args, here, args.steps.batch_size if slow else a_step):
        takes = needed(tried)
        if takes <= ROOM * room:
            return Batch(tried, _why(tried, takes, room, more, slow))
        more = takes
    return Batch(tried, f"{_rows(tried)} at once, the fewest there can be, and short: {_of(more, room)}.")


def _larger_first(args: TrainArgs, here: Here, most: int) -> Iterator[TrainArgs]:
    """`args` with each number of rows at once that a step can be made of and that the rules allow."""
    a_step = args.steps.batch_size * auto.accumulation_of(args)
    for rows in range(most, 0, -1):
        put: dict[str, Any] = {
            "steps.batch_size": rows, "steps.accumulation": a_step // rows, "compute.auto_batch": False,
        }  # fmt: skip
        if a_step % rows == 0 and (tried := changed(args, put, here)):
            yield tried


def _why(args: TrainArgs, takes: int, room: int, more: int, slow: bool) -> str:
    said = f"{_rows(args)} at once, {_times(auto.accumulation_of(args))} a step: {_of(takes, room)}"
    if more:
        return f"{said}, and more would need {more / 1e9:.1f} GB."
    return f"{said}; on a processor more at once are no faster." if slow else f"{said}, and that is the whole step."


def _rows(args: TrainArgs) -> str:
    many = args.steps.batch_size
    return f"{many:,} row{'s' if many > 1 else ''}"


def _times(many: int) -> str:
    return "once" if many == 1 else f"{many:,} times"


def _of(takes: int, room: int) -> str:
    return f"by the plan {takes / 1e9:.1f} GB of {room / 1e9:.1f} GB free"
