"""Renders a conversation with a chat template, exactly as transformers does, without importing it.

A template is untrusted code from a hub, so it runs in Jinja's sandbox and is handed plain data only. Knows nothing of
token ids; the special tokens are known by their text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from difflib import get_close_matches
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from data.encoding.special import settings, special_tokens, tokenizer_config, vocabulary
from data.encoding.templates import TEMPLATES, families, suggest
from data.models import called
from data.rows.conversation import REASONING, Message
from engine.contract.errors import DataError, ModelError

# Two code points that Unicode will never assign stand around what the assistant says, and are cut out again.
OPEN, CLOSE = "\ufdd0", "\ufdd1"
MARKERS = re.compile(f"[{OPEN}{CLOSE}]")
# What a template can raise when it meets a conversation that it was not written for
FAULTS = (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError)
PARTS = re.compile(r"""\btype\b|\['text'\]|\["text"\]""")  # in templates that look into the parts of a message
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template and the special tokens that it may name; `tool_source`, if any, serves rows that bring tools."""

    name: str
    source: str
    tokens: Mapping[str, str] = field(default_factory=dict)
    tool_source: str | None = None
    now: datetime | None = None  # fixes the clock of templates that print the date

    @classmethod
    def of(cls, model: str | Path, override: str | None = None) -> ChatTemplate:
        """The template of a model folder, or the one of ours that `override` names.

        Raises ModelError when the folder has none or the name is unknown.
        """
        model = Path(model)
        tokens = special_tokens(model)
        if override:
            return cls(override, _ours(override, model), tokens)
        sources = _sources(model)
        if "default" not in sources:
            raise ModelError(*_missing(called(model)))
        return cls(called(model), sources["default"], tokens, sources.get("tool_use"))

    @classmethod
    def if_any(cls, model: str | Path, override: str | None = None) -> ChatTemplate:
        """As `of`, for rows that may be plain text: where the folder has none, one that refuses every conversation."""
        model = Path(model)
        if override or "default" in _sources(model):
            return cls.of(model, override)
        return NoTemplate(called(model), "", special_tokens(model))

    def marks(self, tools: list[dict[str, Any]] | None) -> bool:
        """Whether the template itself marks what the assistant says (`{% generation %}`)."""
        return _marked(self._source(tools))

    def render(
        self,
        messages: list[Message],
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        training: bool = False,
    ) -> str:
        """The text that the model reads; raises DataError when the template refuses the conversation.

        `training` lets a template of ours close the last answer where its vendor's text leaves it open.
        """
        return self._run(messages, tools, add_generation_prompt, mark=False, training=training)

    def question(self, text: str) -> str:
        """What the model reads when it is asked `text`."""
        return self.render([{"role": "user", "content": text}], add_generation_prompt=True)

    def spans(self, messages: list[Message], tools: list[dict[str, Any]] | None) -> tuple[str, list[tuple[int, int]]]:
        """The text in training, and the character spans that the template marks as said by the assistant."""
        if _holds_markers(messages) or _holds_markers(tools):
            raise DataError("the text holds U+FDD0 or U+FDD1, which are no characters.", "Remove them.")
        marked = self._run(messages, tools, False, mark=True, training=True)
        text, spans, end = "", [], 0
        for marker in MARKERS.finditer(marked):
            text += marked[end : marker.start()]
            end = marker.end()
            if marker.group() == CLOSE:
                spans[-1] = (spans[-1][0], len(text))
            elif not spans or spans[-1][1] < len(text):  # what touches the last span goes on with it
                spans.append((len(text), len(text)))
        return text + marked[end:], spans

    def _code(self, tools: list[dict[str, Any]] | None) -> jinja2.Template:
        return _compiled(self._source(tools))

    def _source(self, tools: list[dict[str, Any]] | None) -> str:
        return self.tool_source if tools and self.tool_source else self.source

    def _run(self, messages: list[Message], tools: Any, add_generation_prompt: bool, mark: bool, training: bool) -> str:
        said = [in_parts(message) for message in messages] if self.wants_parts else messages
        return self._filled(said, tools, add_generation_prompt, mark, training)

    @cached_property
    def wants_parts(self) -> bool:
        """Whether the template takes content as a list of parts alone, as some that write pictures do: it is asked."""
        if not PARTS.search(self.source):
            return False
        probe: Message = {"role": "user", "content": "\ufdd2"}
        written = []
        for message in (probe, in_parts(probe)):
            try:
                written.append(probe["content"] in self._filled([message], None, False, mark=False, training=False))
            except DataError:
                written.append(False)
        return written == [False, True]

    def _filled(
        self, messages: list[Message], tools: Any, add_generation_prompt: bool, mark: bool, training: bool
    ) -> str:
        clock = self.now or datetime.now()
        try:
            template = self._code(tools)
            known = {
                **template.globals,
                "messages": [_with_reasoning(message) for message in messages],
                "tools": tools,
                "documents": None,
                "add_generation_prompt": add_generation_prompt,
                "strftime_now": clock.strftime,
                "training": training,
                "_mark": mark,
                **self.tokens,
            }
            # What Template.render does, less the merging of scopes, which takes longer than a short conversation
            return "".join(template.root_render_func(template.new_context(known, shared=True)))
        except jinja2.TemplateSyntaxError as error:
            raise ModelError(
                f"the chat template {self.name} is broken at line {error.lineno}: {error.message}.",
                "Choose another template.",
            ) from None
        except (jinja2.TemplateError, *FAULTS) as error:
            raise DataError(
                f"the template {self.name} refuses this conversation: {error}.",
                "Change the row to what the template expects, or choose another template.",
            ) from None


