"""The worker of `measure`: the training itself, ended after two steps, on the longest of its rows.

python -m engine.trial FOLDER          a hidden run folder with args.yaml; leaves `results` there
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path

import pyarrow.compute as compute

from data.planning.past import Measured
from engine.contract import machine, text
from engine.contract.args import TrainArgs
from engine.contract.auto import accumulation_of
from engine.contract.errors import BoardError
from engine.contract.rundir import Run
from engine.measure import STEPS
from engine.report import Report, Stop, Stopped
from engine.supervise import FAILED, OUT_OF_MEMORY, STOPPED
from engine.training import recovery
from engine.training.rows import Rows


class Enough(BaseException):
    """Two steps are taken. Not an Exception: no recipe may swallow it."""


class Trial(Report):
    """A report that ends the run once it knows what two steps take."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.seen: list[Mapping[str, float]] = []
        self.longest = 0

    def metrics(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        if "train/tokens_per_second" not in values:
            return
        self.seen.append(dict(values))
        if len(self.seen) == STEPS:
            raise Enough

    def found(self) -> Measured:
        """The first step pays for what is made once, so time is the last one's."""
        last, before = self.seen[-1], self.seen[-2]
        speed = last["train/tokens_per_second"]
        return Measured(
            peak=round(max(values["memory/peak_gb"] for values in self.seen) * 1e9),
            speed=speed, seconds=(last["train/tokens"] - before["train/tokens"]) / speed, longest=self.longest,
        )  # fmt: skip


def longest(rows: Rows, many: int) -> tuple[Rows, int]:
    """The `many` longest rows to train on, and how many tokens the longest has."""
    table = rows.train.data.table
    sides = [compute.list_value_length(table.column(name)) for name in table.column_names if name.endswith("_ids")]
    if not sides:
        return dataclasses.replace(rows, validation=None), 0
    lengths = compute.max_element_wise(*sides)
    order = compute.sort_indices(lengths, sort_keys=[("", "descending")])[:many]
    chosen = rows.train.select(order.to_pylist())
    return dataclasses.replace(rows, train=chosen, validation=None), int(compute.max(lengths).as_py())


def work(folder: Path) -> int:
    run = Run(folder.resolve())
    stop, report = Stop(), Trial(run)
    try:
        stop.listen(watch_stdin=True)
        args = text.load(run.args_path)
        assert isinstance(args, TrainArgs)
        machine.keep_to_one(args.compute.device, args.launch.devices)
        from engine.recipes import run as recipe

        def choose(rows: Rows, settled: TrainArgs) -> Rows:
            many = STEPS * settled.steps.batch_size * accumulation_of(settled)
            rows, report.longest = longest(rows, many)
            return rows

        recipe.run(args, run, report, stop, choose=choose)
    except Enough:
        run.results_path.write_text(report.found().model_dump_json())
        return 0
    except Stopped:
        return STOPPED
    except BoardError as problem:
        report.failure(problem.text, problem.hint)
        return FAILED
    except Exception as problem:
        if recovery.out_of_memory(problem):
            return OUT_OF_MEMORY
        report.failure(f"{type(problem).__name__}: {problem}", "Start the run itself: its log says more.", bug=True)
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(work(Path(sys.argv[1])))
