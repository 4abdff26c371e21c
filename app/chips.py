"""The names that a field of `name=value` lines can hold, as a row of chips above its text.

The text is the one truth: static/form.js presses a chip whose name has a line in it, and adds or takes the line when a
chip is clicked. Knows no argument by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from app import typed
from engine.contract.own import Own

HINT = "choose above, or type name=value, one a line"
NOTHING = "nothing to set"


def row(known: Mapping[str, Own]) -> str:
    """A button for each name, which carries its line, what it does and its usual value; nothing where there is none."""
    return "".join(_chip(name, own) for name, own in known.items())


def hint(known: Mapping[str, Own]) -> str:
    """What an empty text says."""
    return HINT if known else NOTHING


def _chip(name: str, own: Own) -> str:
    usual = f"{name}={typed.scalar(own.default, kept=False)}"
    line = f"{name}=true" if isinstance(own.default, bool) else usual  # a switch that is clicked is meant to be on
    said = {
        "data-name": name, "data-line": line, "data-tip": own.help, "data-usual": f"{usual}{_among(own)}",
        "aria-label": f"{name}: {own.help}",
    }  # fmt: skip
    attributes = " ".join(f'{key}="{escape(worth)}"' for key, worth in said.items())
    return f'<button type="button" class="tb-chip" aria-pressed="false" {attributes}>{escape(name)}</button>'


def _among(own: Own) -> str:
    """What else it can be."""
    choices = (True, False) if isinstance(own.default, bool) else own.choices
    if choices:
        return f"; or {', '.join(typed.scalar(choice) for choice in choices if choice != own.default)}"
    if own.low is not None and own.high is not None:
        return f", from {typed.number(own.low)} to {typed.number(own.high)}"
    return f", at least {typed.number(own.low)}" if own.low is not None else ""
