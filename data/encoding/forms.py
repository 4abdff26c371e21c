"""Conversations whose text is known without rendering them: the template's own words, and what is said between them.

A template is code and may do anything with what is said. So it is run once with contents that refuse to be looked at:
where it does no more than write them, every conversation of the same roles has the same words around other contents.
Whatever else it does, and whatever a row brings but roles and text, is left to `data.encoding.mask.locate`, which
decides in every doubtful case. Knows nothing of tokens.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any, NamedTuple, NoReturn, cast

import jinja2
from jinja2 import nodes
from jinja2.visitor import NodeTransformer

from data.encoding.mask import Rendered, TrainOn, locate
from data.encoding.render import CLOSE, OPEN, ChatTemplate, environment
from data.rows.conversation import Message, Row
from engine.contract.errors import DataError

MANY = 1000  # forms; conversations of yet other roles are rendered
BEGIN, END = "\ufdd2", "\ufdd3"  # around the number of a content; Unicode will never assign them
CONTENT = re.compile(f"{BEGIN}([0-9]+){END}")


class Form(NamedTuple):
    """The text of all conversations of the same roles.

    words: what the template writes before each content and behind the last.   order: which content follows each word.
    spans: what is trained, as (word, characters into it) of the beginning and of the end.
    bare: whether contents must have no white space around them, since the template takes it off.
    """

    words: tuple[str, ...]
    order: tuple[int, ...]
    spans: tuple[tuple[int, int, int, int], ...]
    bare: bool

    def suits(self, contents: Sequence[str]) -> bool:
        return not self.bare or all(said == said.strip() for said in contents)

    def filled(self, contents: Sequence[str]) -> Rendered:
        pieces: list[str] = []
        starts, at = [], 0
        for word, which in zip(self.words, self.order, strict=False):
            said = contents[which]
            starts.append(at)
            pieces += (word, said)
            at += len(word) + len(said)
        starts.append(at)
        pieces.append(self.words[-1])
        return Rendered("".join(pieces), [(starts[a] + b, starts[c] + d) for a, b, c, d in self.spans])


class Forms:
    """`data.encoding.mask.locate` for many rows: the same results and errors, faster for rows of roles that were seen
    before.
    """

    def __init__(self, template: ChatTemplate, train_on: TrainOn = "assistant") -> None:
        self._template, self._train_on = template, train_on
        self._known: dict[tuple[int, tuple[str, ...]], Form | None] = {}
        self._once: set[tuple[int, tuple[str, ...]]] = set()

    def locate(self, row: Row, since: int = 0) -> Rendered:
        contents = [] if row.tools else _contents(row.messages)
        if not contents:
            return locate(row, self._template, self._train_on, since)
        key = since, tuple([message["role"] for message in row.messages])
        form = self._known.get(key)
        if form and form.suits(contents):
            return form.filled(contents)
        rendered = locate(row, self._template, self._train_on, since)
        if key not in self._known and len(self._known) < MANY:
            if key in self._once:  # a form costs more than a rendering: roles that come but once are not worth it
                form = _form(row, self._template, self._train_on, since)
                wrong = form and form.suits(contents) and form.filled(contents) != rendered
                self._known[key] = None if wrong else form
            elif len(self._once) < MANY:
                self._once.add(key)
        return rendered


def _contents(messages: Sequence[Message]) -> list[str]:
    """What is said; nothing when a message has more to it than a role and a text."""
    contents = []
    for message in messages:
        said = message["content"]
        if len(message) != 2 or type(said) is not str or not said or OPEN in said or CLOSE in said:
            return []
        contents.append(said)
    return contents


def _form(row: Row, template: ChatTemplate, train_on: TrainOn, since: int) -> Form | None:
    """The form of all conversations of the row's roles; None where the template may do more than write them."""
    numbered = [{**message, "content": f"{BEGIN}{at}{END}"} for at, message in enumerate(row.messages)]
    probe = replace(row, messages=numbered)
    sealing = _Sealing(template.name, template.source, template.tokens, None, template.now, template)
    try:
        found = locate(probe, sealing, train_on, since)
        if found != locate(probe, template, train_on, since):
            return None
    except (DataError, _Opened):
        return None
    # What `locate` makes of one rendering, or of one that ends where a span does, is the same for all contents
    by_prefix = len(sealing.written) > 1
    if by_prefix and (template.marks(None) or any(found.text[:end] not in sealing.written for _, end in found.spans)):
        return None
    pieces = CONTENT.split(found.text)
    words, order = pieces[::2], pieces[1::2]
    lengths = [len(word) + len(BEGIN + at + END) for word, at in zip(words, order, strict=False)]
    starts = [0, *accumulate(lengths)]

    def within(place: int) -> tuple[int, int]:
        which = bisect_right(starts, place) - 1
        return which, place - starts[which]

    borders = tuple((*within(begin), *within(end)) for begin, end in found.spans)
    return Form(tuple(words), tuple(map(int, order)), borders, sealing.stripped != [])


