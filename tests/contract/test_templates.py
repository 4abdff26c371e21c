"""Every template of ours is listed, renders what its source says, and has exactly the assistant's tokens trained."""

from __future__ import annotations

import json
import re
from datetime import datetime
from functools import lru_cache
from pathlib import Path

import pytest

from data.encoding import tools
from data.encoding.mask import Tokens, TrainOn, tokenise
from data.encoding.render import ChatTemplate
from data.encoding.templates import TEMPLATES, Family, families, suggest
from data.encoding.tokens import TextTokenizer
from data.rows.conversation import Row
from engine.contract.errors import DataError
from tests.wording import byte_level

GOLDENS = Path(__file__).resolve().parents[1] / "template_goldens"
CONVERSATIONS = json.loads((GOLDENS / "conversations.json").read_text(encoding="utf-8"))
NAMED = {"bos_token": "{{BOS}}", "eos_token": "{{EOS}}"}
WRITTEN = datetime(2026, 11, 21)  # the day in the goldens of templates that print the date
SPECIAL = re.compile(
    r"<[|｜][^<>\s]+?[|｜]>|<\|[a-z_]+>|<[a-z_]+\|>|<(?:start|end)_of_turn>|<reserved_\d+>|\[/?[A-Z_]{4,}\]"
)
MARKER = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")
# Their text up to an answer is no prefix of the text with it, so that finding answers by prefix must refuse them
CHANGING = {
    "qwen3", "qwen3_5", "qwen3_5_nothink", "qwq", "deepseek_v3", "deepseek_v3_1", "deepseek_r1_distill", "glm4_6",
    "gemma4", "gpt_oss", "mistral_v3", "mistral_nemo", "mistral_small",
}  # fmt: skip


@lru_cache(maxsize=64)
def goldens(name: str) -> dict:
    return json.loads((GOLDENS / f"{name}.json").read_text(encoding="utf-8"))


def template(family: Family, marked: bool = True) -> ChatTemplate:
    source = family.file.read_text(encoding="utf-8")
    return ChatTemplate(family.name, source if marked else MARKER.sub("{#- -#}", source), NAMED, now=WRITTEN)


@lru_cache(maxsize=1)
def tokenizer() -> TextTokenizer:
    """One that takes the special tokens of every family as one piece."""
    texts = [golden["chat"] for name in families() for golden in goldens(name)["cases"].values()]
    ends = [end for family in families().values() for end in (family.end.turn, *family.end.stop)]
    known = {token for text in [*texts, *ends] for token in SPECIAL.findall(text)}
    return TextTokenizer(byte_level(["<s>", *NAMED.values(), *sorted(known)]), NAMED)


def trained(tokens: Tokens) -> list[str]:
    """The texts that are trained, one for every stretch of tokens."""
    spans: list[tuple[int, int]] = []
    for (start, end), learnt, before in zip(tokens.offsets, tokens.trained, [False, *tokens.trained], strict=False):
        if learnt:
            spans.append((spans.pop()[0], end) if before else (start, end))
    return [tokens.text[start:end] for start, end in spans]


def row(family: Family, case: str) -> Row:
    conversation = CONVERSATIONS[case]
    # DeepSeek's templates write calls and results, while definitions belong into the system text
    listed = None if family.tools and family.tools.startswith("deepseek") else conversation["tools"]
    return Row(conversation["messages"], listed, "conversation.jsonl", 1)


def cases(*but: tuple[str, str]) -> list[tuple[Family, str]]:
    """Every family with every conversation that its form can hold, `but` for some pairs of their names."""
    listed = [(family, case) for family in families().values() for case in goldens(family.name)["cases"]]
    return [(family, case) for family, case in listed if (family.name, case) not in but]


def identify(value) -> str:
    return value.name if isinstance(value, Family) else str(value)


def test_every_template_is_listed_and_every_entry_has_its_file_and_goldens():
    files = {file.stem for file in TEMPLATES.glob("*.jinja")}
    assert files == set(families()) == {file.stem for file in GOLDENS.glob("*.json")} - {"conversations"}
    for family in families().values():
        assert family.source == goldens(family.name)["source"]
        assert family.tools in (None, *tools.formats())
        assert family.end.stop and "one question" in goldens(family.name)["cases"]


@pytest.mark.parametrize(("family", "case"), cases(), ids=identify)
def test_rendering_equals_the_golden(family, case):
    golden, conversation = goldens(family.name)["cases"][case], CONVERSATIONS[case]
    ours, definitions = template(family), conversation["tools"]
    assert ours.render(conversation["messages"], definitions) == golden["chat"]
    assert ours.render(conversation["messages"][:-1], definitions, add_generation_prompt=True) == golden["open"]


