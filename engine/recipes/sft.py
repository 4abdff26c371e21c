"""Supervised fine-tuning: the mean negative log-likelihood of the trained tokens.

TRL's SFTTrainer does the arithmetic. Rows come with their labels already set by our own mask, which holds for any chat
template, so nothing here renders or masks.
"""

from __future__ import annotations

from typing import Any

from trl import SFTConfig, SFTTrainer

from engine.contract.args import TrainArgs
from engine.rows import Collate as Collate  # what a recipe offers
from engine.trainer import Recording

Config = SFTConfig


def settings(args: TrainArgs) -> dict[str, Any]:
    """Keywords of `Config` that do not go one to one."""
    return {"packing": False, "padding_free": False, "max_length": None, "loss_type": "nll"}


def beside(model: Any) -> dict[str, Any]:
    """Further keywords of `Task`."""
    return {}


class Task(Recording, SFTTrainer):
    """SFT that records, evaluates exactly, and saves checkpoints whole."""
