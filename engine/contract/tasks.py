"""What is learnt: the tasks. To add one: a section here, its name in `Task`, its page in `engine/recipes/`."""

from __future__ import annotations

from typing import ClassVar, Literal

from engine.contract.fields import Section, tagged


class Sft(Section):
    """Learn to answer as the rows do (supervised fine-tuning)."""

    title: ClassVar[str] = "SFT"
    kind: Literal["sft"] = "sft"


Task = tagged(Sft)
