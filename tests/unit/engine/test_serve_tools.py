"""Tool calls through the server: what a model writes in its family's form comes out in OpenAI's."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.testclient import TestClient

from data.encoding.templates import families
from data.encoding.tools import write
from engine.serving import api
from engine.serving.api import Api, Desk
from engine.serving.generate import Answer
from engine.serving.roster import Roster, Voice
from engine.serving.spoken import Detokeniser, StopStrings

SPECIAL = "[TOOL_CALLS]"
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
CALLS = [
    {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": "zwei"}}},
    {"type": "function", "function": {"name": "add", "arguments": {"a": 3}}},
]


class Characters:
    """A tokenizer whose tokens are characters, and one special token."""

    all_special_tokens = (SPECIAL,)

    def decode(self, ids: list[int], skip_special_tokens: bool = True, **_: Any) -> str:
        return "".join(("" if skip_special_tokens else SPECIAL) if id == 0 else chr(id) for id in ids)

    def ids(self, text: str) -> list[int]:
        return [ord(sign) for sign in text.replace(SPECIAL, "\0")]

    def __len__(self) -> int:
        return 0x110000


class Speaker(Voice):
    def prompt(self, messages: Any, tools: Any = None) -> list[int]:
        return [1]

    @contextlib.contextmanager
    def speaking(self) -> Iterator[Any]:
        yield None


def client(family: str, said: str, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """A server whose one model of `family` says `said`, whatever it is asked."""
    tokenizer = Characters()
    voice = Speaker(
        name="it", kind="base", base="it", folder=Path(), context=None, ends=(), stops=(), fingerprint="fp",
        family=families()[family], tokenizer=tokenizer, template=None, speaker=None,
    )  # fmt: skip

    def generate(*_: Any, ends: Any, emit: Any, **__: Any) -> list[Answer]:
        answer = Answer(0, ends, Detokeniser(tokenizer.decode), StopStrings(()), emit)
        for id in tokenizer.ids(said):
            answer.take(id)
        answer.end("stop")
        return [answer]

    monkeypatch.setattr(api, "generate", generate)
    return TestClient(Api(Roster({"it": voice}), Desk()).app(), base_url="http://127.0.0.1")


def asked(server: TestClient, **more: Any) -> Any:
    return server.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "?"}], **more})


@pytest.mark.parametrize("family", ["qwen2_5", "mistral_v3", "llama3_1", "deepseek_v3", "gpt_oss", "granite3"])
def test_each_familys_calls_come_out_as_openai_writes_them(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    form = families()[family].tools
    assert form is not None
    calls = CALLS[:1] if form in ("llama3", "harmony") else CALLS
    choice = asked(client(family, write(calls, form), monkeypatch), tools=TOOLS).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] is None
    told = [
        (call["function"]["name"], json.loads(call["function"]["arguments"]))
        for call in choice["message"]["tool_calls"]
    ]
    assert told == [(call["function"]["name"], call["function"]["arguments"]) for call in calls]
    assert len({call["id"] for call in choice["message"]["tool_calls"]}) == len(calls)


def test_what_is_said_beside_a_call_stays_and_plain_words_stay_words(monkeypatch: pytest.MonkeyPatch) -> None:
    beside = "I look. " + write(CALLS[:1], "hermes")
    message = asked(client("qwen2_5", beside, monkeypatch), tools=TOOLS).json()["choices"][0]["message"]
    assert message["content"] == "I look." and len(message["tool_calls"]) == 1
    plain = asked(client("qwen2_5", "Nothing to add.", monkeypatch), tools=TOOLS).json()["choices"][0]
    assert plain["message"] == {"role": "assistant", "content": "Nothing to add."} and plain["finish_reason"] == "stop"


def test_without_tools_a_call_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    said = write(CALLS[:1], "hermes")
    for none in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        choice = asked(client("qwen2_5", said, monkeypatch), **none).json()["choices"][0]
        assert choice["message"]["content"] == said and choice["finish_reason"] == "stop"


def test_a_stream_brings_the_call_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    reply = asked(client("mistral_v3", write(CALLS, "mistral_v3"), monkeypatch), tools=TOOLS, stream=True)
    events = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
    deltas = [event["choices"][0]["delta"] for event in events]
    (calls,) = [delta["tool_calls"] for delta in deltas if "tool_calls" in delta]
    assert [call["index"] for call in calls] == [0, 1]
    assert not any(delta.get("content") for delta in deltas)
    assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_a_familys_stop_texts_stop_where_there_is_no_token() -> None:
    from engine.serving.roster import _stops

    tokenizer = SimpleNamespace(added_tokens_decoder={7: "<|im_end|>"})
    ids, texts = _stops(families()["chatml"], tokenizer)
    assert ids == {7} and texts == ()
    assert _stops(None, tokenizer) == (set(), ())
    ids, texts = _stops(families()["alpaca"], tokenizer)
    assert texts == tuple(stop for stop in families()["alpaca"].end.stop if not stop.startswith("<"))
