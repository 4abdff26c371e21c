"""The families that our templates serve, as `templates/templates.yaml` lists them.

Knows names and texts only: nothing of rendering, tokens or models on disk.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict

TEMPLATES = Path(__file__).resolve().parents[2] / "templates"


class End(BaseModel):
    """What closes an answer; `turn` may be `eos_token`, which stands for that of the model at hand."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    turn: str
    stop: tuple[str, ...]
    closes: Literal["every", "last"] = "every"


class Family(BaseModel):
    """One entry of the list; the comment at the head of the file says what each field means."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    models: tuple[str, ...]
    end: End
    thinking: str | None = None
    tools: str | None = None
    source: str
    verified: tuple[str, ...] | Literal["source"]

    @property
    def file(self) -> Path:
        return TEMPLATES / f"{self.name}.jinja"


@lru_cache(maxsize=1)
def families() -> Mapping[str, Family]:
    """Every family by the name of its template, in the order in which `suggest` tries them."""
    listed = yaml.safe_load((TEMPLATES / "templates.yaml").read_text(encoding="utf-8"))
    return {name: Family(name=name, **entry) for name, entry in listed.items()}


def suggest(model: str) -> Family | None:
    """The family whose patterns fit a hub id or the name of a folder, if any does."""
    fits = (f for f in families().values() if any(re.search(p, model, re.IGNORECASE) for p in f.models))
    return next(fits, None)
