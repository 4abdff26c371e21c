"""How an argument is declared, and how the declarations are read back.

    learning_rate: float | Auto = arg(AUTO, "Peak learning rate.", when="...", usual="1e-5 to 5e-4",
                                      to="trainer.learning_rate", basic=True, gt=0, lt=1)

`walk(TrainArgs)` yields one flat, ordered list of `Spec`; the form, the command line, the help, the documentation and
the translation to other libraries' configs are small functions of it. This module knows no argument by name.
"""

from __future__ import annotations

import operator
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from engine.contract.own import Own

AUTO: Literal["auto"] = "auto"
Auto = Literal["auto"]
MANY = 1_000_000_000  # more rows or steps than any run has

LONGEST = 255  # bytes of a file's name, on any file system
_KEEPS = {"ge": operator.ge, "gt": operator.gt, "le": operator.le, "lt": operator.lt}


class Section(BaseModel):
    """A group of arguments; its docstring is its heading's help.

    A bare string is read as a list of one where a list is wanted.
    `shorthand` names the field that a bare value stands for: `model=folder` means `model.path=folder`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True)
    title: ClassVar[str] = ""
    shorthand: ClassVar[str] = ""

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, given: Any) -> Any:
        if given is None:
            return {}  # a heading with nothing below it
        if cls.shorthand and isinstance(given, (str, list)):
            given = {cls.shorthand: given}
        if not isinstance(given, dict):
            return given
        return {str(name): cls._edged(cls.model_fields.get(str(name)), value) for name, value in given.items()}

    @staticmethod
    def _edged(field: FieldInfo | None, value: Any) -> Any:
        """`value` with what YAML made of a word undone: a lone word in a list's place, true and false in a number's."""
        if field is None:
            return value
        if isinstance(value, bool) and bool not in _parts(field.annotation) and Any not in _parts(field.annotation):
            value = str(value).lower()  # pydantic would read true as 1
        return [value] if get_origin(field.annotation) is list and isinstance(value, str) else value

    @field_validator("*", mode="after")
    @classmethod
    def _keep_limits(cls, value: Any, info: ValidationInfo) -> Any:
        # Here and not by pydantic's own constraints, which a union such as `float | Auto` cannot carry.
        said = cls.model_fields[info.field_name or ""].json_schema_extra
        extra: dict[str, Any] = said if isinstance(said, dict) else {}
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if not all(_KEEPS[name](value, limit) for name, limit in extra.get("limits", {}).items()):
                raise PydanticCustomError("out_of_range", "out of range")
        names = value if isinstance(value, list) else [value]
        if extra.get("choices") and any(len(part.encode()) > LONGEST for one in names for part in one.split("/")):
            raise PydanticCustomError("sentence", "{sentence}", {"sentence": "it is too long for a name or a path."})
        return value


def arg(
    default: Any,
    help: str,
    *,
    when: str,
    usual: str,
    label: str = "",
    unit: str = "",
    to: str = "",
    basic: bool = False,
    lines: int = 1,
    choices: str = "",
    known: Mapping[str, Any] | None = None,
    by: str = "",
    only: str = "",
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    **rules: Any,
) -> Any:
    """Declare an argument.

    help, when, usual: what it does, when to change it, its usual range; none may be empty.
    to: where it goes unchanged, as `config.field` of an upstream configuration (`trainer`, `peft`, `model`).
    basic: stays in sight on the form.   lines: a text box of that height.
    choices: name of a list that only the running board knows (`models`, `datasets`, `templates`, `checkpoints`).
    known: the names that a map has values for, each an `Own`; with `by`, such a table for each value of that field.
    only: `map.name`: it says something only while the map beside it holds that name.
    ge, gt, le, lt: limits of a number.   rules: min_length, max_length, pattern: passed to pydantic.
    """
    limits = {"ge": ge, "gt": gt, "le": le, "lt": lt}
    extra: dict[str, Any] = {
        "when": when,
        "usual": usual,
        "label": label,
        "unit": unit,
        "to": to,
        "basic": basic,
        "lines": lines,
        "choices": choices,
        "known": known,
        "by": by,
        "only": only,
        "limits": {name: limit for name, limit in limits.items() if limit is not None},
    }
    if isinstance(default, (list, dict)):
        return Field(default_factory=default.copy, description=help, json_schema_extra=extra, **rules)
    return Field(default, description=help, json_schema_extra=extra, **rules)


def tagged(*variants: type[Section]) -> Any:
    """A union of sections told apart by `kind`; a bare string is read as the kind, and no kind means the first.

    An impossible combination cannot be written down: with `kind: full` there is no rank.
    """

    def expand(given: Any) -> Any:
        if isinstance(given, str):
            return {"kind": given}
        return {"kind": kind(variants[0]), **(given or {})} if isinstance(given, dict | None) else given

    union = Annotated[Union[variants], Discriminator("kind")] if len(variants) > 1 else variants[0]  # noqa: UP007
    return Annotated[union, BeforeValidator(expand)]


@dataclass(frozen=True)
class Spec:
    """One argument, as read back from its declaration.

    path is dotted (`method.rank`); variant names the union member that it belongs to (`lora`), or is empty, and union
    the union itself (`method`), which may lie further up: sections may stand inside a variant.
    type is one of `text int float bool choice list map`; auto tells whether `auto` is allowed beside it, optional
    whether nothing (`null`) is. low and high are inclusive unless open_low / open_high. texts: whether the values of a
    map are text, and not any value; known and by: the names that it has values for, by the value at `by` if that is
    set. only: the path of the entry without which it says nothing.
    """

    path: str
    type: str
    default: Any
    help: str
    when: str
    usual: str
    label: str
    unit: str = ""
    to: str = ""
    basic: bool = False
    lines: int = 1
    choices: tuple[str, ...] = ()
    choices_from: str = ""
    auto: bool = False
    optional: bool = False
    low: float | None = None
    high: float | None = None
    open_low: bool = False
    open_high: bool = False
    section: str = ""
    variant: str = ""
    union: str = ""
    texts: bool = False
    known: Mapping[str, Any] | None = None
    by: str = ""
    only: str = ""

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]

    def names(self, chosen: str = "") -> Mapping[str, Own]:
        """The names that the map has values for while `chosen` is what the field at `by` holds."""
        known = self.known or {}
        return known.get(chosen, {}) if self.by else known


@cache
def walk(root: type[Section]) -> tuple[Spec, ...]:
    """Every argument of `root`, in order. A union's tag comes first, as a `choice` named `<path>.kind`."""
    return tuple(_walk(root, "", "", ("", "")))


