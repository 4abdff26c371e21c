"""Which column of a file means what: fields of a format on one side, the columns of a record on the other.

Knows nothing of any one format, nor what the values are turned into.
"""

from __future__ import annotations

import base64
import datetime
import math
from collections.abc import Callable, Sequence
from collections.abc import Mapping as Names
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from data.rows.conversation import Kind
from engine.contract.errors import DataError

AUTO = "auto"
Record = dict[str, Any]
Role = Literal["system", "user", "assistant", "tool", "call"]
DEEPEST = 50  # lists and objects inside one another that a kept column may have


class Mapping(BaseModel):
    """How the records of one dataset are read: editable, and small enough to be kept in a list of datasets.

    format: `auto` or a name in `data.rows.formats.FORMATS`.
    columns: field of the format -> column of the file; a dotted path goes into objects (`sql.human_readable`), several
    columns are separated by commas where a field takes many, and an empty name leaves the field unused. A field that is
    not here is found by its usual names.
    roles: name of a speaker in the file -> `system`, `user`, `assistant`, `tool` or `call` (a tool call).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: str = AUTO
    columns: dict[str, str] = {}
    roles: dict[str, Role] = {}


@dataclass(frozen=True)
class Field:
    """One thing that a format reads.

    name: the word for it in a mapping.   names: the columns that usually hold it, the likeliest first.
    help: what it is, as a phrase.   required: the format cannot be without it.
    inside: the field whose objects hold this one, as a turn holds its role; empty for a column of the record.
    many: several columns may hold it together, as the choices A, B, C and D do.
    """

    name: str
    names: tuple[str, ...]
    help: str
    required: bool = False
    inside: str = ""
    many: bool = False


@dataclass(frozen=True)
class Format:
    """How one format is told from the others, and how its records become rows.

    fits: whether a record has what the format needs, in the right shape; it never raises.
    build: the fields of a `Row` out of the values, but for its place, tools and extra; raises DataError.
    """

    name: str
    title: str
    kind: Kind
    fields: tuple[Field, ...]
    fits: Callable[[Values], bool]
    build: Callable[[Values], dict[str, Any]]

    @property
    def columns(self) -> str:
        """What its columns are usually called, in a line."""
        needed = [f"{field.names[0]}" for field in self.fields if field.required and not field.inside]
        perhaps = [f"{field.names[0]}" for field in self.fields if not field.required and not field.inside]
        return ", ".join(needed) + (f"; perhaps {', '.join(perhaps)}" if perhaps else "")


def at(record: Any, path: str) -> Any:
    """What lies at the column or dotted path, or None; a column whose own name has dots comes first."""
    if not isinstance(record, dict):
        return None
    if path in record or "." not in path:
        return record.get(path)
    head, _, rest = path.partition(".")
    return at(record.get(head), rest)


class Values:
    """One record as a format sees it: called with the name of a field, it gives the value or None."""

    def __init__(self, record: Record, mapping: Mapping, fields: Sequence[Field]) -> None:
        self.record = record
        self.roles = mapping.roles
        self.columns = mapping.columns
        self.fields = {field.name: field for field in fields}
        self.read: set[str] = set()  # the columns that were asked for, whatever was in them
        others = [name for name in record if not (isinstance(name, str) and name.islower())]
        self.folded = {str(name).lower(): name for name in others}

    def __call__(self, name: str) -> Any:
        path = self.column(name)
        if not path:
            return None
        self.read.add(path)
        if "," in path:
            self.read.update(part.strip() for part in path.split(","))
        return self.at(path)

    def at(self, path: str) -> Any:
        """What lies at a column, a dotted path, or at several columns: then a list, when none of them is missing."""
        if path in self.record:
            return self.record[path]
        if "," not in path:
            return at(self.record, path)
        found = [at(self.record, self.folded.get(part.strip(), part.strip())) for part in path.split(",")]
        return None if any(value is None for value in found) else found

    def column(self, name: str) -> str:
        """The column that holds the field: the one of the mapping, else the first usual name that has a value."""
        if name in self.columns or name not in self.fields:
            return self.columns.get(name, "")
        for usual in self.fields[name].names:
            value = self.record.get(usual)
            if value is None and ("." in usual or "," in usual):
                value = self.at(usual)
            if value is not None:
                return usual
        others = (self.folded.get(usual.lower(), "") for usual in self.fields[name].names) if self.folded else ()
        return next((other for other in others if other and self.record[other] is not None), "")

    def key(self, name: str, thing: Names[str, Any]) -> str:
        """Under which key an object (a turn) holds the field, or an empty text."""
        if (stated := self.columns.get(name, "")) and stated in thing:
            return stated
        return next((key for key in self.fields[name].names if key in thing), "") if name in self.fields else ""

    def rest(self, taken: frozenset[str]) -> dict[str, Any]:
        """The columns that the format does not read, as JSON can say them; a name that is `taken` gets a `_`."""
        rest: dict[str, Any] = {}
        for name, value in self.record.items():
            if name in self.read or (kept := plain(value)) is None:
                continue
            name = str(name)
            while name in taken or name in rest:
                name += "_"
            rest[name] = kept
        return rest


def plain(value: Any, depth: int = 0) -> Any:
    """The value as JSON can say it: dates and decimals as text, bytes as base64, a number that is none as nothing."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth > DEEPEST:
        raise DataError("a column holds lists or objects nested too deeply.")
    if isinstance(value, dict):
        return {str(name): plain(inner, depth + 1) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner, depth + 1) for inner in value]
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    return str(value)
