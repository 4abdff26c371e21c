"""Everything that a recipe may ask about the run that it is part of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine.contract.args import TrainArgs
from engine.contract.auto import Facts, total_steps
from engine.contract.machine import machine
from engine.contract.rundir import Run
from engine.report import Report, Stop
from engine.training.rows import Rows


@dataclass(frozen=True)
class Setting:
    """args: with every `auto` decided that can be.   folder: the model's files.   dtype: of the arithmetic."""

    args: TrainArgs
    run: Run
    report: Report
    stop: Stop
    folder: Path
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    rows: Rows

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return total_steps(self.args, Facts(machine(), rows=len(self.rows.train)))

    @property
    def home(self) -> torch.device:
        """Where the model is loaded: what is shared out may not fit into one device, and waits in main memory."""
        return torch.device("cpu") if self.args.launch.shards else self.device