def _walk(section: type[Section], prefix: str, title: str, within: tuple[str, str]) -> Iterator[Spec]:
    for name, field in section.model_fields.items():
        path = f"{prefix}{name}"
        variants = sections(field.annotation, field.metadata)
        if variants and "kind" in variants[0].model_fields:
            yield _tag(path, field, variants)
            for member in variants:
                yield from _walk(member, f"{path}.", member.title or path, (kind(member), path))
        elif variants:
            yield from _walk(variants[0], f"{path}.", variants[0].title or path, within)
        elif name != "kind":
            yield _spec(path, field, title, within)


def sections(annotation: Any, metadata: list[Any] | None = None) -> tuple[type[Section], ...]:
    """The section types that an annotation names: one for a plain section, several for a tagged union, else none."""
    if get_origin(annotation) is Annotated:
        return sections(get_args(annotation)[0])
    members = get_args(annotation) if _is_union(annotation) else (annotation,)
    if all(isinstance(member, type) and issubclass(member, Section) for member in members):
        return members
    return ()


def kind(member: type[Section]) -> str:
    return str(get_args(member.model_fields["kind"].annotation)[0])


def _tag(path: str, field: FieldInfo, variants: tuple[type[Section], ...]) -> Spec:
    extra = dict(field.json_schema_extra or {})  # type: ignore[arg-type]
    members = {kind(member): member for member in variants}
    summary = " ".join(
        f"{name}: {' '.join((member.__doc__ or '').split())}".strip() for name, member in members.items()
    )
    default = field.get_default(call_default_factory=True)
    return Spec(
        path=f"{path}.kind",
        type="choice",
        default=getattr(default, "kind", next(iter(members))),
        help=f"{field.description or ''} {summary}".strip(),
        when=str(extra.get("when", "")),
        usual=str(extra.get("usual", "")),
        label=str(extra.get("label") or path),
        basic=True,
        choices=tuple(members),
        section=path,
    )


def _spec(path: str, field: FieldInfo, title: str, within: tuple[str, str]) -> Spec:
    extra: dict[str, Any] = dict(field.json_schema_extra or {})  # type: ignore[arg-type]
    above = path.rpartition(".")[0]
    parts = _parts(field.annotation)
    auto = any(AUTO in get_args(part) for part in parts if get_origin(part) is Literal)
    optional = type(None) in parts
    literals = [str(v) for part in parts if get_origin(part) is Literal for v in get_args(part)]
    plain = [part for part in parts if part is not type(None) and get_origin(part) is not Literal]
    limits: dict[str, float] = extra.get("limits", {})
    return Spec(
        path=path,
        type=_type(plain) if plain else "choice",
        default=field.get_default(call_default_factory=True),
        help=field.description or "",
        when=extra.get("when", ""),
        usual=extra.get("usual", ""),
        label=extra.get("label") or path.rpartition(".")[2].replace("_", " ").capitalize(),
        unit=extra.get("unit", ""),
        to=extra.get("to", ""),
        basic=bool(extra.get("basic")),
        lines=int(extra.get("lines", 1)),
        choices=() if plain else tuple(literals),
        choices_from=extra.get("choices", ""),
        auto=auto,
        optional=optional,
        low=limits.get("ge", limits.get("gt")),
        high=limits.get("le", limits.get("lt")),
        open_low="gt" in limits,
        open_high="lt" in limits,
        section=title,
        variant=within[0],
        union=within[1],
        texts=any(get_args(part)[-1] is str for part in plain if get_origin(part) is dict),
        known=extra.get("known"),
        by=f"{above}.{extra['by']}" if extra.get("by") else "",
        only=f"{above}.{extra['only']}" if extra.get("only") else "",
    )


def _parts(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Annotated:
        return _parts(get_args(annotation)[0])
    if _is_union(annotation):
        return tuple(part for member in get_args(annotation) for part in _parts(member))
    return (annotation,)


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def _type(plain: list[Any]) -> str:
    names = {"str": "text", "int": "int", "float": "float", "bool": "bool", "list": "list", "dict": "map"}
    return names[(get_origin(plain[-1]) or plain[-1]).__name__]
