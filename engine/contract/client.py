"""Talk to a server over OpenAI's HTTP protocol: what the page's Chat tab and the terminal have in common.

Standard library only. Works with any server that speaks the protocol; knows nothing of models.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from engine.contract.errors import BoardError
from engine.contract.rundir import ENDED, Run, records, runs


def split(address: str) -> SplitResult | None:
    """The parts of the address of a server; None where it is none."""
    try:
        parts = urlsplit(address)
        reachable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # brackets that do not close, a port that is no number or too large
        return None
    return parts if reachable else None


class ServerError(BoardError):
    """The server refused a request, is gone, or ended in the middle of an answer.

    status: the HTTP status of a refusal, 0 when there was no answer. retry_after: seconds to wait, where it says so.
    """

    def __init__(self, text: str, hint: str = "", *, status: int = 0, retry_after: float = 0.0) -> None:
        super().__init__(text, hint)
        self.status, self.retry_after = status, retry_after


@dataclass(frozen=True)
class Said:
    """The end of an answer: which weights gave it, why it ended (`stop`, `length`), and what it cost."""

    model: str
    finish: str
    usage: Mapping[str, Any] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """One line for people: `run-1 · 42 tokens · 3.1 s · 13.5 tokens/s`."""
        tokens, seconds, rate = (self.usage.get(key) for key in ("completion_tokens", "seconds", "tokens_per_second"))
        parts = [self.model]
        parts += [f"{tokens:,} token{'' if tokens == 1 else 's'}"] if tokens is not None else []
        parts += [f"{seconds:.1f} s"] if seconds is not None else []
        parts += [f"{rate:.1f} tokens/s"] if rate is not None else []
        parts += ["cut at the longest answer"] if self.finish == "length" else []
        return " · ".join(parts)

    @property
    def context(self) -> str:
        """`120 of 8,192 tokens of context`; empty when the server does not say."""
        used, whole = self.usage.get("context_used"), self.usage.get("context")
        return f"{used:,} of {whole:,} tokens of context" if used and whole else ""


class Server:
    """One server by its address, `http://127.0.0.1:PORT`. Holds no connection between calls."""

    def __init__(self, address: str, *, key: str = "", patience: float = 5) -> None:
        """key: sent as bearer token. patience: seconds to wait for a connection, and for answers that do not stream."""
        parts = split(address if "//" in address else f"http://{address}")
        if parts is None:
            raise BoardError(f"{address!r} is not the address of a server.", "Give one such as http://127.0.0.1:8000.")
        self.address = address.rstrip("/").removesuffix("/v1")
        self._parts, self._patience = parts, patience
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._path = parts.path.rstrip("/").removesuffix("/v1")

    def alive(self) -> bool:
        """Whether it answers; asks for nothing that waits in a queue."""
        try:
            self.models()
        except ServerError:
            return False
        return True

    def models(self) -> list[dict[str, Any]]:
        """What is loaded: `id` and, from our own server, `kind`, `base` and `context` (tokens)."""
        with closing(self._connect()) as connection:
            response = self._ask(connection, "GET", "/v1/models", None)
            with self._as_promised():
                return [{**model, "id": str(model["id"])} for model in json.loads(response.read())["data"]]

    def stream(
        self, model: str, messages: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
    ) -> Iterator[str | Said]:
        """The pieces of the answer as they come, and last what it cost. Closing the iterator ends the generation."""
        body = {**settings, "model": model, "messages": list(messages), "stream": True}
        body["stream_options"] = {"include_usage": True}
        said: dict[str, Any] = {"model": model, "finish": "", "usage": {}}
        with closing(self._connect()) as connection:
            response = self._ask(connection, "POST", "/v1/chat/completions", body)
            if connection.sock is not None:
                connection.sock.settimeout(None)  # a queue may be long, and a big model slow to begin
            for event in _events(response):
                said["model"] = event.get("model", said["model"])
                said["usage"] = event.get("usage") or said["usage"]
                for choice in event.get("choices", ()):
                    if text := choice.get("delta", {}).get("content"):
                        yield text
                    said["finish"] = choice.get("finish_reason") or said["finish"]
        yield Said(**said)

    def complete(
        self, model: str, messages: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
    ) -> tuple[str, Said]:
        """The whole answer at once, and what it cost."""
        body = {**settings, "model": model, "messages": list(messages)}
        with closing(self._connect()) as connection:
            response = self._ask(connection, "POST", "/v1/chat/completions", body)
            with self._as_promised():
                said = json.loads(response.read())
                choice, usage = said["choices"][0], said.get("usage")
                answer = choice["message"].get("content") or ""
                if not isinstance(answer, str):  # in parts, as some servers write it
                    answer = "".join(part["text"] for part in answer if "text" in part)
                return answer, Said(
                    said.get("model", model),
                    choice.get("finish_reason") or "",
                    usage if isinstance(usage, dict) else {},
                )

    @contextmanager
    def _as_promised(self) -> Iterator[None]:
        """Whatever is wrong with an answer that came is a ServerError."""
        try:
            yield
        except (OSError, http.client.HTTPException) as problem:
            raise ServerError(f"The server at {self.address} broke off its answer ({problem}).") from None
        except (ValueError, LookupError, TypeError, AttributeError):
            hint = "Check that the address is that of an OpenAI-compatible server."
            raise ServerError(f"{self.address} did not answer as OpenAI's protocol says.", hint, status=501) from None

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        return kind(self._parts.hostname or "", self._parts.port, timeout=self._patience)

    def _ask(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: Any
    ) -> http.client.HTTPResponse:
        content = None if body is None else json.dumps(body).encode()
        try:
            connection.request(method, self._path + path, content, self._headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as problem:
            raise ServerError(
                f"The server at {self.address} does not answer ({problem}).", "Load the model again."
            ) from None
        if response.status >= 400:
            after = response.getheader("Retry-After", "")
            raise ServerError(
                _refusal(response), status=response.status, retry_after=float(after) if after.isdecimal() else 0.0
            )
        return response


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The JSON of each `data:` line up to `[DONE]`. Raises ServerError when the stream breaks off before."""
    try:
        for line in response:
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            event = json.loads(data)
            if "error" in event:
                raise ServerError(str(event["error"].get("message", event["error"])))
            yield event
    except (OSError, http.client.HTTPException, ValueError):
        pass  # told below, like an end without [DONE]
    raise ServerError("The server ended in the middle of the answer.", "Its log says why. Load the model again.")


