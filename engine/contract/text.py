"""Arguments as text and back: YAML or JSON files, `a.b=c` overrides, and every problem in one message."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from engine.contract.args import KINDS, AnyArgs
from engine.contract.errors import ArgsError, Problem
from engine.contract.fields import Section, Spec, sections, walk
from engine.contract.root import Args


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars: only true and false are bool (`no` stays a word), and 2e-4 is a number."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:float",
                                                                     "tag:yaml.org,2002:timestamp")]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}  # fmt: skip
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_FLOAT = re.compile(
    r"^[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
)


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would read as a number, and escapes the line separators that PyYAML writes as they are."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = '"' if re.search("[\x85\u2028\u2029\ufeff]", data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)
for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def read(text: str) -> Any:
    """The value that YAML (or JSON, which is YAML) says. Raises ArgsError where it is neither."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - derived from SafeLoader
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ArgsError([Problem("", f"This is not YAML: {where}{getattr(problem, 'problem', problem)}.")]) from None
    except RecursionError:
        raise ArgsError([Problem("", "This is nested too deep to be arguments.")]) from None


def dump(args: Args) -> str:
    """The full arguments as YAML, defaults included: a run must not change meaning when a default does."""
    content = {"kind": args.kind, **args.model_dump(mode="json")}  # type: ignore[attr-defined]
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def parse(content: Any, overrides: Iterable[str] = (), *, kind: str = "") -> AnyArgs:
    """Arguments from a parsed file and `a.b=c` overrides. Raises ArgsError with every problem at once.

    kind: the kind that is expected; the content may then leave it out.
    """
    if content is None:
        content = {}
    if not isinstance(content, Mapping):
        raise ArgsError([Problem("", "The arguments must be a list of `name: value` lines.")])
    said = str(content.get("kind", kind or "train"))
    if said not in KINDS or (kind and said != kind):
        expected = f"`kind: {kind}`" if kind else f"one of {', '.join(KINDS)}"
        raise ArgsError([Problem("kind", f"`{said}` is not what is expected here: {expected}.")])
    content, problems = overridden(KINDS[said], dict(content), overrides)
    args, found = checked(KINDS[said], {**content, "kind": said})
    if args is None or problems:
        raise ArgsError([*problems, *found])
    return args  # type: ignore[no-any-return]


