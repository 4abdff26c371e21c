"""REINFORCE leave-one-out: each answer to a question is judged by the mean of the others.

TRL's RLOOTrainer does the arithmetic. Kool et al., 2019; Ahmadian et al., 2024. The KL is a part of the reward, and the
clip is of whole answers.
"""

from __future__ import annotations

from typing import Any

from trl import RLOOConfig, RLOOTrainer

from engine.contract.args import TrainArgs
from engine.contract.groups import Rloo
from engine.models.loading import language_model as load  # noqa: F401 (what a recipe offers)
from engine.recipes import grouped
from engine.recipes.grouped import Collate as Collate  # what a recipe offers
from engine.recipes.grouped import beside as beside  # what a recipe offers

Config = RLOOConfig
SIDES = 1  # of each example in a batch


def settings(args: TrainArgs) -> dict[str, Any]:
    """Keywords of `Config` that do not go one to one."""
    task = args.task
    assert isinstance(task, Rloo)
    limit = task.reward_limit
    return grouped.settings(task) | {"reward_clip_range": (-limit, limit) if limit else None}


class Task(grouped.Grouped, RLOOTrainer):
    """RLOO on our own rows and rewards, recorded."""

    def _generate_single_turn(self, prompt_ids: list[list[int]], *_: Any, **__: Any) -> list[list[int]]:
        return self.write(prompt_ids, self.sampling)
