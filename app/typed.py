"""Values as people type them into a field, and read back: numbers, and lines of `name=value`. Knows no argument."""

from __future__ import annotations

import json
import re
from typing import Any

from engine.contract import text
from engine.contract.errors import ArgsError


def number(value: float) -> str:
    """A number as people type it: `0.0005`, `1e-5`, `3`."""
    return re.sub(r"e([+-])0*(\d)", lambda found: f"e{found[1].strip('+')}{found[2]}", f"{value:.12g}")


def scalar(value: Any, *, kept: bool = True) -> str:
    """A value of a map; `pairs` reads it back. kept: a float stays one (`3.0`); else a table says what it is (`3`)."""
    if isinstance(value, float) and not (kept and value.is_integer()):
        return number(value)
    if isinstance(value, str) and "\n" not in value and _read(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)


def pairs(said: str, *, plain: bool) -> Any:
    """`name=value` lines as a dict; the lines themselves where one has no `=`, for the contract to read or refuse."""
    if any("=" not in line for line in _lines(said)):
        return said
    found = {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in _lines(said))}
    return found if plain else {name: _read(value) for name, value in found.items()}


def names(said: str) -> list[str]:
    """The names in such lines; where one has no `=` they may stand on one line, as in `exact, format`."""
    lines = _lines(said)
    parts = lines if all("=" in line for line in lines) else re.split(r"[,\s]+", said)
    return [name for part in parts if (name := part.partition("=")[0].strip())]


def _lines(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.strip()]


def _read(said: str) -> Any:
    try:
        return text.read(said)
    except ArgsError:
        return said