def load(path: Path, overrides: Iterable[str] = (), *, kind: str = "") -> AnyArgs:
    """Arguments from a YAML or JSON file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ArgsError([Problem("", f"There is no file {path}.")]) from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise ArgsError([Problem("", f"{path} is not a text file.")]) from None
    return parse(read(text), overrides, kind=kind)


def overridden(
    root: type[Section], content: dict[str, Any], overrides: Iterable[str]
) -> tuple[dict[str, Any], list[Problem]]:
    """`content` with each `a.b=value` put in its place; values are read as YAML."""
    problems = []
    for text in overrides:
        path, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][\w.]*", path):
            problems.append(Problem("", f"`{text}` is not of the form name=value, such as optim.learning_rate=1e-4."))
            continue
        try:
            content = _with(root, content, path.split("."), _said(root, path, value))
        except ArgsError as found:
            problems += found.problems
    return content, problems


def _said(root: type[Section], path: str, text: str) -> Any:
    """What `text` means for the argument at `path`: a text is taken as it stands, `12` and `Note: this` included."""
    value = _value(text)
    spec = next((spec for spec in walk(root) if spec.path == path), None)
    if spec is None:
        return value
    if spec.optional and not text:
        return None
    if spec.type == "list" and value == text and text.startswith("["):
        hint = "Put each entry that holds any of ? : , [ ] { } # into quotes."
        raise ArgsError([Problem(path, f"`{text}` begins as a list and cannot be read as one. {hint}")])
    if spec.type == "map" and isinstance(value, str) and "=" in value:
        pairs = (pair.partition("=") for pair in re.split(r",\s*(?=[^,=]+=)", value))
        return {name.strip(): _value(item.strip()) for name, _, item in pairs}
    if spec.type == "text" and not isinstance(value, str) or spec.type == "list" and not isinstance(value, (str, list)):
        return text
    return value


def _value(text: str) -> Any:
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 - derived from SafeLoader
    except (yaml.YAMLError, RecursionError):
        return text
    # YAML would fold the lines of a plain text, and read nothing as null.
    plain = value is None or (isinstance(value, str) and not text.startswith(("'", '"')))
    return None if text in ("null", "~") else text if plain else value


def _with(section: type[Section] | None, content: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    head, *rest = path
    field = section.model_fields.get(head) if section else None
    inside = sections(field.annotation) if field else ()
    inner = content.get(head)
    if not rest:
        short = inside[0].shorthand or "kind" if inside else ""
        known = inside[0].model_fields.get(short) if inside else None
        # `data=my.jsonl` after `data.max_length=99` says the rows alone; another method begins anew.
        if known and isinstance(inner, Mapping) and not isinstance(value, Mapping):
            if short != "kind" or inner.get("kind", known.default) == value:
                return {**content, head: {**inner, short: value}}
        return {**content, head: value}
    if isinstance(inner, (str, list)) and inside:
        # What a bare value stands for: `method=full method.x=1`, `data=my.jsonl data.max_rows=10`.
        inner = {inside[0].shorthand or "kind": inner}
    inner = inner if isinstance(inner, dict) else {}
    return {**content, head: _with(inside[0] if inside else None, inner, rest, value)}


def checked(root: type[Args], content: Mapping[str, Any]) -> tuple[Any, list[Problem]]:
    """The arguments, or None and every problem: of single fields, and of the rules over the fields that are fine."""
    try:
        return root.model_validate(content), []
    except ValidationError as error:
        problems = _problems(root, error, content)
    named = {problem.path for problem in problems}
    specs, rest = _specs(root, content), content
    for path in named:
        union, _, name = path.rpartition(".")
        # A kind that there is, and that does not go with the rest, takes its fields along: they are no other kind's.
        known = name == "kind" and _chosen(content, union) in specs[path].choices
        rest = _without(rest, (union if known else path).split("."))
    try:
        root.model_validate(rest)
    except ValidationError as error:
        problems += [problem for problem in _problems(root, error, content) if problem.path not in named]
    return None, problems


def _without(content: Any, path: list[str]) -> Any:
    if not isinstance(content, Mapping):
        return {}
    head, *rest = path
    if not rest or not isinstance(content.get(head), Mapping):
        return {key: value for key, value in content.items() if key != head}
    return {**content, head: _without(content[head], rest)}


def _problems(root: type[Args], error: ValidationError, content: Mapping[str, Any]) -> list[Problem]:
    specs = _specs(root, content)
    found: dict[str, Problem] = {}
    for detail in error.errors(include_url=False):
        if detail["type"] == "rules":
            for problem in detail["ctx"]["problems"]:
                found.setdefault(problem.path, problem)
            continue
        path = _path(detail["loc"], specs, root)
        if path not in found:
            unknown = detail["type"] == "extra_forbidden"
            said = _unknown(path, specs, content, root) if unknown else _sentence(path, detail, specs, content, root)
            found[path] = Problem(path, said)
    return list(found.values())


def _specs(root: type[Args], content: Mapping[str, Any]) -> dict[str, Spec]:
    """Every argument by its path; where several variants have it, that of the variant which `content` chooses."""
    found: dict[str, Spec] = {}
    for spec in walk(root):
        if spec.path not in found or spec.variant == _chosen(content, spec.union):
            found[spec.path] = spec
    return found


def _chosen(content: Mapping[str, Any], union: str) -> Any:
    """The tag that `content` says for a union, None where it says none."""
    said = at(content, union)
    return said.get("kind") if isinstance(said, Mapping) else said


def _path(loc: tuple[int | str, ...], specs: Mapping[str, Spec], root: type[Args]) -> str:
    """`loc` without what pydantic adds: union tags (`method.lora.rank`) and branches (`rate.float`)."""
    parts = [str(part) for part in loc if isinstance(part, str)]
    if len(parts) > 1 and f"{parts[0]}.kind" in specs and parts[1] in specs[f"{parts[0]}.kind"].choices:
        parts.pop(1)
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in specs:
            return ".".join(parts[:end])
    path = ".".join(parts)
    return f"{path}.kind" if f"{path}.kind" in specs else path


def _sentence(path: str, detail: Any, specs: Mapping[str, Spec], content: Mapping[str, Any], root: type[Args]) -> str:
    value, kind = detail["input"], detail["type"]
    spec = specs.get(path)
    if inside := [name for name in specs if name.startswith(f"{path}.")]:
        return f"{value!r} is not a group of arguments such as {inside[0]}."
    if spec is None:
        return _unknown(path, specs, content, root)
    if kind.startswith("union_tag"):
        value = value.get("kind") if isinstance(value, Mapping) else value
        return f"`{value}` is not one of {_listed(spec.choices)}.{_nearest(str(value), spec.choices)}"
    shown = repr(value) if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    if kind == "sentence":
        said = str(detail["ctx"]["sentence"])
        return said[0].upper() + said[1:]
    if kind == "out_of_range":
        return f"{shown} is out of range: it must be {_range(spec)}."
    if kind in ("too_short", "string_too_short"):
        return "It must not be empty."
    if kind == "string_too_long":
        return f"It is too long: at most {detail['ctx']['max_length']} characters."
    if kind == "string_pattern_mismatch":
        return f"{shown} has characters that are not allowed here: use {spec.usual}."
    if kind == "string_type" and isinstance(value, (int, float)):
        return f"{shown} is not text: put it into quotes."
    if spec.type == "choice":
        return f"{shown} is not one of {_listed(spec.choices)}.{_nearest(str(value), spec.choices)}"
    whole, last = at(content, path), detail["loc"][-1]
    if isinstance(whole, Mapping) and isinstance(value, str) and last in whole:
        return f"{last}={value}: {shown} is not a number."
    return f"{shown} is not {_kind(spec)}."


def _unknown(path: str, specs: Mapping[str, Spec], content: Mapping[str, Any], root: type[Args]) -> str:
    section, _, name = path.rpartition(".")
    here = [p for p in specs if p.rpartition(".")[0] == section]
    having = [spec for spec in walk(root) if spec.variant and f"{spec.path}.".startswith(f"{path}.")]
    if having and (tag := _chosen(content, union := having[0].union)):
        kinds = _listed(dict.fromkeys(spec.variant for spec in having))
        return f"There is no such argument with {union}: {tag}; it belongs to {union}: {kinds}."
    everywhere = difflib.get_close_matches(path, specs, n=1, cutoff=0.75)
    elsewhere = [p for p in specs if p.rpartition(".")[2] == name] if name else []
    if not section:
        here += {p.partition(".")[0] for p in specs}
    near = difflib.get_close_matches(name, [p.rpartition(".")[2] for p in here], n=1, cutoff=0.6)
    if near:
        return f"There is no such argument. Did you mean {f'{section}.' if section else ''}{near[0]}?"
    if guess := (elsewhere or everywhere):
        return f"There is no such argument. Did you mean {guess[0]}?"
    return "There is no such argument."


def _nearest(word: str, choices: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f" Did you mean {near[0]}?" if near else ""


def _listed(choices: Iterable[str]) -> str:
    return ", ".join(choices)


def _kind(spec: Spec) -> str:
    words = {"int": "a whole number", "float": "a number", "bool": "true or false", "text": "text",
             "list": "a list", "map": "a list of name=value pairs"}[spec.type]  # fmt: skip
    return words + (" or auto" if spec.auto else "") + (" or empty" if spec.optional else "")


def _range(spec: Spec) -> str:
    low = f"{'above' if spec.open_low else 'at least'} {_number(spec.low)}" if spec.low is not None else ""
    high = f"{'below' if spec.open_high else 'at most'} {_number(spec.high)}" if spec.high is not None else ""
    return " and ".join(filter(None, (low, high))) + (" or auto" if spec.auto else "")


def _number(limit: float) -> str:
    return f"{limit:,.0f}" if limit == int(limit) else f"{limit:g}"


def changes(args: Args) -> list[tuple[str, Any]]:
    """(path, value) of every argument that is not at its default, in the order of declaration. Tags come first."""
    found = []
    content = args.model_dump(mode="json")
    for spec in walk(type(args)):
        value = at(content, spec.path)
        if spec.variant and at(content, f"{spec.union}.kind") != spec.variant:
            continue
        if value != spec.default:
            found.append((spec.path, value))
    return found


def at(content: Any, path: str) -> Any:
    """The value at a dotted path, or None."""
    for name in path.split("."):
        content = content.get(name) if isinstance(content, Mapping) else None
    return content


def command(args: Args) -> str:
    """The shell command that repeats this run: every value that is not at its default, quoted, safe to paste."""
    words = [f"{path}={flow(value)}" for path, value in changes(args)]
    return " ".join(["python -m engine", args.kind, *map(shlex.quote, words)])  # type: ignore[attr-defined]


def flow(value: Any) -> str:
    """A value as one line of YAML that `_value` reads back unchanged."""
    if isinstance(value, str) and _value(value) == value:
        return value
    if value is None or isinstance(value, (bool, int, float)):
        return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    flow = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, allow_unicode=True, width=2**31)
    return flow.strip().removesuffix("\n...")