@pytest.mark.parametrize("family", families().values(), ids=identify)
def test_transformers_renders_our_templates_alike(family, monkeypatch):
    from transformers.utils import chat_template_utils

    class Still(datetime):
        @classmethod
        def now(cls, tz=None):
            return WRITTEN

    monkeypatch.setattr(chat_template_utils, "datetime", Still)
    source = family.file.read_text(encoding="utf-8")
    for case in goldens(family.name)["cases"]:
        one = row(family, case)
        [theirs], [spans] = chat_template_utils.render_jinja_template(
            [one.messages], tools=one.tools, chat_template=source, return_assistant_tokens_mask=True, **NAMED
        )
        assert theirs == template(family).render(one.messages, one.tools)
        assert "".join(theirs[start:end] for start, end in spans).strip()


@pytest.mark.parametrize("family", [f for f in families().values() if "switched" in goldens(f.name)], ids=identify)
def test_an_open_turn_thinks_as_its_user_asks(family):
    from transformers.utils.chat_template_utils import render_jinja_template

    question = CONVERSATIONS["one question"]["messages"][:1]
    for asked, text in goldens(family.name)["switched"].items():
        [ours], _ = render_jinja_template(
            [question],
            chat_template=family.file.read_text(encoding="utf-8"),
            add_generation_prompt=True,
            enable_thinking=asked == "true",
            **NAMED,
        )
        assert ours == text


@pytest.mark.parametrize(("family", "case"), cases(("gpt_oss", "call after text")), ids=identify)
def test_the_assistants_words_and_the_end_of_its_turns_are_trained_and_nothing_else(family, case):
    messages = row(family, case).messages
    tokens = tokenise(row(family, case), template(family), tokenizer())
    texts = trained(tokens)
    answers = [message for message in messages if message["role"] == "assistant"]
    assert len(texts) == len(answers)
    for text, answer in zip(texts, answers, strict=True):
        assert answer["content"] in text
        assert all(call["function"]["name"] in text for call in answer.get("tool_calls", []))
    given = [message["content"] for message in messages if message["role"] != "assistant"]
    assert not [one for one in given for text in texts if one in text]
    # every turn is closed by a token that stops the model, where the vendor's text has one
    turn = NAMED.get(family.end.turn, family.end.turn)
    stops = {turn, *family.end.stop, *NAMED.values()}
    closed = [any(text.endswith(stop) for stop in stops) for text in texts]
    assert closed[-1] and texts[-1].endswith(turn)
    assert (
        all(closed)
        if family.end.closes == "every"
        else not any(done for done, answer in zip(closed[:-1], answers, strict=False) if not answer.get("tool_calls"))
    )
    assert tokens.ends == all(closed)


@pytest.mark.parametrize(("family", "case"), cases(("gpt_oss", "call after text")), ids=identify)
def test_the_last_turn_alone_ends_the_same_way(family, case):
    every = tokenise(row(family, case), template(family), tokenizer())
    last = tokenise(row(family, case), template(family), tokenizer(), "last")
    assert trained(last) == trained(every)[-1:] and last.ends and last.ids == every.ids


def test_gpt_oss_refuses_a_row_whose_text_before_a_call_it_drops():
    family = families()["gpt_oss"]
    with pytest.raises(DataError, match="does not write an answer"):
        tokenise(row(family, "call after text"), template(family), tokenizer())


@pytest.mark.parametrize("train_on", ["assistant", "last"])
@pytest.mark.parametrize("family", families().values(), ids=identify)
def test_what_is_marked_equals_what_stands_behind_the_open_turn(family, train_on: TrainOn):
    refused = False
    for _, case in [pair for pair in cases(("gpt_oss", "call after text")) if pair[0] is family]:
        one = row(family, case)
        try:
            prefixed = trained(tokenise(one, template(family, marked=False), tokenizer(), train_on))
        except DataError as refusal:
            assert "differently once" in refusal.text and family.name in CHANGING
            refused = True
            continue
        marked = trained(tokenise(one, template(family), tokenizer(), train_on))
        assert [bare(family, text) for text in marked] == [bare(family, text) for text in prefixed]
    assert refused or train_on == "last" or family.name not in CHANGING


def bare(family: Family, text: str) -> str:
    """Without what closes it: in use that is the token that stops the model, which not every vendor's text holds.

    A thought that the open turn begins is behind it either way.
    """
    closing = [family.end.turn, *family.end.stop, *NAMED.values(), "\n"]
    while shorter := next((text.removesuffix(end) for end in closing if text.endswith(end)), ""):
        text = shorter
    return text.removeprefix("<think>\n")


