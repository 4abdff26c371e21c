"""What is learnt. To add a task: a section, its name in `Task`, its page in `engine/recipes/`."""

from __future__ import annotations

from engine.contract.fields import tagged
from engine.contract.groups import Grpo, Rloo
from engine.contract.imitation import Pretrain, Sft
from engine.contract.preference import Cpo, Dpo, Kto, Orpo, Reward, Simpo
from engine.contract.reinforcement import Ilql, Ppo

Task = tagged(Sft, Dpo, Reward, Ppo, Grpo, Rloo, Kto, Simpo, Orpo, Cpo, Ilql, Pretrain)
