"""What a training run does about memory that ran out: smaller batches, more of them, from the last checkpoint on.

The supervisor starts the next attempt; the args file is written once, so an attempt knows by its number what to change.
Each step still learns from the same rows in the same order: the global batch stays, and with it the curve.
"""

from __future__ import annotations

from typing import Any

from engine.contract.args import TrainArgs
from engine.contract.auto import accumulation_of
from engine.contract.errors import ResourceError
from engine.contract.rundir import Run, records
from engine.contract.start import TRIES
from engine.report import Report

ADVICE = (
    "Lower data.max_length, turn compute.checkpointing on, choose a quantised base (model.quantisation) or a smaller "
    "model; `plan --fit` and the Train tab propose what is cheapest."
)


def out_of_memory(problem: BaseException) -> bool:
    """Whether it says that memory ran out, of the device or of the machine. torch's own error for a processor is a
    RuntimeError like any other, so its words are looked at."""
    said = str(problem).lower()
    return isinstance(problem, MemoryError) or "out of memory" in said or "can't allocate memory" in said


def batches(args: TrainArgs, attempt: int) -> tuple[int, int] | None:
    """Rows at once and accumulation in that attempt: half as many rows as in the one before, and as many a step as
    ever. None when there was but one row already."""
    rows, accumulation = args.steps.batch_size, accumulation_of(args)
    a_step = rows * accumulation
    for _ in range(attempt - 1):
        if rows == 1:
            return None
        rows = next(fewer for fewer in range(rows // 2, 0, -1) if a_step % fewer == 0)
    return rows, a_step // rows


def as_chosen(args: TrainArgs, run: Run) -> TrainArgs:
    """`args` with the rows at once that an earlier attempt of the run chose; as they are where none did."""
    if not args.compute.auto_batch:
        return args
    facts = [record.get("facts", {}) for record in records(run.events_path) if record["kind"] == "note"]
    said = next((one for one in facts if {"batch_size", "accumulation"} <= one.keys()), None)
    return with_batch(args, said["batch_size"], said["accumulation"]) if said else args


def with_batch(args: TrainArgs, rows: int, times: int) -> TrainArgs:
    """`args` with so many rows at once, and so many batches to a step."""
    content: dict[str, Any] = args.model_dump()
    content["steps"] |= {"batch_size": rows, "accumulation": times}
    content["compute"]["auto_batch"] = False
    return TrainArgs.model_validate(content)


def may_go_on(args: TrainArgs, run: Run, attempt: int) -> bool:
    """Whether another attempt could go better than this one."""
    return attempt < TRIES and batches(as_chosen(args, run), attempt + 1) is not None


def eased(args: TrainArgs, run: Run, report: Report, attempt: int) -> TrainArgs:
    """The arguments of that attempt, which goes on from the run's last checkpoint, or begins again without one.

    Raises ResourceError when there is nothing left to halve.
    """
    if attempt == 1:
        return args
    args = as_chosen(args, run)
    before, now = batches(args, attempt - 1), batches(args, attempt)
    if before is None or now is None:
        raise ResourceError("Out of memory with one row at a time.", ADVICE)
    content: dict[str, Any] = args.model_dump()
    content["steps"] |= {"batch_size": now[0], "accumulation": now[1]}
    saved = run.checkpoints()
    if saved:
        content["resume"] = {"run": run.id, "checkpoint": saved[-1][1].name}
    where = "from the beginning, as nothing was saved yet"
    if saved:
        where = f"from {saved[-1][1].name} on"
    elif args.resume.run:
        where = f"on from {args.resume.run} again, as nothing was saved yet"
    report.warn(
        f"Memory ran out with {before[0]} rows at once.",
        f"Attempt {attempt} of {TRIES} takes {now[0]} at once and adds up {now[1]} batches for a step, so that each "
        f"step learns from the same rows. It goes {where}.",
    )
    return TrainArgs.model_validate(content)
