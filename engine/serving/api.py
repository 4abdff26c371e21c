"""The HTTP side of a server: OpenAI's routes, one generation at a time, and the guard at the door.

Listens on loopback, so whoever else may reach it is a web page in the user's own browser: another host name (DNS
rebinding) is refused, and so is a body that is not declared as JSON, which a page may post without being asked first.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
import traceback
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from data.rows import media, pictures
from data.rows.conversation import Message, message
from data.rows.conversation import tools as definitions
from engine.contract.errors import BoardError, ModelError
from engine.models.vision import Shown
from engine.serving.generate import Answer, Sampling, generate
from engine.serving.protocol import ChatRequest, Choice, Refused, Reply, Request, TextRequest, parse
from engine.serving.roster import Roster, Voice

HOSTS = ["127.0.0.1", "localhost", "[::1]", "::1"]


@dataclass(frozen=True)
class Job:
    """What is to be generated."""

    voice: Voice
    prompt: list[int]
    sampling: Sampling
    tools: list[dict[str, Any]] | None = None
    shown: Shown = ((), ())

    def said(self, answer: Answer) -> Choice:
        """An answer as text and tool calls."""
        text, calls = self.voice.calls(answer.ids, self.tools)
        return Choice(text, "tool_calls", calls) if calls else Choice(answer.text, answer.finish)


@dataclass(frozen=True)
class Outcome:
    """What came of it; `seconds` is the time it took once it was its turn."""

    job: Job
    answers: list[Answer]
    seconds: float

    def usage(self) -> dict[str, Any]:
        said = sum(answer.tokens for answer in self.answers)
        asked = len(self.job.prompt)
        return {
            "prompt_tokens": asked,
            "completion_tokens": said,
            "total_tokens": asked + said,
            "seconds": round(self.seconds, 3),
            "tokens_per_second": round(said / self.seconds, 2) if self.seconds else None,
            "context_used": asked + max(answer.tokens for answer in self.answers),
            "context": self.job.voice.context,
        }


class Desk:
    """One generation at a time, in the order of asking; whoever stops listening is not served any further."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "generate")
        self._closed = threading.Event()
        self.waiting = 0

    async def listen(self, job: Job) -> AsyncIterator[tuple[int, str] | Outcome]:
        """The pieces of text by answer, and last the outcome. Closing the iterator ends the generation."""
        loop = asyncio.get_running_loop()
        heard: asyncio.Queue[tuple[int, str] | None] = asyncio.Queue()
        gone = threading.Event()

        def cancelled() -> bool:
            return gone.is_set() or self._closed.is_set()

        def work() -> Outcome | None:
            if cancelled():
                return None
            began = time.perf_counter()
            with job.voice.speaking() as model:
                answers = generate(
                    model, job.voice.tokenizer, job.prompt, job.sampling, ends=job.voice.ends, cancelled=cancelled,
                    beside=job.voice.beside(job.shown),
                    emit=lambda index, text: loop.call_soon_threadsafe(heard.put_nowait, (index, text)) and None,
                )  # fmt: skip
            return None if cancelled() else Outcome(job, answers, time.perf_counter() - began)

        if self._closed.is_set():
            raise _stopped()
        self.waiting += 1
        try:
            future = self._thread.submit(work)
            future.add_done_callback(lambda _: loop.call_soon_threadsafe(heard.put_nowait, None))
            while (piece := await heard.get()) is not None:
                yield piece
            if (outcome := _result(future)) is None:
                raise _stopped()
            yield outcome
        finally:
            gone.set()
            self.waiting -= 1

    def close(self) -> None:
        """End the generation that runs and those that wait; returns when the device is idle."""
        self._closed.set()
        self._thread.shutdown(wait=True)


def _result(future: Any) -> Outcome | None:
    try:
        return future.result()  # type: ignore[no-any-return]
    except (torch.OutOfMemoryError, MemoryError):
        raise Refused(
            "The device's memory is full: shorten the conversation, or lower max_tokens, n or num_beams.", status=503
        ) from None


