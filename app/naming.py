"""The contract's sentences in the words on the page: a field by its label, a choice by what stands on its button.

    plain(TrainArgs, "liger (compute.loss) takes rows padded.", {"task": "sft"})
        -> 'liger (“Loss” under Memory and device) takes rows padded.'
    plain(TrainArgs, "Choose lora or full.", {}) -> "Choose LoRA or Full."

`check`, the logs and the command line keep paths and values, which are what is typed there. It knows no argument by
name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from app.theme import Help
from engine.contract.fields import Section, Spec, kind, sections, walk

ENTRY = re.compile(r"[.;] ([a-z]\w*): ")  # of a help text that goes through the choices


@dataclass(frozen=True)
class Named:
    """A field in a sentence. section: where it stands, if the label alone does not say which it is.

    entry: the one entry of a field that holds many (`method.own.rank_pattern`).   seen: it belongs to what is chosen.
    """

    spec: Spec
    section: str = ""
    entry: str = ""
    seen: bool = True

    @property
    def place(self) -> str:
        """What stands behind the label."""
        return f"{f': {self.entry}' if self.entry else ''}{f' under {self.section}' if self.section else ''}"

    @property
    def words(self) -> str:
        return f"“{self.spec.label}”{self.place}"


def plain(root: type[Section], sentence: str, kinds: Mapping[str, str]) -> str:
    """`sentence` with labels in quotes; kinds: which variant of each union is chosen."""
    return "".join(part if isinstance(part, str) else part.words for part in parts(root, sentence, kinds))


def help(root: type[Section], spec: Spec) -> Help:
    """What the (i) of a field says. Its choices, which stand in a row (`lora: ...`), get a line each."""

    def titled(value: str) -> str:
        return titles(root).get((spec.path, value), value)

    what = ENTRY.sub(lambda found: f".\n{titled(found[1])}: ", plain(root, spec.help, {}))
    return Help(what, plain(root, spec.when, {}), plain(root, titled(spec.usual), {}))


def parts(root: type[Section], sentence: str, kinds: Mapping[str, str]) -> Iterator[str | Named]:
    """`sentence`, piece by piece."""
    sentence, end = _titled(root, sentence), 0
    for found in _paths(root).finditer(sentence):
        yield sentence[end : found.start()]
        end = found.end()
        yield named(root, found[1], kinds, found[2].lstrip("."))
    yield sentence[end:]


def named(root: type[Section], path: str, kinds: Mapping[str, str], entry: str = "") -> Named:
    """The field at `path`; of several variants that have one the chosen one's."""

    def seen(spec: Spec) -> bool:
        return not spec.variant or kinds.get(spec.union) == spec.variant

    same = [spec for spec in walk(root) if spec.path == path]
    spec = next(filter(seen, same), same[0])
    twice = any(seen(one) and one.label == spec.label and one.path != path for one in walk(root))
    return Named(spec, spec.section if twice or not seen(spec) else "", entry, seen(spec))


@cache
def _paths(root: type[Section]) -> re.Pattern[str]:
    """Every dotted path, the longest first, and what stands below it."""
    paths = sorted({spec.path for spec in walk(root) if "." in spec.path or "_" in spec.path}, key=len, reverse=True)
    return re.compile(rf"(?<![\w./-])({'|'.join(map(re.escape, paths)) or '(?!)'})((?:\.\w+)*)(?!\w)")


@cache
def titles(root: type[Section]) -> dict[tuple[str, str], str]:
    """(`method.kind`, `lora`) -> `LoRA`."""
    return {
        (f"{name}.kind", kind(member)): member.title or kind(member)
        for name, field in root.model_fields.items()
        for member in sections(field.annotation, field.metadata)
        if "kind" in member.model_fields
    }


def _titled(root: type[Section], sentence: str) -> str:
    """`sentence` with kinds by their titles where it chooses one, or says after it which field holds it.

    Nowhere else: `full`, `prompt` and `reward` are words of their own.
    """
    said = {value: title for (_, value), title in titles(root).items()}
    chosen, one = _chosen(root)
    return chosen.sub(lambda row: one.sub(lambda value: said[value[0]], row[0]), sentence)


@cache
def _chosen(root: type[Section]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Kinds in a row as sentences choose among them (`Choose lora or full`, `sft (task.kind)`), and one of these."""
    one = rf"(?<![\w./-])(?:{'|'.join(re.escape(value) for _, value in titles(root)) or '(?!)'})(?![\w/-]|\.\w)"
    row = rf"{one}(?:(?:, or | or |, | and ){one})*"
    before, behind = r"(?:(?<=[Cc]hoose )|(?<=\.kind to ))", r"(?= \((?:[^()]*, )?\w+\.kind\b)"
    return re.compile(f"{before}{row}|{row}{behind}"), re.compile(one)
