"""OpenAI's HTTP protocol as text: which requests are understood, and what answers look like. No model, no server.

Parameters that would change the answer and that this server does not have are refused, never passed over; those that
change nothing (`user`, `metadata`) are. Beyond OpenAI's there are `top_k`, `repetition_penalty`, `num_beams` and
`do_sample`, and in `usage` the speed and the room that is left.
"""

from __future__ import annotations

import difflib
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

HARMLESS = (
    "user", "metadata", "store", "service_tier", "parallel_tool_calls", "safety_identifier", "prompt_cache_key",
    "reasoning_effort", "verbosity", "modalities", "top_logprobs",
)  # fmt: skip
# What these ask for is not done here: refused unless they ask for nothing.
LACKING: dict[str, tuple[Any, ...]] = {
    "logprobs": (False, 0),
    "echo": (False,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "functions": ([],),
    "audio": ({},),
    "best_of": (1,),
    "suffix": ("",),
}


class Refused(Exception):
    """A request that is answered with an error: HTTP status, sentence, the parameter to blame, a code for programs."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        kind = "invalid_request_error" if status < 500 else "server_error"
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class StreamOptions(BaseModel):
    include_usage: bool = False


class Request(BaseModel):
    """What both kinds of request share. A field's description completes the sentence: NAME must be ..."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, frozen=True)
    answer_kind: ClassVar[str]
    chunk_kind: ClassVar[str]

    model: str = Field("", description="the name of a loaded model")
    stream: bool = Field(False, description="true or false")
    stream_options: StreamOptions = Field(StreamOptions(), description="an object such as {include_usage: true}")
    temperature: float = Field(1.0, ge=0, le=2, description="a number from 0 (greedy) to 2")
    top_p: float = Field(1.0, gt=0, le=1, description="a number above 0 and at most 1")
    top_k: int = Field(0, ge=-1, le=10**6, description="a whole number; 0 is off")
    repetition_penalty: float = Field(1.0, gt=0, le=10, description="a number above 0 and at most 10; 1 is off")
    num_beams: int = Field(1, ge=1, le=32, description="a whole number from 1 to 32")
    do_sample: bool = Field(True, description="true or false")
    n: int = Field(1, ge=1, le=32, description="a whole number from 1 to 32")
    seed: int | None = Field(None, ge=-(2**63), lt=2**63, description="a whole number of at most 64 bits")
    stop: Annotated[
        list[Annotated[str, Field(min_length=1)]],
        BeforeValidator(lambda given: [given] if isinstance(given, str) else given),
    ] = Field([], max_length=16, description="a text or a list of up to 16 texts, none empty")
    max_tokens: int | None = Field(None, ge=1, description="a whole number of at least 1")

    @property
    def wanted_tokens(self) -> int | None:
        """The most tokens to generate; None is all that the context holds."""
        return self.max_tokens

    @property
    def heat(self) -> float:
        return self.temperature if self.do_sample else 0.0


class ChatRequest(Request):
    answer_kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    messages: list[dict[str, Any]] = Field(min_length=1, description="a list of at least one message")
    max_completion_tokens: int | None = Field(None, ge=1, description="a whole number of at least 1")
    tools: list[dict[str, Any]] = Field([], description="a list of tool definitions")
    tool_choice: Literal["auto", "none"] = Field("auto", description="auto or none")

    @property
    def wanted_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


class TextRequest(Request):
    answer_kind = "text_completion"
    chunk_kind = "text_completion"

    prompt: Annotated[
        str | list[int],
        BeforeValidator(lambda given: given[0] if isinstance(given, list) and len(given) == 1 else given),
    ] = Field(description="one text or one list of token ids")

    @property
    def wanted_tokens(self) -> int | None:
        return self.max_tokens or 16


R = TypeVar("R", bound=Request)


def parse(kind: type[R], body: bytes) -> R:
    """The request in `body`. Raises Refused with every problem at once."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as problem:
        raise Refused(f"The body is not JSON: {problem}.") from None
    if not isinstance(content, dict):
        raise Refused("The body must be a JSON object.")
    content = {name: value for name, value in content.items() if value is not None}
    problems: dict[str, str] = {}
    for name in content.keys() - kind.model_fields.keys():
        if name in LACKING and content[name] not in LACKING[name]:
            problems[name] = f"{name} is not supported by this server: leave it out."
        elif name not in LACKING and name not in HARMLESS:
            if near := difflib.get_close_matches(name, kind.model_fields, n=1, cutoff=0.8):
                problems[name] = f"There is no parameter {name}. Did you mean {near[0]}?"
            else:
                print(f"The request's parameter {name} is unknown here and was ignored.", flush=True)
    request = None
    try:
        request = kind.model_validate(content)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            name = str(detail["loc"][0])
            known = kind.model_fields[name].description
            given = "it is missing" if detail["type"] == "missing" else f"it is {_shown(content[name])}"
            problems[name] = f"{name} must be {known}; {given}."
    if request and request.num_beams > 1 and request.n > request.num_beams:
        problems["n"] = f"n must be at most num_beams ({request.num_beams}); it is {request.n}."
    if problems or request is None:
        raise Refused(" ".join(problems.values()), param=next(iter(problems)))
    return request


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


class Choice(NamedTuple):
    """One answer: its text, why it ended (`stop`, `length`, `tool_calls`), and the tools that it calls."""

    text: str
    finish: str
    calls: Sequence[Mapping[str, Any]] = ()

    @property
    def message(self) -> dict[str, Any]:
        said: dict[str, Any] = {"content": self.text or None if self.calls else self.text}
        return said | ({"tool_calls": [_called(call) for call in self.calls]} if self.calls else {})


def _called(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call as clients expect it: with an id, and its arguments as JSON text."""
    function = call["function"]
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    id = call.get("id") or f"call_{uuid.uuid4().hex[:24]}"
    return {"id": id, "type": "function", "function": {"name": function["name"], "arguments": arguments}}


class Reply:
    """The shapes of one answer, whole or as chunks of a stream."""

    def __init__(self, request: Request, id: str, model: str, fingerprint: str) -> None:
        self.request, self.chat = request, isinstance(request, ChatRequest)
        self._head = {"id": id, "created": int(time.time()), "model": model, "system_fingerprint": fingerprint}

    def whole(self, answers: Sequence[Choice], usage: dict[str, Any]) -> dict[str, Any]:
        choices = [
            self._choice(
                index,
                said.finish,
                {"message": {"role": "assistant", **said.message}} if self.chat else said.text,
            )
            for index, said in enumerate(answers)
        ]
        return {**self._head, "object": self.request.answer_kind, "choices": choices, "usage": usage}

    def opening(self, index: int) -> dict[str, Any] | None:
        return self._chunk(index, {"role": "assistant", "content": ""}, None) if self.chat else None

    def piece(self, index: int, text: str) -> dict[str, Any]:
        return self._chunk(index, {"content": text} if self.chat else text, None)

    def late(self, index: int, said: Choice) -> list[dict[str, Any]]:
        """An answer that was held back until it was whole, because it could have been a call."""
        chunks = [self.piece(index, said.text)] if said.text else []
        calls = said.message.get("tool_calls", ())
        if calls:
            numbered = [{"index": number, **call} for number, call in enumerate(calls)]
            chunks.append(self._chunk(index, {"tool_calls": numbered}, None))
        return chunks

    def closing(self, index: int, finish: str) -> dict[str, Any]:
        return self._chunk(index, {} if self.chat else "", finish)

    def usage(self, usage: dict[str, Any]) -> dict[str, Any]:
        return {**self._head, "object": self.request.chunk_kind, "choices": [], "usage": usage}

    def _chunk(self, index: int, content: Any, finish: str | None) -> dict[str, Any]:
        choice = self._choice(index, finish, {"delta": content} if self.chat else content)
        return {**self._head, "object": self.request.chunk_kind, "choices": [choice]}

    @staticmethod
    def _choice(index: int, finish: str | None, content: Any) -> dict[str, Any]:
        content = {"text": content} if isinstance(content, str) else content
        return {"index": index, **content, "logprobs": None, "finish_reason": finish}
