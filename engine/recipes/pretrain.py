"""Pretraining: the mean negative log-likelihood of every token of plain text, from a model's weights or from scratch.

The loss, its exact evaluation and its batches are those of SFT; here every token is learnt, documents fill sequences of
the full length (`data.encoding.documents`), and perplexity, the exponential of the loss, stands beside it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from engine.contract.args import TrainArgs
from engine.contract.imitation import Pretrain
from engine.contract.rundir import Run
from engine.models import scratch
from engine.models.loading import language_model as load  # noqa: F401 (what a recipe offers)
from engine.recipes import sft
from engine.recipes.setting import Setting
from engine.recipes.sft import SIDES as SIDES
from engine.recipes.sft import Collate as Collate
from engine.recipes.sft import Config as Config
from engine.recipes.sft import settings as settings
from engine.report import Report

MOST = 700.0  # a loss whose exponential is still a number


def begin(args: TrainArgs, folder: Path, run: Run, report: Report) -> Path:
    """The folder of the model that the run starts from, before anything is read from it."""
    assert isinstance(args.task, Pretrain)
    return scratch.begun(args, folder, run, report) if args.task.start == "scratch" else folder


def beside(setting: Setting, model: Any) -> dict[str, Any]:
    """Further keywords of `Task`."""
    return {}


class Task(sft.Task):
    """Pretraining that records, evaluates exactly, and saves checkpoints whole."""

    def _named(self, logs: dict[str, float]) -> dict[str, float]:
        found = super()._named(logs)
        losses = {name: value for name, value in found.items() if name in ("train/loss", "eval/loss")}
        return found | {
            name.replace("loss", "perplexity"): math.exp(min(value, MOST)) for name, value in losses.items()
        }
