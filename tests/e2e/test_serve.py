"""A real server on the tiny model with two adapters, asked by its own client and by OpenAI's."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import httpx
import openai
import pytest

from engine.contract import text
from engine.contract.client import Said, Server
from tests.e2e.served import LONG, MESSAGES, SECONDS, address, answer, client, generated, house, until  # noqa: F401

# Who answers


def test_the_words_that_were_given_can_be_asked(client: openai.OpenAI) -> None:
    listed = {model.id: model for model in client.models.list().data}
    assert list(listed) == ["base", "exports/one", "exports/two"]
    assert [model.kind for model in listed.values()] == ["base", "adapter", "adapter"]  # type: ignore[attr-defined]
    assert client.models.retrieve("exports/one").base == "base"  # type: ignore[attr-defined]


def test_each_adapter_answers_as_if_it_were_alone_and_the_base_as_if_there_were_none(
    client: openai.OpenAI, house: Path
) -> None:
    asked = ["base", "exports/one", "exports/two", "base", "exports/two", "exports/one", "base"]
    said = [answer(client, name) for name in asked]
    alone = {"base": generated(house), **{name: generated(house, name) for name in ("exports/one", "exports/two")}}
    assert said == [alone[name] for name in asked]
    assert len(set(alone.values())) == 3  # switching changes the answer


def test_a_base_with_its_adapters_off_gives_exactly_the_logits_of_one_that_never_had_any(house: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from engine.serving.roster import load

    args = text.parse({"models": ["base", "exports/one"], "dtype": "fp32", "device": "cpu"}, kind="serve")
    roster = load(args, house)  # type: ignore[arg-type]
    ids = torch.tensor([roster.find("base").prompt(MESSAGES)])
    pure = AutoModelForCausalLM.from_pretrained(house / "models" / "base", dtype=torch.float32)
    with torch.no_grad():
        expected = pure(ids).logits
        with roster.find("exports/one").speaking() as model:
            tuned = model(ids).logits
        with roster.find("base").speaking() as model:
            assert torch.equal(model(ids).logits, expected)
    assert not torch.allclose(tuned, expected, atol=1e-3)


def test_a_base_that_only_its_adapter_named_can_be_asked_too(house: Path) -> None:
    from engine.serving.roster import load

    args = text.parse({"models": ["exports/one"], "dtype": "fp32", "device": "cpu"}, kind="serve")
    roster = load(args, house)  # type: ignore[arg-type]
    assert list(roster.voices) == ["exports/one", "base"]
    assert roster.find("").name == "exports/one"


def test_the_answer_says_which_weights_gave_it_and_what_it_cost(client: openai.OpenAI) -> None:
    said = client.chat.completions.create(model="exports/two", messages=MESSAGES, max_tokens=5, temperature=0)  # type: ignore[arg-type]
    assert said.model == "exports/two" and said.system_fingerprint
    assert said.usage is not None and said.usage.completion_tokens == 5
    assert said.usage.total_tokens == said.usage.prompt_tokens + 5 == said.usage.context_used  # type: ignore[attr-defined]
    assert said.usage.context == 1_000_000 and said.usage.tokens_per_second > 0  # type: ignore[attr-defined]
    assert said.choices[0].finish_reason == "length"


# What they answer


def test_greedy_is_what_transformers_generates_whatever_the_model_recommends(
    client: openai.OpenAI, house: Path
) -> None:
    assert answer(client) == answer(client) == generated(house, do_sample=False)
    assert answer(client, repetition_penalty=1.5) == generated(house, do_sample=False, repetition_penalty=1.5)


def test_beams_are_what_transformers_generates_and_can_be_streamed_as_a_whole(
    client: openai.OpenAI, address: str, house: Path
) -> None:
    expected = generated(house, do_sample=False, num_beams=3)
    assert answer(client, num_beams=3) == expected
    settings = {"num_beams": 3, "max_tokens": 24, "temperature": 0}
    *pieces, said = Server(address).stream("base", MESSAGES, settings)
    assert "".join(pieces) == expected and isinstance(said, Said)  # type: ignore[arg-type]


def test_streamed_and_whole_answers_are_the_same(client: openai.OpenAI) -> None:
    whole = answer(client, max_tokens=60)
    stream = client.chat.completions.create(
        model="base", messages=MESSAGES, temperature=0, max_tokens=60, stream=True,
        stream_options={"include_usage": True},
    )  # type: ignore[call-overload]  # fmt: skip
    chunks = list(stream)
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert "".join(pieces) == whole and len(pieces) > 5
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "length"
    assert chunks[-1].usage.completion_tokens == 60 and {chunk.model for chunk in chunks} == {"base"}


def test_pieces_arrive_while_the_answer_is_still_being_made(address: str) -> None:
    pieces = Server(address).stream("base", MESSAGES, {"max_tokens": LONG, "temperature": 0})
    assert isinstance(next(pieces), str)  # with LONG tokens to go
    assert Server(address).alive()  # and it answers meanwhile
    assert httpx.get(f"{address}/health").json()["waiting"] == 1
    pieces.close()  # type: ignore[attr-defined]


def test_a_seed_repeats_an_answer_and_without_one_answers_differ(client: openai.OpenAI) -> None:
    first, again = (answer(client, temperature=1.5, seed=7) for _ in range(2))
    assert first == again
    assert len({answer(client, temperature=1.5) for _ in range(4)}) > 1
    assert answer(client, temperature=1.5, seed=8) != first


def test_several_answers_are_made_at_once(client: openai.OpenAI) -> None:
    made = client.chat.completions.create(model="base", messages=MESSAGES, n=3, temperature=1.5, seed=1, max_tokens=12)  # type: ignore[arg-type]
    texts = [choice.message.content for choice in made.choices]
    assert [choice.index for choice in made.choices] == [0, 1, 2] and len(set(texts)) == 3
    made = client.chat.completions.create(model="base", messages=MESSAGES, n=2, temperature=0, max_tokens=12)  # type: ignore[arg-type]
    assert {choice.message.content for choice in made.choices} == {answer(client, max_tokens=12)}


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_answer_before_it_even_across_tokens(client: openai.OpenAI, stream: bool) -> None:
    whole = answer(client, max_tokens=60)
    stop = whole[len(whole) // 2 : len(whole) // 2 + 4]
    said = client.chat.completions.create(
        model="base", messages=MESSAGES, temperature=0, max_tokens=60, stop=[stop, "never said"], stream=stream
    )  # type: ignore[call-overload]
    if stream:
        choices = [chunk.choices[0] for chunk in said]
        given, finish = "".join(choice.delta.content or "" for choice in choices), choices[-1].finish_reason
    else:
        given, finish = said.choices[0].message.content, said.choices[0].finish_reason
    assert given == whole[: whole.index(stop)] and finish == "stop"


def test_plain_completions_go_on_from_a_text_or_from_tokens(client: openai.OpenAI) -> None:
    said = client.completions.create(model="base", prompt="The answer is", temperature=0, max_tokens=9)
    assert said.object == "text_completion" and said.usage is not None and said.usage.completion_tokens == 9
    chunks = client.completions.create(model="base", prompt="The answer is", temperature=0, max_tokens=9, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == said.choices[0].text
    assert client.completions.create(model="base", prompt=[5, 6, 7], max_tokens=2).usage.prompt_tokens == 3  # type: ignore[union-attr]


# Refusals


def test_an_unknown_model_is_refused_with_those_that_there_are(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        answer(client, "exports/on")
    assert "loaded are base, exports/one, exports/two. Did you mean exports/one?" in caught.value.message
    assert caught.value.code == "model_not_found"


def test_a_conversation_that_fills_the_context_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="base", prompt=[5] * 1_000_000)
    assert caught.value.code == "context_length_exceeded" and "can hold 1,000,000 in all" in caught.value.message


def test_messages_that_cannot_be_used_are_refused_with_the_reason(client: openai.OpenAI) -> None:
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    with pytest.raises(openai.BadRequestError, match="base reads text alone: leave the picture out"):
        client.chat.completions.create(model="base", messages=picture)  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError, match="the role 'robot' is not known"):
        client.chat.completions.create(model="base", messages=[{"role": "robot", "content": "x"}])  # type: ignore[list-item]
    parts = [
        {"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "the answer?"}]}
    ]
    said = client.chat.completions.create(model="base", messages=parts, temperature=0, max_tokens=24)  # type: ignore[arg-type]
    assert said.choices[0].message.content == answer(client)


def test_a_web_page_in_the_users_browser_cannot_use_the_server(address: str) -> None:
    body = {"model": "base", "messages": MESSAGES, "max_tokens": 1}
    rebound = httpx.post(f"{address}/v1/chat/completions", json=body, headers={"Host": "evil.example"})
    assert rebound.status_code == 400 and "choices" not in rebound.text
    unasked = httpx.post(
        f"{address}/v1/chat/completions", content=json.dumps(body), headers={"Content-Type": "text/plain"}
    )
    assert unasked.status_code == 415 and "application/json" in unasked.json()["error"]["message"]
    fine = httpx.post(f"{address}/v1/chat/completions", json=body, headers={"Origin": "http://evil.example"})
    assert "access-control-allow-origin" not in fine.headers


def test_what_is_not_there_has_openais_shape_too(address: str) -> None:
    assert httpx.get(f"{address}/v1/nothing").json()["error"]["type"] == "invalid_request_error"
    assert httpx.get(f"{address}/v1/chat/completions").status_code == 405


# Who hangs up


def test_closing_a_stream_ends_the_generation(address: str, client: openai.OpenAI) -> None:
    pieces = Server(address).stream("base", MESSAGES, {"max_tokens": LONG, "temperature": 0})
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert answer(client, max_tokens=3)  # its turn comes, so the other one has ended
    until(lambda: httpx.get(f"{address}/health").json()["waiting"] == 0, "an empty queue")


def test_hanging_up_on_a_whole_answer_ends_the_generation_and_so_does_it_in_the_queue(
    address: str, client: openai.OpenAI
) -> None:
    body = {"model": "base", "messages": MESSAGES, "max_tokens": LONG, "temperature": 0}
    for _ in range(2):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{address}/v1/chat/completions", json=body, timeout=0.5)
    assert answer(client, max_tokens=3)
    until(lambda: httpx.get(f"{address}/health").json()["waiting"] == 0, "an empty queue")


def test_two_who_ask_at_once_both_get_their_own_answer(client: openai.OpenAI) -> None:
    said: dict[str, str] = {}
    names = ["base", "exports/one", "exports/two", "base"]
    threads = [
        threading.Thread(target=lambda n=number, name=name: said.__setitem__(f"{n}", answer(client, name)))
        for number, name in enumerate(names)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert [said[str(number)] for number in range(4)] == [answer(client, name) for name in names]
