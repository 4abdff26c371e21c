"""How many rows a run takes at once where the plan is to say (`compute.auto_batch`), by the rows as they are.

All processes take as many. What was chosen is on record, so that an attempt after memory ran out goes on from there.
"""

from __future__ import annotations

from typing import Any

import pyarrow.compute as compute

from data import models
from data.planning import batch, plan
from data.planning.shape import Subject
from engine.contract.args import TrainArgs
from engine.contract.machine import memory
from engine.devices import ranks
from engine.recipes.setting import Setting
from engine.training import recovery


def settled(setting: Setting) -> TrainArgs:
    """The arguments of a run that is about to load its model, with the rows at once decided; a note says why."""
    args, workspace = setting.args, setting.run.workspace
    if not args.compute.auto_batch:
        return args
    subject = Subject.of(models.card(setting.folder))
    longest = plan.longest_of(args, longest_of(setting.rows.train))
    free, beside = memory(args.launch.devices, args.compute.device).free, plan.beside(args, workspace)
    chosen = batch.settled(args, subject, longest=longest, free=free, beside=beside)
    found = chosen.args.steps
    # The first process has the word: others may find a little more or less memory free.
    led = [found.batch_size, found.accumulation] if ranks.leads() else [0, 0]
    rows, times = map(int, ranks.totals([float(number) for number in led]))
    setting.report.note(f"The plan takes {chosen.why}", batch_size=rows, accumulation=times)
    return recovery.with_batch(args, rows, times)


def longest_of(rows: Any) -> int:
    """Tokens of the longest of the rows, of whichever of their sides."""
    table = rows.data.table
    sides = [compute.list_value_length(table.column(name)) for name in table.column_names if name.endswith("_ids")]
    return max((int(compute.max(side).as_py() or 0) for side in sides), default=0)