def _stopped() -> Refused:
    return Refused("The server was stopped.", status=503, code="stopped")


class Api:
    """The routes over one roster."""

    def __init__(self, roster: Roster, desk: Desk) -> None:
        self.roster, self.desk, self.began = roster, desk, int(time.time())

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/health", self.health),
                Route("/v1/models", self.models),
                Route("/v1/models/{name:path}", self.model),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
                Route("/v1/completions", self.complete, methods=["POST"]),
            ],
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)],
            exception_handlers={
                Refused: _refuse,
                BoardError: lambda request, problem: _refuse(request, Refused(str(problem))),
                HTTPException: _not_here,
                Exception: lambda request, problem: _refuse(request, _bug(problem)),
            },
        )  # fmt: skip

    async def health(self, request: HttpRequest) -> Response:
        return JSONResponse({"status": "ok", "models": list(self.roster.voices), "waiting": self.desk.waiting})

    async def models(self, request: HttpRequest) -> Response:
        return JSONResponse({"object": "list", "data": [self._described(v) for v in self.roster.voices.values()]})

    async def model(self, request: HttpRequest) -> Response:
        return JSONResponse(self._described(self._voice(request.path_params["name"])))

    async def chat(self, request: HttpRequest) -> Response:
        asked = parse(ChatRequest, await _json(request))
        voice = self._voice(asked.model)
        messages = [_message(said, voice) for said in asked.messages]
        tools = definitions(asked.tools) if asked.tool_choice == "auto" else None
        shown = pictures.of(messages), pictures.of(messages, "video")
        prompt = await asyncio.to_thread(voice.prompt, messages, tools)
        return await self._answer(request, asked, voice, prompt, tools, shown)

    async def complete(self, request: HttpRequest) -> Response:
        asked = parse(TextRequest, await _json(request))
        voice = self._voice(asked.model)
        prompt = asked.prompt if isinstance(asked.prompt, list) else voice.tokenizer(asked.prompt).input_ids
        return await self._answer(request, asked, voice, list(prompt))

    async def _answer(
        self, request: HttpRequest, asked: Request, voice: Voice, prompt: list[int], tools: Any = None,
        shown: Shown = ((), ()),
    ) -> Response:  # fmt: skip
        job = Job(voice, prompt, _sampling(asked, voice, prompt), tools, shown)
        prefix = "chatcmpl" if isinstance(asked, ChatRequest) else "cmpl"
        reply = Reply(asked, f"{prefix}-{uuid.uuid4().hex[:24]}", voice.name, voice.fingerprint)
        if asked.stream:
            headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
            return StreamingResponse(self._chunks(job, reply), media_type="text/event-stream", headers=headers)
        outcome = await _unless_gone(request, self._outcome(job))
        if outcome is None:
            return Response(status_code=499)  # nobody reads it
        return JSONResponse(reply.whole([job.said(answer) for answer in outcome.answers], outcome.usage()))

    async def _outcome(self, job: Job) -> Outcome:
        async with contextlib.aclosing(self.desk.listen(job)) as heard:  # type: ignore[type-var]
            async for piece in heard:
                if isinstance(piece, Outcome):
                    return piece
        raise _stopped()

    async def _chunks(self, job: Job, reply: Reply) -> AsyncIterator[str]:
        try:
            async with contextlib.aclosing(self.desk.listen(job)) as heard:  # type: ignore[type-var]
                for index in range(job.sampling.count):
                    if opening := reply.opening(index):
                        yield _event(opening)
                async for piece in heard:
                    if isinstance(piece, Outcome):
                        for answer in piece.answers:
                            said = job.said(answer)
                            if job.tools:  # held back: what begins like text may be a call
                                for chunk in reply.late(answer.index, said):
                                    yield _event(chunk)
                            yield _event(reply.closing(answer.index, said.finish))
                        if reply.request.stream_options.include_usage:
                            yield _event(reply.usage(piece.usage()))
                    elif not job.tools:
                        yield _event(reply.piece(*piece))
        except Refused as problem:
            yield _event(problem.body)
        except Exception as problem:
            yield _event(_bug(problem).body)
        yield "data: [DONE]\n\n"

    def _voice(self, name: str) -> Voice:
        try:
            return self.roster.find(name)
        except ModelError as problem:
            raise Refused(str(problem), status=404, param="model", code="model_not_found") from None

    def _described(self, voice: Voice) -> dict[str, Any]:
        return {
            "id": voice.name, "object": "model", "created": self.began, "owned_by": "tuneboard",
            "kind": voice.kind, "base": voice.base, "context": voice.context, "sees": voice.sight is not None,
        }  # fmt: skip


