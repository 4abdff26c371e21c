"""What every kind of run has: a name, a description, and rules that are all checked together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from engine.contract.errors import Problem
from engine.contract.fields import Section, arg


class Args(Section):
    """What every kind of run has: a name, a description, and rules that are all checked together."""

    name: str = arg(
        "",
        "A name for the run, for people.",
        when="When you will have many.",
        usual="a few words",
        max_length=80,
    )
    description: str = arg(
        "",
        "What this run is to find out.",
        when="When you will have many.",
        usual="a sentence",
        lines=2,
        max_length=2000,
    )

    def problems(self) -> Iterator[Problem]:
        """Rules that span sections; each names the fields and the way out."""
        yield from ()

    @model_validator(mode="after")
    def _keep_rules(self) -> Any:
        if found := list(self.problems()):
            raise PydanticCustomError("rules", "rules", {"problems": found})
        return self
