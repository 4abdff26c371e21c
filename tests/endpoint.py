"""An OpenAI-compatible endpoint on loopback that says what a function says, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = Callable[[list[dict[str, Any]]], str | tuple[int, dict[str, str]]]


@dataclass
class Endpoint:
    """`asked` holds the bodies of all requests, `keys` their Authorization headers."""

    reply: Reply
    address: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)


@contextmanager
def endpoint(reply: Reply) -> Iterator[Endpoint]:
    """`reply(messages)` gives the answer, or (status, headers) of a refusal."""
    stub = Endpoint(reply)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, {"data": [{"id": "writer"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            stub.asked.append(body)
            stub.keys.append(self.headers.get("Authorization", ""))
            said = stub.reply(body["messages"])
            if isinstance(said, tuple):
                return self._send(said[0], {"error": {"message": "Not now."}}, said[1])
            usage = {"prompt_tokens": 10, "completion_tokens": 5}
            choice = {"message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
            self._send(200, {"model": body["model"], "choices": [choice], "usage": usage})

        def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stub.address = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