def _message(said: dict[str, Any], voice: Voice) -> Message:
    """A message of a request; its pictures come with it. Nothing is fetched, and no file of this machine is opened."""
    found = message(said.get("role"), said.get("content"), said, pictures=True)
    if isinstance(found["content"], str):
        return found
    if voice.sight is None:
        raise Refused(
            f"{voice.name} reads text alone: leave the picture out, or load a model that sees.", param="messages"
        )
    parts = [part if part["type"] == "text" else _embedded(part) for part in found["content"]]
    return {**found, "content": parts}


def _embedded(part: dict[str, Any]) -> dict[str, Any]:
    kind = part["type"]
    address = media.address(part[kind], [Path("/")])
    if not address.lower().startswith("data:"):
        raise Refused(
            "A picture must be sent with the request, as a data URL (data:image/png;base64,...).", param="messages"
        )
    return {"type": kind, kind: address}


def _sampling(asked: Request, voice: Voice, prompt: list[int]) -> Sampling:
    """How to answer `asked`; what is left of the context bounds the length."""
    if not prompt:
        raise Refused("There is nothing to go on: the prompt is empty.", param="prompt")
    if any(not 0 <= token < len(voice.tokenizer) for token in prompt):
        raise Refused(f"A token id must be from 0 to {len(voice.tokenizer) - 1}.", param="prompt")
    room = voice.context - len(prompt) if voice.context else None
    if room is not None and room < 1:
        raise Refused(
            f"The conversation is {len(prompt):,} tokens long, and {voice.name} can hold {voice.context:,} in all. "
            "Shorten it, or begin a new one.",
            param="messages" if isinstance(asked, ChatRequest) else "prompt",
            code="context_length_exceeded",
        )
    wanted = asked.wanted_tokens
    return Sampling(
        max_tokens=min(limit for limit in (wanted, room, wanted or room or 4096) if limit is not None),
        temperature=asked.heat,
        top_p=asked.top_p,
        top_k=max(0, asked.top_k),
        repetition_penalty=asked.repetition_penalty,
        beams=asked.num_beams,
        count=asked.n,
        seed=asked.seed,
        stop=(*asked.stop, *voice.stops),
    )


async def _json(request: HttpRequest) -> bytes:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused("The request must be sent as Content-Type: application/json.", status=415)
    return await request.body()


async def _unless_gone(request: HttpRequest, work: Any) -> Any:
    """What `work` gives, or None, with `work` cancelled, when the client hangs up first."""

    async def hung_up() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(hung_up())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return await task if task.done() else None
    finally:
        task.cancel()
        gone.cancel()


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def _refuse(request: HttpRequest, problem: Refused) -> Response:
    return JSONResponse(problem.body, status_code=problem.status)


def _not_here(request: HttpRequest, problem: HTTPException) -> Response:
    there = f"{request.method} {request.url.path}: {problem.detail}."
    return _refuse(request, Refused(there, status=problem.status_code))


def _bug(problem: Exception) -> Refused:
    traceback.print_exception(problem)
    return Refused(f"{type(problem).__name__}: {problem}. This is a bug; the server's log says more.", status=500)
