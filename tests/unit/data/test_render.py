"""Rendering a conversation equals what transformers renders, and a template cannot harm or surprise."""

from __future__ import annotations

import json
import pickle
from datetime import datetime
from pathlib import Path

import pytest

from data.encoding.render import ChatTemplate
from engine.contract.errors import DataError, ModelError
from tests.wording import CHATML, MARKED, byte_level, model_folder

MESSAGES = [
    {"role": "system", "content": "Be <brief> & kind."},
    {"role": "user", "content": "2+2? 用中文 🙂"},
    {"role": "assistant", "content": "四"},
]
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich <ZH>"}}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "z": 1, "a": 2}}}
WITH_TOOLS = [
    *MESSAGES,
    {"role": "assistant", "content": "", "tool_calls": [CALL], "reasoning_content": "hm"},
    {"role": "tool", "content": "sun"},
    {"role": "assistant", "content": "Sunny.", "thinking": "easy"},
]
FEATURES = """{#- a comment -#}
{%- set ns = namespace(last=0, seen=[]) %}
{% for message in messages %}
    {%- if message.role == 'tool' %}{% continue %}{% endif %}
    {%- set ns.last = loop.index %}
  {{ bos_token }}[{{ message['role'] | upper }}] {{ message.content | trim }}
    {{ message.thinking }}|{{ message.reasoning_content }}
    {%- if message.tool_calls %}{% for call in message.tool_calls %}
{{ call.function | tojson }}{{ call.function.arguments | tojson(indent=2) }}{% endfor %}{% endif %}
    {%- if ns.last > 4 %}{% break %}{% endif %}
{% endfor %}
{% if tools is not none %}{{ tools | tojson(ensure_ascii=True, separators=(',', ':'), sort_keys=True) }}{% endif %}
{{ eos_token }}{{ pad_token is defined }}{{ documents is none }}{{ dict(a=1) }}{{ dict.fromkeys('ab', 1) }}
{% macro shout(text) %}{{ text.upper() }}!{% endmacro %}{{ shout('ok') }}{{ missing }}{{ messages[0].content[1:3] }}
{% if add_generation_prompt %}[ASSISTANT]{% endif %}"""
SCOPED = (
    "{% for message in messages %}{% set x = 'out' %}{% generation %}{% set x = 'in' %}{{ message.content }}{{ x }}"
    "{% endgeneration %}{{ x }}{% endfor %}"
)


@pytest.mark.parametrize("template", [CHATML, MARKED, FEATURES, SCOPED], ids=["chatml", "marked", "features", "scoped"])
@pytest.mark.parametrize("prompt", [False, True], ids=["whole", "prompt"])
@pytest.mark.parametrize(
    ("messages", "tools"),
    [(MESSAGES, None), (MESSAGES[1:], None), (WITH_TOOLS, [TOOL])],
    ids=["plain", "bare", "tools"],
)
def test_rendering_equals_transformers_byte_for_byte(tmp_path, template, prompt, messages, tools):
    from transformers import PreTrainedTokenizerFast

    folder = model_folder(tmp_path, template, unk_token=None)
    theirs = PreTrainedTokenizerFast.from_pretrained(folder).apply_chat_template(
        messages, tools=tools, add_generation_prompt=prompt, tokenize=False
    )
    assert ChatTemplate.of(folder).render(messages, tools, add_generation_prompt=prompt) == theirs


def test_a_fixed_clock_makes_dated_templates_repeatable():
    template = ChatTemplate("dated", "{{ strftime_now('%d %b %Y') }}", now=datetime(2026, 2, 1))
    assert template.render([]) == "01 Feb 2026"


def test_template_is_found_wherever_a_model_keeps_it(tmp_path):
    file = model_folder(tmp_path / "file", "from file", chat_template="from config")
    assert ChatTemplate.of(file).render([]) == "from file"
    text = model_folder(tmp_path / "text", None, chat_template="from config")
    assert ChatTemplate.of(text).render([]) == "from config"
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "with tools"}]
    listed = ChatTemplate.of(model_folder(tmp_path / "list", None, chat_template=named))
    assert (listed.render([]), listed.render([], [TOOL])) == ("plain", "with tools")
    beside = model_folder(tmp_path / "beside", "plain")
    (beside / "additional_chat_templates").mkdir()
    (beside / "additional_chat_templates" / "tool_use.jinja").write_text("tools beside")
    assert ChatTemplate.of(beside).render([], [TOOL]) == "tools beside"


def test_special_tokens_are_read_in_every_form(tmp_path):
    show = "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ unk_token }}"
    folder = model_folder(tmp_path / "a", show, eos_token={"__type": "AddedToken", "content": "</s>"}, pad_token=None)
    assert ChatTemplate.of(folder).render([]) == "<s></s>"
    older = model_folder(tmp_path / "b", show)
    (older / "special_tokens_map.json").write_text(json.dumps({"bos_token": {"content": "<|im_start|>"}}))
    assert ChatTemplate.of(older).render([]) == "<|im_start|></s>"


