"""What a run will take, put together: the parts of memory against what is free, and the work against the clock.

For the page and for `engine plan` alike. Reads files, loads nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data.checking.inspection import Inspection
from data.planning import batch, past
from data.planning.compute import Work, Written, work
from data.planning.memory import Memory, memory
from data.planning.past import Measured
from data.planning.rate import rate, reading
from data.planning.shape import Subject, named
from data.planning.widths import PROGRAM
from engine.contract import auto, machine
from engine.contract.args import TrainArgs


@dataclass(frozen=True)
class Plan:
    """longest: the row that memory is counted for, in tokens.   batch: why so many rows go through at once, where the
    plan chose.   earlier: bytes at the peak of a run with the same arguments, 0 without one.   work is None while the
    rows are not known."""

    args: TrainArgs
    subject: Subject
    trained: int
    longest: int
    memory: Memory
    free: int
    total: int
    work: Work | None = None
    measured: Measured | None = None
    earlier: float = 0.0
    batch: str = ""
    driver: int = 0  # bytes that an accelerator's driver holds beside the tensors, which are all that is measured

    @property
    def basis(self) -> Literal["measured", "earlier", "estimate"]:
        """What `needed` was told by."""
        if self.measured:
            return "measured"
        return "earlier" if self.earlier else "estimate"

    @property
    def needed(self) -> float:
        """Bytes at the peak; of two steps that ran out of memory it is known only that they took more than is there."""
        if self.measured:
            known = self.measured.peak + self.driver
            return known if not self.measured.out_of_memory else max(self.memory.total, self.total)
        return self.earlier + self.driver if self.earlier else self.memory.total

    @property
    def fits(self) -> bool:
        return not (self.measured and self.measured.out_of_memory) and self.needed <= self.free


def planned(
    args: TrainArgs, subject: Subject, workspace: Path, *, rows: Inspection | None = None,
    now: machine.Memory | None = None,
) -> Plan:  # fmt: skip
    """The plan for `args`, of which every `auto` is decided that can be. rows: a look at them. now: memory, if it was
    asked for already."""
    now = now or machine.memory(args.launch.devices, args.compute.device)
    device = machine.machine().device if args.compute.device == "auto" else args.compute.device
    free = now.free
    if device == "cpu":  # whose memory its processes share
        now = machine.Memory(now.total // args.launch.here, now.free // args.launch.here)
    longest = longest_of(args, rows.longest if rows else args.data.max_length)
    others = beside(args, workspace)
    chosen = batch.settled(args, subject, longest=longest, free=free, beside=others)
    args = chosen.args
    known = past.measured(args, workspace)
    return Plan(
        args, subject,
        trained=subject.trained(args.method, args.vision),
        longest=longest,
        memory=memory(subject, args, longest=longest, device=device, beside=others),
        free=now.free, total=now.total,
        work=_work(args, subject, workspace, rows, known) if rows else None,
        measured=known,
        driver=0 if device == "cpu" else PROGRAM,
        earlier=past.earlier(args, workspace, past.alike_in_memory).peak,
        batch=chosen.why,
    )  # fmt: skip


def longest_of(args: TrainArgs, longest: int) -> int:
    """The longest row that goes through the model, where the longest before the run has so many tokens."""
    written = getattr(args.task, "max_new_tokens", 0) if args.task.generates else 0
    return args.data.max_length if args.packs else min(longest + written, args.data.max_length)


def _work(args: TrainArgs, subject: Subject, workspace: Path, rows: Inspection, known: Measured | None) -> Work:
    sequences = round(rows.sequences * rows.scale)
    facts = auto.Facts(machine.machine(), subject.parameters, sequences)
    steps = auto.total_steps(args, facts)
    epochs = steps / max(1, auto.total_steps(once(args), facts))
    length = rows.tokens / max(1, rows.sequences)
    return work(
        subject, args, steps=steps, tokens=rows.tokens * rows.scale * epochs, length=length,
        trained=rows.trained * rows.scale * epochs,
        answers=_written(args, workspace, steps, sequences * epochs, length) if args.task.generates else None,
        measured=known.speed if known else 0.0,
        earlier=past.earlier(args, workspace, past.alike).speed,
        rate=rate(args), reading=reading(args),
    )  # fmt: skip


def _written(args: TrainArgs, workspace: Path, steps: int, asked: float, prompt: float) -> Written:
    """The answers of a run that asks `asked` questions of `prompt` tokens; where answers are compared with one another
    a step writes as many as it has rows, whatever the number of questions."""
    task, batches = args.task, auto.accumulation_of(args)
    a_step = args.steps.batch_size * batches * args.launch.replicas
    grouped = task.together > 1
    judge = named(task.rewards.model, workspace) if task.rewards.model else None
    return Written(
        many=steps * a_step / task.again if grouped else asked,
        prompt=prompt,
        longest=max(0.0, min(task.max_new_tokens, args.data.max_length - prompt)),
        at_once=a_step if grouped else args.steps.batch_size * args.launch.replicas,
        judge=2 * (judge.working - judge.shape.vocabulary * judge.shape.hidden) if judge else 0,
    )


def once(args: TrainArgs) -> TrainArgs:
    """The same run over one epoch."""
    return args.model_copy(update={"steps": args.steps.model_copy(update={"epochs": 1.0, "max_steps": None})})


def beside(args: TrainArgs, workspace: Path) -> int:
    """Bytes of the models that stand beside the one that is trained, in 16 bits: for rewards, and as the reference."""
    rewards = getattr(args.task, "rewards", None)
    names = [getattr(rewards, "model", ""), getattr(args.task, "reference_model", "")]
    found = [named(name, workspace) for name in names if name]
    return sum(2 * model.parameters for model in found if model)
