"""A row's record as text that a person can edit, and back: YAML, in which a text of several lines stands as it reads.

Knows nothing of files and patches; what a record must be is `data.formats`' to say.
"""

from __future__ import annotations

from typing import Any

import yaml

from engine.contract.errors import DataError


class _Writer(yaml.SafeDumper):
    """Writes texts of several lines as blocks, and nothing twice by reference."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(writer: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return writer.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Writer.add_representer(str, _text)


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
