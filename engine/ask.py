"""Asks a model behind an OpenAI-compatible endpoint, patiently, and counts what it costs.

Knows the protocol's client and nothing of rows. The key comes from the environment and is never written down.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.contract.client import NOT_LOADED, Server, ServerError, loaded
from engine.contract.errors import BoardError, ResourceError
from engine.contract.fields import AUTO
from engine.contract.making import Endpoint

WORTH_ASKING_AGAIN = (0, 408, 409, 425, 429, 500, 502, 503, 504)  # 0: the server did not answer
LONGEST_PAUSE = 60.0  # seconds
THOUGHT = re.compile(r"\A\s*<think>.*?</think>\s*", re.DOTALL)


class GivenUp(BoardError):
    """The endpoint did not answer one question, however often it was asked."""


@dataclass
class Spent:
    """What was asked and written so far, and what it costs at the endpoint's prices."""

    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    def cost(self, endpoint: Endpoint) -> float:
        """In the currency of the prices, which are for a million tokens."""
        return (self.tokens_in * endpoint.price_in + self.tokens_out * endpoint.price_out) / 1e6


class Ask:
    """`ask(messages) -> text`; may be called from many threads. `stopped` ends every wait."""

    def __init__(self, endpoint: Endpoint, address: str, stopped: threading.Event, spent: Spent | None = None) -> None:
        key = os.environ.get(endpoint.key_variable, "") if endpoint.key_variable else ""
        self.server = Server(address, key=key, patience=endpoint.patience)
        self.endpoint, self.stopped = endpoint, stopped
        self.spent = spent or Spent()
        self._guard = threading.Lock()
        self.model = endpoint.model if endpoint.model != AUTO else self._first()

    def __call__(self, messages: Sequence[Mapping[str, Any]], **settings: Any) -> str:
        """The answer, without the thought that some models think aloud before it. Raises GivenUp."""
        wanted = {"max_tokens": self.endpoint.max_tokens, "temperature": self.endpoint.temperature, **settings}
        for attempt in range(self.endpoint.retries + 1):
            try:
                answer, said = self.server.complete(self.model, messages, wanted)
            except ServerError as problem:
                if problem.status not in WORTH_ASKING_AGAIN or attempt == self.endpoint.retries:
                    raise GivenUp(problem.text, problem.hint) from None
                pause = problem.retry_after or min(LONGEST_PAUSE, 2.0**attempt)
                if self.stopped.wait(min(pause, LONGEST_PAUSE)):
                    raise GivenUp("The run was stopped.") from None
                continue
            with self._guard:
                self.spent.requests += 1
                self.spent.tokens_in += _tokens(said.usage.get("prompt_tokens"))
                self.spent.tokens_out += _tokens(said.usage.get("completion_tokens"))
            return THOUGHT.sub("", answer).strip()
        raise AssertionError("unreachable: the last attempt answers or raises")

    def _first(self) -> str:
        try:
            found = self.server.models()
        except ServerError as problem:
            hint = "Name the model in endpoint.model, or check the address and the key."
            raise ResourceError(f"{problem.text} {problem.hint}".strip(), hint) from None
        if not found:
            raise ResourceError(f"The server at {self.server.address} lists no model.", "Name one in endpoint.model.")
        return str(found[0]["id"])


def _tokens(said: Any) -> int:
    return int(said) if isinstance(said, (int, float)) else 0


def address(endpoint: Endpoint, workspace: Path) -> str:
    """The endpoint's address; for `auto` that of the server that is loaded for Chat. Raises ResourceError."""
    if found := endpoint.address if endpoint.address != AUTO else loaded(workspace):
        return found
    raise ResourceError(*NOT_LOADED)
