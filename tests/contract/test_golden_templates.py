"""Our rendering equals transformers' on vendors' own templates, and our templates equal the golden renderings."""

from __future__ import annotations

import json
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.encoding.mask import tokenise
from data.encoding.render import ChatTemplate, in_parts
from data.encoding.templates import families
from data.encoding.tokens import TextTokenizer
from data.rows.conversation import Row
from engine.contract.errors import BoardError
from tests.wording import SPECIAL, byte_level

GOLDEN = json.loads((Path(__file__).resolve().parents[1] / "golden_templates.json").read_text(encoding="utf-8"))
TOKENS = {"bos_token": "{{BOS}}", "eos_token": "{{EOS}}"}
WRITTEN = datetime(2026, 11, 21)  # the day that dated templates have printed into the golden text
# Templates that TRL brings, byte for byte the vendors', and the family whose rendering is on record
VENDORS = {
    "llama3": "llama-3", "phi3": "phi-3", "qwen2_5": "qwen2.5", "gemma3": "gemma-3", "gptoss": "gpt-oss",
    "cohere": "cohere", "qwen3": "qwen3", "qwen2_5_vl": "qwen2.5-vl", "lfm2": "lfm2", "phi3_5": "phi-3.5",
}  # fmt: skip


# Templates that have a twin with generation markers, by another hand than ours
PAIRS = ["cohere", "gemma3", "lfm2", "llama3", "phi3", "phi3_5", "qwen2_5_vl", "qwen3_instruct_2507", "qwen3_vl"]
# Ours, the vendor's it is written after, and what a conversation may hold beyond text
TWINS = {
    "qwen2_5": ("qwen2_5", "calls"), "qwen3": ("qwen3", "calls thoughts"), "qwen2_vl": ("qwen2_5_vl", ""),
    "qwen3_instruct": ("qwen3_instruct_2507", "calls"), "qwen3_5": ("qwen3_5_think", "calls thoughts"),
    "qwen3_5_nothink": ("qwen3_5_nothink", "calls thoughts"), "llama3": ("llama3", ""), "phi3": ("phi3_5", ""),
    "llama3_1": ("llama3_1", "single"), "llama3_2": ("llama3_2", "single"), "gemma3": ("gemma3", ""),
    "gemma4": ("gemma4_v5", "calls thoughts silent"), "glm4_6": ("glm4moe", "calls thoughts"),
    "command_r": ("cohere", ""), "lfm2": ("lfm2_v2", "calls"), "gpt_oss": ("gptoss", "single thoughts silent"),
}  # fmt: skip
ENDS = ["{{EOS}}", "<|end|>", "<|eot_id|>", "<end_of_turn>", "<|END_OF_TURN_TOKEN|>"]


def vendor_templates() -> list[Path]:
    [package] = find_spec("trl").submodule_search_locations  # found, not imported: that takes ten seconds
    return sorted((Path(package) / "chat_templates").glob("*.jinja"))


def conversations() -> dict[str, tuple[list[dict], list[dict] | None]]:
    plain = GOLDEN["messages"]
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": "é<&>"}}, "id": "abcdefghi"}
    parameters = {"type": "object", "properties": {"a": {"type": "integer", "description": "one"}}, "required": ["a"]}
    tool = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": parameters}}
    used = [
        *plain[:2],
        {"role": "assistant", "content": "", "tool_calls": [call], "reasoning_content": "I add."},
        {"role": "tool", "name": "add", "content": "4", "tool_call_id": "abcdefghi"},
        {"role": "assistant", "content": "4", "reasoning_content": "Done."},
    ]
    return {"plain": (plain, None), "no system": (plain[1:3], None), "tools": (used, [tool])}


@pytest.mark.parametrize("case", conversations())
@pytest.mark.parametrize("file", vendor_templates(), ids=lambda file: file.stem)
def test_vendor_templates_render_as_transformers_renders_them(file, case, monkeypatch):
    from transformers.utils import chat_template_utils

    class Still(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2026, 2, 1, 12)

    monkeypatch.setattr(chat_template_utils, "datetime", Still)
    messages, tools = conversations()[case]
    source = file.read_text(encoding="utf-8")
    ours = ChatTemplate(file.stem, source, TOKENS, now=Still.now())
    # A template that takes parts alone loses all text that comes otherwise, or breaks; ours puts text in parts for it.
    given = [in_parts(message) for message in messages] if ours.wants_parts else messages
    for prompt in (False, True):
        try:
            [theirs], _ = chat_template_utils.render_jinja_template(
                [given], tools=tools, chat_template=source, add_generation_prompt=prompt, **TOKENS
            )
        except (jinja2.TemplateError, TypeError, ValueError) as refusal:
            with pytest.raises(BoardError, match="refuses this conversation"):
                ours.render(messages, tools, add_generation_prompt=prompt)
            assert str(refusal)
        else:
            assert ours.render(messages, tools, add_generation_prompt=prompt) == theirs


