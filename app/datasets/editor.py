"""A row's record as text that a person can edit, and back: each text by itself, or the whole record as YAML.

Knows nothing of files and patches; what a record must be is `data.rows.formats`' to say.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import yaml

from engine.contract.errors import DataError

SIDES = ("messages", "prompt", "completion", "chosen", "rejected")


class _Writer(yaml.SafeDumper):
    """Writes texts of several lines as blocks, and nothing twice by reference."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(writer: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return writer.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Writer.add_representer(str, _text)


def texts(record: dict[str, Any]) -> dict[str, str]:
    """Every text that is said or thought, by where it stands: `messages.0.content`; pictures and calls are not text."""
    found = {"text": record["text"]} if isinstance(record.get("text"), str) else {}
    for side in SIDES:
        for place, turn in enumerate(record.get(side) or ()):
            for name in ("reasoning_content", "content"):
                if isinstance(turn.get(name), str) and (turn[name] or not turn.get("tool_calls")):
                    found[f"{side}.{place}.{name}"] = turn[name]
    return found


def changed(record: dict[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """The record with other texts in these places. Raises DataError for a place that has none."""
    record = copy.deepcopy(record)
    own = texts(record)
    for path, text in said.items():
        if path not in own or not isinstance(text, str):
            raise DataError("this row has changed meanwhile.", "Open it again.")
        side, _, rest = path.partition(".")
        place, _, name = rest.partition(".")
        if name:
            record[side][int(place)][name] = text
        else:
            record[side] = text
    return record


def written(record: dict[str, Any]) -> str:
    """The record as YAML."""
    return yaml.dump(record, Dumper=_Writer, allow_unicode=True, sort_keys=False, width=2**31)


def read(text: str) -> dict[str, Any]:
    """The record that somebody wrote; raises DataError that says where it is no YAML."""
    try:
        record = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        why = getattr(error, "problem", None) or "it cannot be read"
        raise DataError(
            f"this is not valid YAML{where}: {why}.",
            "Indent what belongs together alike, and put a text with a colon between quotes.",
        ) from None
    if not isinstance(record, dict):
        raise DataError("a row must have named parts.", "Begin with `messages:`, as the row did before.")
    return record
