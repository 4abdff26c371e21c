"""How to make a run fit into memory: the cheapest changes first, each with what it saves, until it does.

Every step keeps learning from as many rows as before. Only what the arguments' own rules and this machine allow is
proposed; nothing is changed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from data.planning.memory import memory
from engine.contract import auto
from engine.contract.args import TrainArgs
from engine.contract.errors import ArgsError
from engine.contract.needs import Here, unmet
from engine.contract.text import at

if TYPE_CHECKING:
    from data.planning.plan import Plan

ROOM = 0.95  # of what is free may be planned with
WORTH = 0.01  # of the memory that is needed: what saves less is not proposed
SHORTEST = 128  # tokens
Put = Mapping[str, Any]


@dataclass(frozen=True)
class Change:
    """Arguments to change, by path, and what that costs, in a sentence.   saves: bytes."""

    said: str
    put: Put
    before: Put
    saves: int


@dataclass(frozen=True)
class Fit:
    """The changes in their order, the arguments after them, the bytes that these need, and whether they fit."""

    changes: tuple[Change, ...]
    args: TrainArgs
    needed: int
    fits: bool

    @property
    def put(self) -> dict[str, Any]:
        """Everything that changes, by path."""
        return {path: value for change in self.changes for path, value in change.put.items()}


def fitted(plan: Plan) -> Fit:
    """What to change so that the run of `plan` fits; nothing where it does."""
    # Where it was measured, the arithmetic is corrected by what it was off.
    device = Here.of(plan.args.compute.device)
    first = plan.memory.total
    factor = max(1.0, plan.needed / first) if first else 1.0
    target = ROOM * plan.free

    def needs(args: TrainArgs) -> int:
        longest = min(plan.longest, args.data.max_length)
        found = memory(plan.subject, args, longest=longest, device=device.device)
        return round(factor * (found.total + plan.memory.parts["other models"] - found.parts["other models"]))

    def moved(args: TrainArgs) -> int:
        """Bytes that are kept in main memory instead, of which there is no end either."""
        return memory(plan.subject, args, longest=min(plan.longest, args.data.max_length), device=device.device).host

    args, needed, changes = plan.args, needs(plan.args), list[Change]()
    # Twice: what saved too little of much to be worth it may do so of less. Rows are cut last of all.
    for kind in (*CHEAPEST_FIRST, *CHEAPEST_FIRST, _shorter):
        for said, put in kind(args, plan):
            if needed <= target:
                break
            tried = changed(args, put, device)
            if tried is None or (saved := needed - needs(tried)) < WORTH * needed:
                continue
            before = {path: at(args.model_dump(), path) for path in put}
            put = {path: value for path, value in put.items() if value != before[path]}
            changes.append(Change(said, put, before, saved))
            args, needed = tried, needed - saved
    kept = _joined(changes)
    enough = target if needed <= target else (1 + WORTH) * needed
    for change in reversed(kept):  # what a later change has made needless is not asked for
        rest = tuple(one for one in kept if one is not change)
        without = applied(plan.args, rest, device)
        if without and needs(without) <= enough and moved(without) <= moved(args):
            kept, args, needed = rest, without, needs(without)
    return Fit(tuple(_weighed(plan.args, kept, needs, device)), args, needed, needed <= target)


def _weighed(
    args: TrainArgs, changes: Iterable[Change], needs: Callable[[TrainArgs], int], here: Here
) -> Iterator[Change]:
    """The same changes, each with what it saves after those before it."""
    for change in changes:
        tried, content = changed(args, change.put, here) or args, args.model_dump()
        before = {path: at(content, path) for path in change.put}  # another change may have been left out meanwhile
        yield replace(change, before=before, saves=needs(args) - needs(tried))
        args = tried


def applied(args: TrainArgs, changes: Iterable[Change], here: Here) -> TrainArgs | None:
    """`args` with all of them; None where they do not go together."""
    found: TrainArgs | None = args
    for change in changes:
        found = changed(found, change.put, here) if found else None
    return found


def changed(args: TrainArgs, put: Put, here: Here) -> TrainArgs | None:
    """`args` with `put`; None where the rules or this machine do not allow it, or there is no such argument."""
    content: dict[str, Any] = args.model_dump()
    for path, value in put.items():
        *sections, name = path.split(".")
        place = content
        for section in sections:
            place = place.get(section, {})
        if name not in place and name != "kind":
            return None
        if name == "kind" and value != place.get("kind"):
            content[sections[0]] = {"kind": value}
        else:
            place[name] = value
    try:
        tried = TrainArgs.model_validate(content)
    except (ValidationError, ArgsError):
        return None
    return None if any(tried.problems()) or any(unmet(tried, here)) else tried


def _joined(changes: list[Change]) -> tuple[Change, ...]:
    """Several changes of the same arguments in a row, as halvings are, are one."""
    found: list[Change] = []
    for change in changes:
        if found and found[-1].put.keys() == change.put.keys():
            last = found.pop()
            change = Change(change.said, change.put, last.before, last.saves + change.saves)
        found.append(change)
    return tuple(found)


def _checkpoints(args: TrainArgs, plan: Plan) -> Iterator[tuple[str, Put]]:
    if args.compute.checkpointing is not True:
        said = "Compute activations again instead of keeping them: about a third slower."
        yield said, {"compute.checkpointing": True}


def _loss(args: TrainArgs, plan: Plan) -> Iterator[tuple[str, Put]]:
    if args.compute.loss in ("auto", "plain"):
        yield "Never hold all logits at once: costs next to nothing.", {"compute.loss": "chunked"}
        if Here.of(args.compute.device).device != "cpu":
            yield "Use kernels that keep less: costs next to nothing.", {"compute.loss": "liger"}


def _batch(args: TrainArgs, plan: Plan) -> Iterator[tuple[str, Put]]:
    """Fewer and fewer rows at once, as many a step as before."""
    rows, accumulation = args.steps.batch_size, auto.accumulation_of(args)
    a_step = rows * accumulation
    while rows > 1:
        rows = next(fewer for fewer in range(rows // 2, 0, -1) if a_step % fewer == 0)
        put = {"steps.batch_size": rows, "steps.accumulation": a_step // rows}
        yield "Fewer rows at once, and more batches added up: the same step, a little slower.", put


def _offload(args: TrainArgs, plan: Plan) -> Iterator[tuple[str, Put]]:
    if not args.compute.offload:
        said = "Keep activations, or what checkpointing keeps of them, in main memory: slower."
        yield said, {"compute.offload": True}


def _optimiser(args: TrainArgs, plan: Plan) -> Iterator[tuple[str, Put]]:
    if "8bit" in args.optim.optimiser or "adam" not in args.optim.optimiser:
        return
    said = "Hold the optimiser's state in 8 bits: a quarter of it, and hardly a difference in what is learnt."
    yield said, {"optim.optimiser": "adamw_bnb_8bit"}
    yield said, {"optim.optimiser": "adamw_8bit"}
    yield (
        "Hold one number for each row and column of a matrix, in place of two for each weight.",
        {"optim.optimiser": "adafactor"},
    )


def _quantised(args: TrainArgs, plan: Plan) -> Iterator[tuple[str, Put]]:
    four: dict[str, Any] = {"model.quantisation": "nf4", "model.double_quantisation": True}
    if args.method.adapter:
        yield "Hold the frozen weights in 4 bits (QLoRA): a little slower and a little coarser.", four
        return
    yield "Train an adapter instead of the weights themselves: learns and forgets less.", {"method.kind": "lora"}
    yield "Hold the frozen weights in 4 bits (QLoRA): a little slower and a little coarser.", four


def _shorter(args: TrainArgs, plan: Plan) -> Iterator[tuple[str, Put]]:
    length = min(plan.longest, args.data.max_length)
    while (length := length // 2) >= SHORTEST:
        yield "Cut rows shorter: what is cut is not learnt.", {"data.max_length": length}


CHEAPEST_FIRST: tuple[Callable[[TrainArgs, Plan], Iterator[tuple[str, Put]]], ...] = (
    _checkpoints, _loss, _batch, _offload, _optimiser, _quantised,
)  # fmt: skip