class _Opened(BaseException):
    """A template looked at what it should only write. Not an Exception: Jinja's tests swallow those."""


class _Sealed:
    """A text to a template that only writes it: it can be joined, asked whether it is there, and stripped if it is one
    content alone. All else raises."""

    __slots__ = ("_said", "_stripped")
    __class__ = property(lambda self: str)  # what `is string` asks

    def __init__(self, said: str, stripped: list[str]) -> None:
        self._said, self._stripped = said, stripped

    def strip(self, *characters: Any) -> _Sealed:
        if any(one is not None for one in characters) or not CONTENT.fullmatch(self._said):
            raise _Opened
        self._stripped.append(self._said)
        return self

    lstrip = rstrip = strip

    def __add__(self, other: Any) -> _Sealed:
        said = _said(other)
        return NotImplemented if said is None else _Sealed(self._said + said, self._stripped)

    def __radd__(self, other: Any) -> _Sealed:
        said = _said(other)
        return NotImplemented if said is None else _Sealed(said + self._said, self._stripped)

    def __bool__(self) -> bool:
        return True

    def __getattr__(self, name: str) -> NoReturn:
        raise _Opened

    def _opened(self, *_: Any) -> NoReturn:
        raise _Opened

    __str__ = __repr__ = __format__ = __len__ = __iter__ = __contains__ = __getitem__ = _opened
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = _opened
    __mod__ = __rmod__ = __mul__ = __rmul__ = __reversed__ = __int__ = __float__ = __index__ = _opened


def _said(value: Any) -> str | None:
    if type(value) is _Sealed:
        return value._said
    return value if type(value) is str else None


def _written(value: Any) -> Any:
    return value._said if type(value) is _Sealed else value


@dataclass(frozen=True)
class _Sealing(ChatTemplate):
    """The template, run with sealed contents. written: its renderings.   stripped: the contents that it stripped."""

    plain: ChatTemplate | None = None
    written: list[str] = field(default_factory=list)
    stripped: list[str] = field(default_factory=list)

    @cached_property
    def wants_parts(self) -> bool:
        return self.plain is not None and self.plain.wants_parts

    def _code(self, tools: Any) -> jinja2.Template:
        return _sealing(self._source(tools))

    def _filled(
        self, messages: list[Message], tools: Any, add_generation_prompt: bool, mark: bool, training: bool
    ) -> str:
        sealed = [{**message, "content": self._sealed(message["content"])} for message in messages]
        text = super()._filled(sealed, tools, add_generation_prompt, mark, training)
        self.written.append(text)
        return text

    def _sealed(self, content: Any) -> Any:
        if isinstance(content, str):
            return _Sealed(content, self.stripped)
        return [{**part, "text": _Sealed(part["text"], self.stripped)} for part in content]


class _Shown(NodeTransformer):
    """The template so that whatever takes a sealed content in is met: `~` becomes `+`, which fails where a side is no
    text, and a block whose text the template itself receives refuses to be written to."""

    def __init__(self) -> None:
        self._within = 0

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        first, *rest = [self.visit(one) for one in node.nodes]
        for one in rest:
            first = nodes.Add(first, one, lineno=node.lineno, environment=node.environment)
        return cast(nodes.Node, first)

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        if self._within:
            node.nodes = [
                one if isinstance(one, nodes.TemplateData)
                else nodes.Filter(one, "unsealed", [], [], None, None, lineno=node.lineno, environment=node.environment)
                for one in node.nodes
            ]  # fmt: skip
        return node

    def _visit_capture(self, node: nodes.Node) -> nodes.Node:
        self._within += 1
        self.generic_visit(node)
        self._within -= 1
        return node

    visit_Macro = visit_CallBlock = visit_AssignBlock = visit_FilterBlock = _visit_capture


def _unsealed(value: Any) -> Any:
    if type(value) is _Sealed:
        raise _Opened
    return value


@lru_cache(maxsize=64)
def _sealing(source: str) -> jinja2.Template:
    """The template, to be run with sealed contents; _Opened where its text changes by itself, or that is not to say."""
    rules = environment(finalize=_written)
    rules.filters["unsealed"] = _unsealed
    tree = rules.parse(source)
    changes = any(name.name == "strftime_now" for name in tree.find_all(nodes.Name))
    if changes or any(test.name == "sameas" for test in tree.find_all(nodes.Test)):
        raise _Opened
    return jinja2.Template.from_code(rules, rules.compile(_Shown().visit(tree)), rules.make_globals(None))