class NoTemplate(ChatTemplate):
    """What stands for the template of a model that brings none. Plain text needs none; a conversation raises
    DataError."""

    def question(self, text: str) -> str:
        return text

    def _filled(
        self, messages: list[Message], tools: Any, add_generation_prompt: bool, mark: bool, training: bool
    ) -> str:
        raise DataError(*_missing(self.name))


def _missing(model: str) -> tuple[str, str]:
    family = suggest(model)
    fitting = f", where {family.name} fits its name" if family else ""
    return (
        f"the model {model} brings no chat template.",
        f"Choose one under Template{fitting}. A base model usually takes chatml.",
    )


def _holds_markers(value: Any) -> bool:
    """Whether one of the markers is in any text of a message or a tool."""
    if isinstance(value, str):
        return OPEN in value or CLOSE in value
    if isinstance(value, Mapping):
        return any(map(_holds_markers, value)) or any(map(_holds_markers, value.values()))
    return isinstance(value, list) and any(map(_holds_markers, value))


def names() -> list[str]:
    """The templates of ours that a user can choose."""
    return sorted(families())


def _ours(name: str, model: Path) -> str:
    """Our template of that name, with its end-of-turn set to one that the model's vocabulary holds as one token."""
    if name not in names():
        near = get_close_matches(name, names()) or names()
        raise ModelError(f"there is no template {name!r}.", f"Choose one of {', '.join(near)}.")
    source = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    wanted = re.search(r"set end_of_turn = '([^']+)'", source)
    if wanted and wanted.group(1) not in vocabulary(model):
        source = source.replace(wanted.group(0), "set end_of_turn = eos_token")
    return source


def _sources(model: Path) -> dict[str, str]:
    """Every template in a model folder by name; files win over what stands in tokenizer_config.json."""
    stored = tokenizer_config(model).get("chat_template") or {}
    if isinstance(stored, str):
        stored = {"default": stored}
    elif isinstance(stored, list):
        stored = {entry["name"]: entry["template"] for entry in stored}
    if not stored and (beside := settings(model / "chat_template.json").get("chat_template")):
        stored = {"default": beside}  # where processors used to keep it
    files = {"default": model / "chat_template.jinja"}
    files |= {file.stem: file for file in sorted((model / "additional_chat_templates").glob("*.jinja"))}
    return stored | {name: file.read_text(encoding="utf-8") for name, file in files.items() if file.is_file()}


def in_parts(message: Message) -> Message:
    """The message with its text as the one part of its content."""
    content = message["content"]
    if not isinstance(content, str):
        return message
    return {**message, "content": [{"type": "text", "text": content}] if content else []}


def _with_reasoning(message: Message) -> Message:
    """Templates read a thought under several names; all of them are filled, as transformers does."""
    thought = next((message[name] for name in REASONING if message.get(name) is not None), None)
    return message if thought is None else {"thinking": thought, **message, "reasoning_content": thought}


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}`: its body, between the markers when the template runs with `_mark`."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)

        def marker(text: str) -> nodes.Node:
            shown = nodes.CondExpr(nodes.Name("_mark", "load"), nodes.Const(text), nodes.Const(""))
            return nodes.Output([shown]).set_lineno(line)

        # transformers runs the body as a macro, so what is set inside does not leak out: hence the scope
        return [marker(OPEN), nodes.Scope(body).set_lineno(line), marker(CLOSE)]


class _Dict:
    """`dict(...)` for templates, without the attributes of the type."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """`namespace(...)` for templates, which may not store names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # no named self: a template may set one called so
        for name in dict(*args[1:], **kwargs):
            _refuse_hidden(name)
        Namespace.__init__(*args, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_hidden(name)
        super().__setitem__(name, value)


def _refuse_hidden(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a template may not store {name!r}")


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    # Jinja's own filter escapes HTML, which no model has been trained on
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


@lru_cache(maxsize=64)
def _marked(source: str) -> bool:
    return bool(GENERATION.search(source))


@lru_cache(maxsize=64)
def _compiled(source: str) -> jinja2.Template:
    return environment().from_string(source)


def environment(**options: Any) -> ImmutableSandboxedEnvironment:
    """What every template runs in; `options` are Jinja's own."""
    rules = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols], **options
    )
    rules.filters["tojson"] = _tojson
    rules.globals |= {"raise_exception": _raise_exception, "dict": _Dict(), "namespace": _Namespace}
    return rules