def test_a_model_without_a_template_is_told_to_choose_one(tmp_path):
    with pytest.raises(ModelError) as caught:
        ChatTemplate.of(model_folder(tmp_path / "base-model", None))
    assert "base-model brings no chat template" in caught.value.text and "chatml" in caught.value.hint
    with pytest.raises(ModelError, match="no template 'chatmll'.*chatml"):
        ChatTemplate.of(tmp_path / "base-model", "chatmll")
    with pytest.raises(ModelError, match="where qwen2_5 fits its name"):
        ChatTemplate.of(model_folder(tmp_path / "Qwen2.5-7B", None))


def test_our_chatml_ends_turns_with_a_token_that_the_model_knows(tmp_path):
    knows = ChatTemplate.of(model_folder(tmp_path / "a", None), "chatml")
    assert knows.render(MESSAGES[1:], add_generation_prompt=True) == (
        "<s><|im_start|>user\n2+2? 用中文 🙂<|im_end|>\n<|im_start|>assistant\n四<|im_end|>\n<|im_start|>assistant\n"
    )
    lacks = ChatTemplate.of(model_folder(tmp_path / "b", None, byte_level(["<s>", "</s>"])), "chatml")
    assert lacks.render(MESSAGES[1:]) == "<s><|im_start|>user\n2+2? 用中文 🙂</s>\n<|im_start|>assistant\n四</s>\n"
    own = ChatTemplate.of(model_folder(tmp_path / "c", None, bos_token="<|im_start|>"), "chatml")
    assert own.render(MESSAGES).startswith("<|im_start|>system")
    # what is saved beside the weights must render the same without us
    assert ChatTemplate("saved", lacks.source, lacks.tokens).render(MESSAGES) == lacks.render(MESSAGES)


def test_our_chatml_refuses_tools_rather_than_leave_them_out(tmp_path):
    template = ChatTemplate.of(model_folder(tmp_path, None), "chatml")
    for messages, tools in ((MESSAGES, [TOOL]), (WITH_TOOLS, None)):
        with pytest.raises(DataError, match="ChatML has no form for tools"):
            template.render(messages, tools)


@pytest.mark.parametrize(
    ("source", "error", "text"),
    [
        ("{{ raise_exception('roles must alternate') }}", DataError, "refuses this conversation: roles must alternate"),
        ("{{ messages[9].content + 'x' }}", DataError, "refuses this conversation"),
        ("{{ messages[0].content + 1 }}", DataError, "refuses this conversation"),
        ("{{ 1 / 0 }}", DataError, "refuses this conversation"),
        ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", DataError, "refuses this conversation"),
        ("{{ ''.__class__.__mro__ }}", DataError, "refuses this conversation"),
        ("{{ messages.append(1) }}", DataError, "refuses this conversation"),
        ("{% set ns = namespace() %}{% set ns.__class__ = 1 %}", DataError, "refuses this conversation"),
        ("{{ namespace(_x=1) }}", DataError, "refuses this conversation"),
        ("{{ dict.__init__.x }}", DataError, "refuses this conversation"),
        ("\n{% for %}", ModelError, "is broken at line 2"),
    ],
)
def test_a_template_that_fails_or_misbehaves_is_a_sentence(source, error, text):
    with pytest.raises(error) as caught:
        ChatTemplate("odd", source).render(MESSAGES)
    assert text in caught.value.text and "odd" in caught.value.text and caught.value.hint


def test_marked_spans_are_what_the_assistant_says():
    text, spans = ChatTemplate("marked", MARKED).spans([*MESSAGES, *MESSAGES[1:]], None)
    assert text == ChatTemplate("marked", MARKED).render([*MESSAGES, *MESSAGES[1:]])
    assert [text[start:end] for start, end in spans] == ["四<|im_end|>\n"] * 2


def test_text_that_could_be_taken_for_a_marker_is_refused():
    for content in ("\ufdd0", "\ufdd1", "\ufdd1\ufdd0"):
        with pytest.raises(DataError, match="U[+]FDD0"):
            ChatTemplate("marked", MARKED).spans([{"role": "user", "content": content}], None)
        with pytest.raises(DataError, match="U[+]FDD0"):
            ChatTemplate("marked", MARKED).spans([{"role": "assistant", "content": content}], None)


def test_a_template_travels_to_another_process():
    template = ChatTemplate("chatml", CHATML, {"eos_token": "</s>"})
    assert pickle.loads(pickle.dumps(template)).render(MESSAGES) == template.render(MESSAGES)


def test_a_broken_config_file_is_named(tmp_path):
    folder = model_folder(tmp_path)
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(ModelError, match="tokenizer_config.json"):
        ChatTemplate.of(folder)


LLAVA = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}"
)


def test_a_template_that_takes_content_in_parts_alone_is_given_parts(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    seen = [{"role": "user", "content": [{"type": "image", "image": "/a.png"}, {"type": "text", "text": "What?"}]}]
    template = ChatTemplate("llava", LLAVA)
    assert template.render(said) == "USER: Hi ASSISTANT: Hello "
    assert template.render(seen) == "USER: <image>\nWhat? "


def test_a_template_that_takes_text_is_given_text() -> None:
    either = (
        "{% for message in messages %}{% if message['content'] is string %}text {% else %}parts {% endif %}{% endfor %}"
    )
    assert ChatTemplate("either", either).render([{"role": "user", "content": "Hi"}]) == "text "


def test_the_template_that_lies_beside_a_processor_is_read(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", template=None)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": LLAVA}), encoding="utf-8")
    assert ChatTemplate.of(folder).source == LLAVA
