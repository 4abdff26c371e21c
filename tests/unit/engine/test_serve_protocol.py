"""What a server understands and says, and what its client makes of it: text in, text out, without a model."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.chatting import talks
from app.chatting.talks import Turn
from engine import chat
from engine.contract.client import Said, Server, ServerError
from engine.contract.errors import ArgsError, BoardError, DataError, ResourceError
from engine.contract.talk import Talk
from engine.serve import listening
from engine.serving.protocol import ChatRequest, Choice, Refused, Reply, TextRequest, parse
from engine.serving.spoken import Detokeniser, StopStrings

ASK = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}


def chat_request(**fields: Any) -> ChatRequest:
    return parse(ChatRequest, json.dumps({**ASK, **fields}).encode())


def refusal(**fields: Any) -> str:
    with pytest.raises(Refused) as caught:
        chat_request(**fields)
    return str(caught.value)


# Text from tokens


def bytes_as_text(ids: list[int]) -> str:
    return bytes(ids).decode("utf-8", errors="replace")


def pieces_as_text(ids: list[int]) -> str:
    """As SentencePiece has it: each piece begins with a space, which the first one loses."""
    return "".join(f" {chr(96 + id)}" for id in ids).removeprefix(" ")


@given(st.text())
def test_a_text_of_any_characters_comes_whole_however_its_bytes_are_cut(text: str) -> None:
    detokeniser = Detokeniser(bytes_as_text)
    given = [detokeniser.push(byte) for byte in text.encode()]
    assert "".join(given) + detokeniser.end() == text
    assert not any("\ufffd" in piece for piece in given) or "\ufffd" in text


def test_half_a_character_is_held_back_until_it_is_whole() -> None:
    detokeniser = Detokeniser(bytes_as_text)
    assert [detokeniser.push(byte) for byte in "a🙂".encode()] == ["a", "", "", "", "🙂"]


def test_bytes_that_never_become_a_character_are_given_at_the_end() -> None:
    detokeniser = Detokeniser(bytes_as_text)
    assert [detokeniser.push(byte) for byte in b"a\xf0\x9f"] == ["a", "", ""]
    assert detokeniser.end() == "\ufffd"


def test_the_space_between_pieces_is_not_lost() -> None:
    detokeniser = Detokeniser(pieces_as_text)
    assert [detokeniser.push(id) for id in (1, 2, 3)] == ["a", " b", " c"]


@given(st.text("abc"), st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3), st.data())
def test_a_stop_string_is_found_wherever_the_pieces_are_cut(text: str, stops: list[str], data: st.DataObject) -> None:
    gate, rest, given = StopStrings(stops), text, ""
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        given += gate.push(rest[:size])
        rest = rest[size:]
        # what was given can never be taken back: no stop may begin in it and end in what is held
        assert text.startswith(given)
    given += gate.end()
    # The stop that is complete first ends the answer, as it would token by token.
    ends = [place + len(stop) for stop in stops if (place := text.find(stop)) >= 0]
    assert gate.met == bool(ends)
    assert not any(stop in given for stop in stops)
    assert given == text if not ends else text.startswith(given)


def test_a_stop_string_that_spans_pieces_is_held_back_and_cut() -> None:
    gate = StopStrings(["END"])
    assert [gate.push(piece) for piece in ("go E", "N", "x E", "ND more")] == ["go ", "", "ENx ", ""]
    assert gate.met
    assert gate.push("after") == gate.end() == ""


def test_what_only_looked_like_a_stop_is_given_at_the_end() -> None:
    gate = StopStrings(["END"])
    assert gate.push("the EN") + gate.end() == "the EN"
    assert not gate.met


# Requests


def test_what_a_request_leaves_out_is_openais_default() -> None:
    request = chat_request()
    assert (request.heat, request.top_p, request.n, request.stream, request.stop) == (1.0, 1.0, 1, False, [])
    assert request.wanted_tokens is None


def test_both_names_of_the_longest_answer_are_understood() -> None:
    assert chat_request(max_tokens=7).wanted_tokens == 7
    assert chat_request(max_completion_tokens=9).wanted_tokens == 9
    assert parse(TextRequest, b'{"prompt": "x"}').wanted_tokens == 16


def test_temperature_zero_and_do_sample_false_are_both_greedy() -> None:
    assert chat_request(temperature=0).heat == chat_request(do_sample=False, temperature=1.5).heat == 0


def test_a_single_stop_and_an_explicit_null_are_accepted() -> None:
    request = chat_request(stop="x", seed=None, temperature=None, tools=None)
    assert request.stop == ["x"] and request.temperature == 1.0


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("temperature", 3, "temperature must be a number from 0 (greedy) to 2; it is 3."),
        ("temperature", "hot", 'temperature must be a number from 0 (greedy) to 2; it is "hot".'),
        ("top_p", 0, "top_p must be a number above 0 and at most 1; it is 0."),
        ("n", 0, "n must be a whole number from 1 to 32; it is 0."),
        ("max_tokens", 0, "max_tokens must be a whole number of at least 1; it is 0."),
        ("stop", [""], "stop must be a text or a list of up to 16 texts, none empty"),
        ("messages", [], "messages must be a list of at least one message; it is []."),
        ("temperatur", 1, "There is no parameter temperatur. Did you mean temperature?"),
        ("logprobs", True, "logprobs is not supported by this server"),
        ("presence_penalty", 0.5, "presence_penalty is not supported by this server"),
        ("response_format", {"type": "json_object"}, "response_format is not supported by this server"),
        ("suffix", "and so on", "suffix is not supported by this server"),
        ("tool_choice", "required", 'tool_choice must be auto or none; it is "required".'),
    ],
)
def test_a_bad_parameter_is_named_with_its_range(field: str, value: Any, sentence: str) -> None:
    assert sentence in refusal(**{field: value})


def test_every_bad_parameter_is_named_at_once() -> None:
    said = refusal(temperature=9, top_p=2, n=0)
    assert all(f"{name} must be" in said for name in ("temperature", "top_p", "n"))


def test_more_answers_than_beams_are_refused() -> None:
    assert refusal(num_beams=2, n=3) == "n must be at most num_beams (2); it is 3."


def test_parameters_that_ask_for_nothing_are_passed_over(capsys: pytest.CaptureFixture[str]) -> None:
    chat_request(user="me", metadata={}, logprobs=False, presence_penalty=0, frequency_penalty=0.0, logit_bias={})
    assert capsys.readouterr().out == ""
    chat_request(some_vendors_own=1)
    assert "some_vendors_own is unknown here and was ignored" in capsys.readouterr().out


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"x"', b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(Refused, match="JSON"):
        parse(ChatRequest, body)


def test_infinity_and_nan_are_no_temperature() -> None:
    with pytest.raises(Refused, match="temperature must be"):
        parse(ChatRequest, b'{"messages": [{"role": "user"}], "temperature": NaN}')


def test_replies_have_openais_shape() -> None:
    reply = Reply(chat_request(), "id-1", "m", "fp")
    whole = reply.whole([Choice("Hi", "stop")], {"total_tokens": 3})
    assert whole["object"] == "chat.completion" and whole["model"] == "m" and whole["usage"]["total_tokens"] == 3
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": "Hi"}
    assert reply.piece(1, "x")["choices"][0] == {
        "index": 1, "delta": {"content": "x"}, "logprobs": None, "finish_reason": None,
    }  # fmt: skip
    assert reply.closing(0, "length")["choices"][0]["finish_reason"] == "length"
    plain = Reply(parse(TextRequest, b'{"prompt": "x"}'), "id-2", "m", "fp")
    assert plain.opening(0) is None and plain.piece(0, "t")["choices"][0]["text"] == "t"


# The port


def test_a_taken_port_is_a_sentence() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ResourceError, match=f"Port {port} is taken") as caught:
            listening(port)
    assert "0 for any free one" in caught.value.hint


def test_port_zero_takes_a_free_one_on_loopback_only() -> None:
    with listening(0) as door:
        address, port = door.getsockname()
    assert address == "127.0.0.1" and port > 0


# The client


class Canned(BaseHTTPRequestHandler):
    """Answers every request with `reply` and remembers what was asked."""

    reply: bytes = b""
    status = 200
    asked: list[dict[str, Any]] = []

    def do_POST(self) -> None:
        self.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.do_GET()

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.reply)

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def canned() -> Iterator[type[Canned]]:
    Canned.asked, Canned.status, Canned.reply = [], 200, b""
    with ThreadingHTTPServer(("127.0.0.1", 0), Canned) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        Canned.address = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
        yield Canned
        server.shutdown()


def events(*contents: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(content).encode() + b"\n\n" for content in contents)


def piece(text: str, finish: str | None = None) -> dict[str, Any]:
    return {"model": "tuned", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]}


def ask(canned: Any, path: str = "") -> list[str | Said]:
    return list(Server(canned.address + path).stream("m", [{"role": "user", "content": "q"}], {"top_k": 5}))


def test_a_stream_is_pieces_and_then_what_it_cost(canned: Any) -> None:
    usage = {"completion_tokens": 2, "seconds": 0.5, "tokens_per_second": 4.0, "context_used": 9, "context": 2048}
    last = {"model": "tuned", "choices": [], "usage": usage}
    canned.reply = events(piece("a"), piece("ü", "stop"), last) + b"data: [DONE]\n\n"
    *pieces, said = ask(canned, "/v1/")
    assert pieces == ["a", "ü"] and isinstance(said, Said)
    assert said.line == "tuned · 2 tokens · 0.5 s · 4.0 tokens/s"
    assert said.context == "9 of 2,048 tokens of context"
    assert canned.asked[0]["top_k"] == 5 and canned.asked[0]["stream"] is True


def test_a_server_that_tells_no_speed_is_fine(canned: Any) -> None:
    canned.reply = events(piece("a", "length")) + b"data: [DONE]\n\n"
    assert ask(canned)[-1].line == "tuned · cut at the longest answer"  # type: ignore[union-attr]


@pytest.mark.parametrize("broken", [b"", events(piece("a")), events(piece("a")) + b"data: {"])
def test_a_stream_that_breaks_off_is_told(canned: Any, broken: bytes) -> None:
    canned.reply = broken
    with pytest.raises(ServerError, match="in the middle of the answer"):
        ask(canned)


def test_an_error_within_a_stream_is_told_in_the_servers_words(canned: Any) -> None:
    canned.reply = events(piece("a"), {"error": {"message": "The server was stopped."}})
    with pytest.raises(ServerError, match="The server was stopped"):
        ask(canned)


def test_a_refusal_is_told_in_the_servers_words(canned: Any) -> None:
    canned.status, canned.reply = 404, b'{"error": {"message": "There is no model m."}}'
    with pytest.raises(ServerError, match="There is no model m"):
        ask(canned)
    canned.status, canned.reply = 502, b"<html>proxy</html>"
    with pytest.raises(ServerError, match="502"):
        ask(canned)


def test_a_server_that_is_gone_is_told() -> None:
    with listening(0) as door:
        address = f"127.0.0.1:{door.getsockname()[1]}"
    assert not Server(address).alive()
    with pytest.raises(ServerError, match=f"The server at {address} does not answer"):
        Server(address).models()


@pytest.mark.parametrize("address", ["ftp://x", "http://", "file:///etc/passwd", "http://[::1", "host:99999"])
def test_only_http_addresses_are_servers(address: str) -> None:
    with pytest.raises(BoardError, match="not the address of a server"):
        Server(address)


# Settings, and the terminal's words


def test_settings_that_are_off_are_not_sent_so_that_any_server_understands() -> None:
    assert Talk().request() == {"max_tokens": 512, "temperature": 0.7, "top_p": 0.9}
    assert Talk(greedy=True, top_k=9).request() == {"max_tokens": 512, "temperature": 0}
    sent = Talk(top_k=9, seed=0, beams=2, repetition_penalty=1.1).request()
    assert (sent["top_k"], sent["seed"], sent["num_beams"], sent["repetition_penalty"]) == (9, 0, 2, 1.1)


def test_the_terminals_words_go_where_they_belong() -> None:
    words = ["models=a,b", "model=b", "temperature=0.1", "dtype=fp32", "Is", "1=1", "true?"]
    own, serve, settings, question = chat._sorted(words)
    assert own == {"model": "b"} and serve == ["models=[a,b]", "dtype=fp32"]
    assert settings == ["temperature=0.1"] and question == ["Is", "1=1", "true?"]


def test_a_bad_setting_in_the_terminal_is_refused_with_its_range() -> None:
    with pytest.raises(ArgsError, match="temperature: 9 is out of range"):
        chat._settings(Talk(), ["temperature=9"])


# Conversations as the page shows and saves them

TURNS = (
    Turn("user", "q1"),
    Turn("assistant", "<think>hm</think>\n\na1", "m · 3 tokens", used=12, context=64),
    Turn("user", "q2"),
    Turn("assistant", "a2", "m · 1 token", used=20, context=64),
)


def test_a_thought_is_folded_and_the_note_stands_below() -> None:
    shown = talks.shown(TURNS)
    assert [message["role"] for message in shown] == ["user", "assistant", "assistant", "assistant", "user"] + [
        "assistant"
    ] * 2
    assert shown[1]["metadata"] == {"title": "Thought", "status": "done"} and shown[1]["content"] == "hm"
    assert shown[2]["content"] == "a1" and "m · 3 tokens" in shown[3]["content"]


def test_a_thought_that_is_not_finished_is_pending() -> None:
    (message,) = talks.shown([Turn("assistant", "<think>hm")])
    assert message["metadata"] == {"title": "Thinking", "status": "pending"}


def test_every_shown_message_leads_back_to_its_turn() -> None:
    assert [talks.place(TURNS, index) for index in range(len(talks.shown(TURNS)))] == [0, 1, 1, 1, 2, 3, 3]


def test_a_note_cannot_bring_html() -> None:
    assert "<b>" not in talks.shown([Turn("assistant", "a", "<b>m</b>")])[-1]["content"]


def test_regenerating_takes_back_the_last_answer_only() -> None:
    assert talks.unanswered(TURNS) == TURNS[:3]
    assert talks.unanswered(()) == ()


def test_a_saved_conversation_comes_back_as_it_was() -> None:
    talk = Talk(system="Be brief.", temperature=0.2, seed=7)
    text = talks.saved((TURNS, TURNS[:2]), ["base", "tuned"], talk)
    assert talks.read(text.encode()) == ((TURNS, TURNS[:2]), talk)
    assert json.loads(text)["columns"][1]["model"] == "tuned"


def test_plain_messages_of_other_programs_are_read() -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    for content in (messages, {"messages": messages}):
        said, talk = talks.read(json.dumps(content).encode())
        assert said == ((Turn("user", "q"),),) and talk == Talk(system="s")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("nonsense", "not JSON"),
        ("3", "holds no messages"),
        ('{"columns": [3]}', "holds no messages"),
        ('[{"role": "robot", "content": "x"}]', "Row 1: a message needs a role"),
        ('[{"role": "user", "content": "x"}, {"role": "user"}]', "Row 2"),
        ('{"messages": [], "settings": {"temperature": 9}}', "temperature: 9 is out of range"),
    ],
)
def test_a_file_that_is_no_conversation_is_refused_with_the_reason(content: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        talks.read(content.encode())


def test_the_context_is_that_of_the_last_answer() -> None:
    assert talks.context_of(TURNS) == (20, 64)
    assert talks.context_of([*TURNS, Turn("user", "q3")]) == (20, 64)
    assert talks.context_of([]) == (0, 0)
