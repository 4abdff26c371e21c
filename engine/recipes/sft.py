"""Supervised fine-tuning: the mean negative log-likelihood of the trained tokens.

TRL's SFTTrainer does the arithmetic. Rows come with their labels already set by our own mask, which holds for any chat
template, so nothing here renders or masks.
"""

from __future__ import annotations

from typing import Any

from trl import SFTConfig, SFTTrainer

from engine.trainer import Recording

Config = SFTConfig
SETTINGS: dict[str, Any] = {"packing": False, "padding_free": False, "max_length": None, "loss_type": "nll"}


class Task(Recording, SFTTrainer):
    """SFT that records, evaluates exactly, and saves checkpoints whole."""