@pytest.mark.parametrize("family", [family for family in families().values() if family.thinking], ids=identify)
def test_earlier_thoughts_are_dropped_and_the_last_is_trained(family):
    one = row(family, "thoughts")
    tokens = tokenise(one, template(family), tokenizer())
    first, last = trained(tokens)
    assert "Three\nand three." in last and last.index("three.") < last.rindex("6")
    assert ("Two and two." in first) == ("Two and two." in tokens.text) == (family.name == "smollm3")


@pytest.mark.parametrize("family", [family for family in families().values() if not family.thinking], ids=identify)
def test_families_without_thoughts_leave_them_out(family):
    conversation = [message for message in CONVERSATIONS["thoughts"]["messages"]]
    plain = [{**message, "reasoning_content": None} for message in conversation]
    assert template(family).render(conversation) == template(family).render(plain)


@pytest.mark.parametrize("family", families().values(), ids=identify)
def test_tools_are_written_as_the_format_says_or_refused(family):
    for case in ("one call", "parallel calls"):
        messages, definitions = CONVERSATIONS[case]["messages"], CONVERSATIONS[case]["tools"]
        calls = next(message["tool_calls"] for message in messages if message.get("tool_calls"))
        if case not in goldens(family.name)["cases"]:
            with pytest.raises(DataError, match="refuses this conversation"):
                template(family).render(messages, definitions)
            continue
        text = template(family).render(messages, definitions)
        assert tools.write(calls, family.tools) in text
        said = next(part for part in trained(tokenise(row(family, case), template(family), tokenizer())))
        for stop in sorted([family.end.turn, *family.end.stop, *NAMED.values()], key=len, reverse=True):
            said = said.removesuffix(stop) if stop != "<|call|>" else said
        content, read = tools.parse(said, family.tools, definitions)
        assert [call["function"] for call in read] == [call["function"] for call in calls]
        assert content.replace("<think>", "").replace("</think>", "").strip() == ""


@pytest.mark.parametrize("family", [f for f in families().values() if f.tools is None], ids=identify)
def test_families_without_a_form_for_tools_refuse_definitions(family):
    messages = CONVERSATIONS["one question"]["messages"]
    with pytest.raises(DataError, match="refuses this conversation"):
        template(family).render(messages, CONVERSATIONS["one call"]["tools"])


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("Qwen/Qwen3.5-0.8B", "qwen3_5_nothink"), ("Qwen/Qwen3.5-27B", "qwen3_5"), ("Qwen/Qwen3-4B", "qwen3"),
        ("Qwen/Qwen3-4B-Instruct-2507", "qwen3_instruct"), ("Qwen/Qwen2.5-7B-Instruct", "qwen2_5"),
        ("Qwen/Qwen2.5-VL-3B-Instruct", "qwen2_vl"), ("Qwen/Qwen2-7B-Instruct", "qwen2"),
        ("Qwen/Qwen1.5-7B-Chat", "qwen1_5"), ("meta-llama/Llama-2-7b-chat-hf", "llama2"),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama3"), ("meta-llama/Llama-3.3-70B-Instruct", "llama3_1"),
        ("meta-llama/Llama-3.2-1B-Instruct", "llama3_2"), ("meta-llama/Llama-4-Scout-17B-16E-Instruct", "llama4"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "deepseek_r1_distill"),
        ("deepseek-ai/DeepSeek-V3.1", "deepseek_v3_1"),
        ("mistralai/Mistral-7B-Instruct-v0.2", "mistral_v1"), ("mistralai/Mistral-7B-Instruct-v0.3", "mistral_v3"),
        ("mistralai/Mistral-Small-3.2-24B-Instruct-2506", None), ("google/gemma-2-9b-it", "gemma"),
        ("google/gemma-3-4b-it", "gemma3"), ("microsoft/Phi-4-mini-instruct", "phi4_mini"), ("microsoft/phi-4", "phi4"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2"), ("HuggingFaceTB/SmolLM-135M-Instruct", "chatml"),
        ("01-ai/Yi-1.5-9B-Chat", "chatml"), ("openbmb/MiniCPM3-4B", "minicpm3"), ("tiiuae/falcon-11B", None),
        ("tiiuae/Falcon3-7B-Instruct", None), ("my-own-model", None),
    ],
)  # fmt: skip
def test_a_models_name_finds_its_family(model, name):
    family = suggest(model)
    assert (family.name if family else None) == name