def _refusal(response: http.client.HTTPResponse) -> str:
    text = response.read(10_000).decode(errors="replace")
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"The server answered {response.status} {response.reason}: {text[:300]}"


def address_of(run: Run) -> str | None:
    """Where the server of this run answers; None while it is queued or loading. ServerError when it has ended."""
    if run.state() in ENDED:
        status = run.status()
        failures = [record for record in records(run.events_path) if record["kind"] == "error"]
        text, hint = ((failures[-1]["text"], failures[-1]["hint"]) if failures
                      else (status.get("why") or "The server has ended.", status.get("hint", "")))  # fmt: skip
        raise ServerError(text, hint)
    return next((record["address"] for record in records(run.events_path) if record["kind"] == "serving"), None)


NOT_LOADED = (
    "No model is loaded that could write the rows.",
    "Load one in Chat, or name the server to ask (endpoint.address).",
)


def loaded(workspace: Path) -> str:
    """Where the newest server of the workspace that runs answers; empty when there is none."""
    for run in runs(workspace):
        try:
            # The kind first: the events of a training are many.
            if b"kind: serve" in run.args_path.read_bytes() and run.state() == "running" and (at := address_of(run)):
                return at
        except (OSError, ServerError):
            continue  # deleted, or ended between two looks
    return ""
