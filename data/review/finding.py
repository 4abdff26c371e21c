"""What was found wrong, odd or worth knowing in rows, in words, with the rows it is about and a way out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

Level = Literal["error", "warning", "note"]
"""An error stops a run; a warning can be waved through; a note is only said."""
NAMED = 1000
"""Rows that a finding lists; it counts the others."""


@dataclass(frozen=True)
class Finding:
    """One finding about rows.

    kind: a word for programs (`duplicate`, `secret`, `cut`).   text: a sentence for people, with the number of rows.
    count: how many rows.   rows: the numbers of the first `NAMED` of them.
    hint: what to do, as a sentence.   fix: the mend that the page offers at a click, or empty.
    """

    kind: str
    level: Level
    text: str
    count: int = 0
    rows: tuple[int, ...] = ()
    hint: str = ""
    fix: str = ""


class LookedThrough(BaseModel):
    """What was found in so many rows, as one process tells it to another."""

    model_config = ConfigDict(frozen=True)

    rows: int
    findings: tuple[Finding, ...]
