"""Supervised fine-tuning: the mean negative log-likelihood of the trained tokens.

TRL's SFTTrainer does the arithmetic. Rows come with their labels already set by our own mask, which holds for any chat
template, so nothing here renders or masks.
"""

from __future__ import annotations

from typing import Any

from trl import SFTConfig, SFTTrainer

from engine.contract.args import TrainArgs
from engine.loading import language_model as load  # noqa: F401 (what a recipe offers)
from engine.recipes.setting import Setting
from engine.rows import Collate as Collate  # what a recipe offers
from engine.trainer import Recording

Config = SFTConfig
SIDES = 1  # of each example in a batch


def settings(args: TrainArgs) -> dict[str, Any]:
    """Keywords of `Config` that do not go one to one."""
    return {"packing": False, "padding_free": False, "max_length": None, "loss_type": "nll"}


def beside(setting: Setting, model: Any) -> dict[str, Any]:
    """Further keywords of `Task`."""
    return {}


class Task(Recording, SFTTrainer):
    """SFT that records, evaluates exactly, and saves checkpoints whole."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        # The loss is TRL's own and counts tokens over all batches of a step, whatever the model says of its loss.
        self.model_accepts_loss_kwargs = True
