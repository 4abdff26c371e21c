"""A form stands for the rendering only where both must be the same; on all else the exact way decides."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from data.encoding.forms import Forms
from data.encoding.mask import locate
from data.encoding.render import ChatTemplate
from data.encoding.templates import TEMPLATES
from data.rows.conversation import Row
from engine.contract.errors import DataError
from tests.wording import CHATML, MARKED

SOURCES = {file.stem: file.read_text(encoding="utf-8") for file in sorted(TEMPLATES.glob("*.jinja"))}
PIECES = "a|Hi| |\n|<im_end>|<|end|>|</s>|</think>|<think>|é|\u3000|\ufdd0|\ufdd2|0".split("|")
CONTENTS = some.lists(some.sampled_from(PIECES), max_size=4).map("".join)
ROWS = some.lists(some.lists(CONTENTS, min_size=4, max_size=4), min_size=3, max_size=3)


def template(source: str) -> ChatTemplate:
    return ChatTemplate("test", source, {"bos_token": "<s>", "eos_token": "</s>"})


def row(*contents: str, **more: str) -> Row:
    roles = ("user", "assistant") * 2
    turns = [{"role": role, "content": said, **more} for role, said in zip(roles, contents, strict=False)]
    return Row(turns, None, "rows.jsonl", 1)


def speaking(said: str) -> str:
    """A template that writes `said` for each message."""
    turn = "{% for message in messages %}{{ '<' + message.role + '>' }}" + said + "{{ '</s>' }}{% endfor %}"
    return turn + "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"


def outcome(found, *what):
    try:
        return found(*what)
    except DataError as problem:
        return str(problem)


@pytest.fixture
def runs(monkeypatch):
    """A mark for every time that a template is run."""
    found, run = [], ChatTemplate._filled
    monkeypatch.setattr(ChatTemplate, "_filled", lambda *what: (found.append(1), run(*what))[1])
    return found


@pytest.mark.parametrize("name", SOURCES)
@settings(max_examples=15)
@given(rows=ROWS, mode=some.sampled_from(["assistant", "last", "everything"]))
def test_every_template_of_ours_gives_the_same_as_the_exact_way(name, rows, mode):
    asked = template(SOURCES[name])
    forms = Forms(asked, mode)
    for contents in (["Hi", "Yes.", "And?", "No."], ["a", "b", "c", "d"], *rows):
        assert outcome(forms.locate, row(*contents)) == outcome(locate, row(*contents), asked, mode)


@pytest.mark.parametrize("source", [CHATML, MARKED, SOURCES["qwen2_5"], SOURCES["llama3"], SOURCES["phi4"]])
def test_rows_of_the_same_roles_are_rendered_no_more(source, runs):
    forms = Forms(template(source))
    for _ in range(2):
        forms.locate(row("Hi", "Yes."))
    runs.clear()
    found = forms.locate(row("Why?", "Because."))
    assert not runs
    assert found == locate(row("Why?", "Because."), template(source))
    assert pickle.loads(pickle.dumps(forms)).locate(row("Why?", "Because.")) == found


@pytest.mark.parametrize(
    "said",
    [
        "{{ 'secret' if 'x' in message.content else message.content }}",
        "{{ message.content | replace('x', 'y') }}",
        "{{ message.content[:9] }}{{ message.content[9:] }}",
        "{% set text = 'a' ~ message.content %}{{ text[1:] }}",
        "{% set text %}{{ message.content }}{% endset %}{{ text if text != 'x' else 'y' }}",
        "{% macro told(text) %}{{ text }}{% endmacro %}{{ told(message.content) | replace('x', 'y') }}",
        "{{ message.content }}{{ ' ' * (message.content | length) }}",
        "{{ message.content }}{{ '!' if message.content == 'x' }}",
        "{{ message.content }}{{ message | tojson }}",
        "{{ message.content }}{{ '%s' % message.content | upper }}",
        "{{ message.content }}{{ '?' if message.content is sameas messages[0].content }}",
        "{{ message.content }}{{ '?' if message.content in ['x', 'z'] }}",
        "{{ message.content }}{{ {'x': 'y'}[message.content] }}",
        "{{ message.content }}{{ strftime_now('%Y') }}",
        "{{ (message.content + ' ') | trim }}{{ message.content }}",
    ],
)
def test_a_template_that_looks_at_what_is_said_or_changes_by_itself_is_rendered_each_time(said, runs):
    asked = template(speaking(said))
    forms = Forms(asked)
    for contents in (("Hi", "Yes."), ("a", "b"), ("x", "x"), (" x ", "x\n")):
        runs.clear()
        found = outcome(forms.locate, row(*contents))
        assert runs
        assert found == outcome(locate, row(*contents), asked)


def test_white_space_that_a_template_takes_off_and_messages_with_more_to_them_are_left_to_it(runs):
    asked = template(speaking("{{ message.content | trim }}{{ message.name }}"))
    forms = Forms(asked)
    for _ in range(3):
        forms.locate(row("Hi", "Yes."))
    for other in (row(" Hi", "Yes."), row("Hi", "Yes.\n"), row("Hi", "Yes.", name="Ann")):
        runs.clear()
        found = forms.locate(other)
        assert runs
        assert found == locate(other, asked)
