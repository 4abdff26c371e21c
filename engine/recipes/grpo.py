"""Group relative policy optimisation: of several answers to a question, those above the group's mean grow likelier.

TRL's GRPOTrainer does the arithmetic. Shao et al., 2024 (DeepSeekMath); the losses: DAPO (Yu et al., 2025), Dr. GRPO
(Liu et al., 2025), CISPO (MiniMax, 2025), GSPO (Zheng et al., 2025).
"""

from __future__ import annotations

from typing import Any

from trl import GRPOConfig, GRPOTrainer

from engine.contract.args import TrainArgs
from engine.contract.groups import Grpo
from engine.models.loading import language_model as load  # noqa: F401 (what a recipe offers)
from engine.recipes import grouped
from engine.recipes.grouped import Collate as Collate  # what a recipe offers
from engine.recipes.grouped import beside as beside  # what a recipe offers

Config = GRPOConfig
SIDES = 1  # of each example in a batch
CISPO = 5.0  # the highest ratio where nobody says: there it bounds a weight and not a push


def settings(args: TrainArgs) -> dict[str, Any]:
    """Keywords of `Config` that do not go one to one."""
    task = args.task
    assert isinstance(task, Grpo)
    cispo = {"epsilon_high": task.epsilon_high or CISPO} if task.loss == "cispo" else {}
    return grouped.settings(task) | cispo


class Task(grouped.Grouped, GRPOTrainer):
    """GRPO on our own rows and rewards, recorded."""

    def _generate_single_turn(self, prompt_ids: list[list[int]], *_: Any, **__: Any) -> tuple[list[list[int]], None]:
        return self.write(prompt_ids, self.sampling), None
