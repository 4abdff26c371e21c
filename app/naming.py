"""The contract's sentences in the words on the page: a field by its label, where they name it by its path.

    plain(TrainArgs, "liger (compute.loss) takes rows padded.", {"task": "sft"})
        -> 'liger (“Loss” under Memory and device) takes rows padded.'

`check`, the logs and the command line keep paths, which are what is typed there. It knows no argument by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from engine.contract.fields import Section, Spec, walk


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


def parts(root: type[Section], sentence: str, kinds: Mapping[str, str]) -> Iterator[str | Named]:
    """`sentence`, piece by piece."""
    end = 0
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