@pytest.mark.parametrize("name", VENDORS)
def test_vendor_templates_render_their_golden_text(name):
    [file] = [file for file in vendor_templates() if file.stem == name]
    template = ChatTemplate(name, file.read_text(encoding="utf-8"), TOKENS, now=WRITTEN)
    check(template, GOLDEN["families"][VENDORS[name]])


def test_every_golden_family_has_a_template_of_ours():
    assert {family for ours in families().values() for family in ours.verified if ours.verified != "source"} == set(
        GOLDEN["families"]
    )


@pytest.mark.parametrize(
    ("name", "golden"),
    [(ours.name, golden) for ours in families().values() if ours.verified != "source" for golden in ours.verified],
)
def test_our_templates_render_the_golden_text_of_their_families(name, golden):
    source = families()[name].file.read_text(encoding="utf-8")
    check(ChatTemplate(name, source, TOKENS, now=WRITTEN), GOLDEN["families"][golden])


WORDS = st.one_of(
    st.sampled_from(
        [" lead", "trail\n", "\n\nx", "<think>\nt\n</think>\n\nz", "x</think>y", "5", "/nothink", "四 <b>&\"'\\"]
    ),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=8),
)
VALUES = st.recursive(
    st.one_of(WORDS, st.integers(), st.booleans(), st.none()),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abé"), inner, max_size=2),
    max_leaves=4,
)


@st.composite
def talks(draw, holds: str) -> tuple[list[dict], list[dict] | None]:
    """A conversation of any length, ending in an answer, and the tools if it calls any."""
    messages = [{"role": "system", "content": draw(WORDS)}] if draw(st.booleans()) else []
    tools = conversations()["tools"][1] if holds.startswith(("calls", "single")) and draw(st.booleans()) else None
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(WORDS)})
        for _ in range(draw(st.integers(0, 2)) if tools else 0):
            arguments = st.dictionaries(st.sampled_from(["a", "b"]), VALUES, max_size=2)
            calls = [
                {
                    "type": "function",
                    "function": {"name": "add", "arguments": draw(arguments)},
                    "id": f"call0000{index}",
                }
                for index in range(draw(st.integers(1, 1 if "single" in holds else 2)))
            ]
            said = "" if "silent" in holds else draw(st.just("") | WORDS)
            messages.append({"role": "assistant", "content": said, "tool_calls": calls} | draw(thoughts(holds)))
            messages += [
                {"role": "tool", "name": "add", "tool_call_id": call["id"], "content": draw(WORDS)} for call in calls
            ]
        messages.append({"role": "assistant", "content": draw(WORDS)} | draw(thoughts(holds)))
    return messages, tools


def thoughts(holds: str) -> st.SearchStrategy[dict]:
    thought = st.fixed_dictionaries({"reasoning_content": WORDS})
    return st.just({}) | thought if "thoughts" in holds else st.just({})


@pytest.mark.parametrize("name", TWINS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_our_templates_equal_the_vendors_on_any_conversation(name, data):
    vendor, holds = TWINS[name]
    messages, tools = data.draw(talks(holds))
    [file] = [file for file in vendor_templates() if file.stem == vendor]
    ours, theirs = (
        ChatTemplate(source.stem, source.read_text(encoding="utf-8"), TOKENS, now=WRITTEN)
        for source in (families()[name].file, file)
    )
    assert ours.render(messages, tools) == theirs.render(messages, tools)
    asked = messages[:-1]
    assert ours.render(asked, tools, add_generation_prompt=True) == theirs.render(
        asked, tools, add_generation_prompt=True
    )


@pytest.mark.parametrize("train_on", ["assistant", "last"])
@pytest.mark.parametrize("name", PAIRS)
def test_finding_answers_by_prefix_equals_the_marked_twin_of_a_template(name, train_on):
    tokenizer = TextTokenizer(byte_level([*SPECIAL, *ENDS]), {})
    row = Row(GOLDEN["messages"], None, "golden", 1)
    plain, marked = (
        tokenise(row, ChatTemplate(twin.stem, twin.read_text(encoding="utf-8"), TOKENS), tokenizer, train_on)
        for twin in (file for file in vendor_templates() if file.stem in (name, f"{name}_training"))
    )
    assert plain == marked and plain.ends
    assert any(plain.trained) and not all(plain.trained)


def check(template: ChatTemplate, golden: dict) -> None:
    assert template.render(GOLDEN["messages"]) == golden["chat"]
    asked = template.render(GOLDEN["messages"][:-1], add_generation_prompt=True)
    assert asked == golden["generation_prompt"]
    if "chat_no_system" in golden:
        assert template.render(GOLDEN["messages"][1:]) == golden["chat_no_system"]
