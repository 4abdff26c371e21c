"""Settings of a long tail: what one optimiser, schedule or adapter alone has, given as one map and checked by a table.

So that the form does not drown in fields, and no name is taken that nobody reads. Knows no setting itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from engine.contract.errors import Problem

Value = bool | int | float | str
KINDS: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}


class Own(NamedTuple):
    """One such setting: its default, whose type is its own, what it does, and its limits (inclusive) or choices."""

    default: Value
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()


def problems(path: str, given: Mapping[str, Any], known: Mapping[str, Own], whose: str) -> Iterator[Problem]:
    """What is wrong with `given`, each at `path.NAME`; `whose` says what the settings belong to."""
    for name, value in given.items():
        if name not in known:
            near = get_close_matches(name, known, n=1)
            has = f"It has {', '.join(known)}." if known else "It has none."
            said = f"{whose} has no setting {name!r}. " + (f"Did you mean {near[0]}? " if near else "") + has
            yield Problem(f"{path}.{name}", said)
        elif (read := _read(value, known[name])) is None:
            yield Problem(f"{path}.{name}", f"{value!r} is not {_wanted(known[name])}.")
        elif not _within(read, known[name]):
            yield Problem(f"{path}.{name}", f"{value!r} is out of range: give {_wanted(known[name])}.")


def values(given: Mapping[str, Any], known: Mapping[str, Own]) -> dict[str, Value]:
    """Every setting of `known`: as given, each in its own type, or its default. `given` has no problems."""
    found = {name: _read(given[name], own) if name in given else own.default for name, own in known.items()}
    return {name: value for name, value in found.items() if value is not None}


def _read(value: Any, own: Own) -> Value | None:
    """`value` in the type of the setting, or None; YAML reads 2e-4 as a word, and 8.0 may stand for 8."""
    wanted = type(own.default)
    if wanted is bool or isinstance(value, bool):
        return value if wanted is bool and isinstance(value, bool) else None
    if wanted is str:
        return value if isinstance(value, str) else None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    if number != number or number in (float("inf"), float("-inf")):
        return None
    return number if wanted is float else int(number) if number == int(number) else None


def _within(value: Value, own: Own) -> bool:
    if isinstance(value, str):
        return not own.choices or value in own.choices
    return (own.low is None or value >= own.low) and (own.high is None or value <= own.high)


def _wanted(own: Own) -> str:
    if own.choices:
        return f"one of {', '.join(own.choices)}"
    said = KINDS[type(own.default)]
    if own.low is not None and own.high is not None:
        return f"{said} from {own.low:g} to {own.high:g}"
    return f"{said}, at least {own.low:g}" if own.low is not None else said
