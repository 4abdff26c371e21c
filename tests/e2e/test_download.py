"""A model from a hub on loopback, as a run: progress while it comes, cancel, and going on where it was."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import parse_qs

import pytest

from engine.contract import start, text
from engine.contract.errors import ModelError
from engine.contract.rundir import Run, records
from tests.processes import ended, until

SHA = "a" * 40
WEIGHTS = bytes(range(256)) * 40_000  # 10 MB
HALF = len(WEIGHTS) // 2


@dataclass
class Hub:
    """Sends the first half of the weights, and the second once `go` is set; remembers from where it was asked."""

    address: str = ""
    go: threading.Event = field(default_factory=threading.Event)
    begins: list[int] = field(default_factory=list)


@pytest.fixture
def hub() -> Iterator[Hub]:
    stub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = self.path.partition("?")[0].strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                files = [("config.json", 2), ("model.safetensors", len(WEIGHTS))]
                listed = [{"type": "file", "path": name, "size": size, "oid": "0" * 40} for name, size in files]
                return self._json(
                    {"id": "me/slow", "sha": SHA, "tags": [], "siblings": []} if parts[4] == "revision" else listed
                )
            content = WEIGHTS if parts[-1] == "model.safetensors" else b"{}"
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            begin = int(asked[1]) if asked else 0
            self.send_response(206 if asked else 200)
            for name, value in {
                "Content-Length": len(content) - begin,
                "Content-Range": f"bytes {begin}-{len(content) - 1}/{len(content)}",
                "X-Repo-Commit": SHA,
                "X-Linked-Size": len(content),
                "ETag": f'"{hashlib.sha1(self.path.encode()).hexdigest()}"',
            }.items():
                self.send_header(name, str(value))
            self.end_headers()
            if self.command == "HEAD":
                return
            if content is WEIGHTS:
                stub.begins.append(begin)
            self.wfile.write(content[begin:HALF])
            if len(content) > HALF:
                self.wfile.flush()
                stub.go.wait(60)
            try:
                self.wfile.write(content[max(begin, HALF) :])
            except OSError:
                return  # the client was stopped

        do_HEAD = do_GET

        def _json(self, content: Any) -> None:
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stub.address = f"http://127.0.0.1:{server.server_port}"
    yield stub
    stub.go.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def reached(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub, as the processes that are started from here reach it."""
    for name, value in {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0",
                        "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    return hub


def download(workspace: Path) -> Run:
    args = text.parse({}, ["id=me/slow"], kind="download")
    return start.start(workspace, "download", text.dump(args), devices=())


def arrived(run: Run) -> int:
    """Megabytes of the last progress."""
    return max((found["step"] for found in records(run.events_path) if found["kind"] == "progress"), default=0)


def test_a_download_tells_how_far_it_is_can_be_stopped_and_goes_on(reached: Hub, tmp_path: Path) -> None:
    first = download(tmp_path)
    until(lambda: arrived(first) >= 4, what="a part of the file")
    assert {found["unit"] for found in records(first.events_path) if found["kind"] == "progress"} == {"MB"}
    start.stop(first)
    assert ended(first) == "stopped"
    reached.go.set()
    second = download(tmp_path)
    assert ended(second) == "done", second.log_path.read_text()
    assert reached.begins[0] == 0 < reached.begins[1] <= HALF, "it did not go on from where it was"
    result = next(found for found in records(second.events_path) if found["kind"] == "result")
    assert (Path(result["facts"]["folder"]) / "model.safetensors").read_bytes() == WEIGHTS


def test_a_download_waits_for_no_device(reached: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.contract.queue import open_locks, take_all

    reached.go.set()
    assert take_all(open_locks(["cpu"]), share=False)  # a training holds the device
    assert ended(download(tmp_path)) == "done"


def test_offline_is_said_at_once(reached: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run = download(tmp_path)
    assert ended(run) == "failed"
    said = next(found for found in records(run.events_path) if found["kind"] == "error")
    assert "the board is offline" in said["text"] and "Unset HF_HUB_OFFLINE" in said["hint"]


@contextmanager
def modelscope(monkeypatch: pytest.MonkeyPatch, answer: Callable[[str, str], bytes]) -> Iterator[list[str]]:
    """A ModelScope on loopback: `answer(path, file)` says what it sends, `file` being what the query names. Yields all
    that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            path, _, query = self.path.partition("?")
            body = answer(path, parse_qs(query).get("FilePath", [""])[0])
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # here, and in processes
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        yield asked
        server.shutdown()


def blob(name: str, content: bytes) -> dict[str, Any]:
    """A file as ModelScope lists it."""
    return {"Type": "blob", "Path": name, "Size": len(content), "Sha256": hashlib.sha256(content).hexdigest()}


def test_a_model_of_modelscope_lands_in_the_workspace_and_is_found_by_its_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from data import models

    content = {
        "config.json": b"{}",
        "tokenizer.json": b"{}",
        "model.safetensors": WEIGHTS[:1000],
        "pytorch_model.bin": b"x",
    }
    files = [*(blob(name, body) for name, body in content.items()), {"Type": "tree", "Path": "figures"}]
    listed = json.dumps({"Code": 200, "Data": {"Files": files}}).encode()
    with modelscope(monkeypatch, lambda path, file: listed if path.endswith("/files") else content[file]) as asked:
        args = text.parse({}, ["id=me/there", "hub=modelscope"], kind="download")
        run = start.start(tmp_path, "download", text.dump(args), devices=())
        assert ended(run) == "done", run.log_path.read_text()
    folder = models.find("me/there", tmp_path).folder
    assert folder == tmp_path / "models" / "there"
    names = {file.name for file in folder.iterdir()}
    assert names == {".hub.json", "config.json", "model.safetensors", "tokenizer.json"}
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS[:1000]
    assert not any("pytorch_model" in path for path in asked)
    assert models.find("you/there", tmp_path).folder is None  # another model of the same name


def test_a_model_is_never_taken_for_another_of_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither one that is there nor a part of one, and nobody's folder is written into."""
    from engine.download import run as get

    content = {"me": b"{1}", "you": b"{2}"}

    def answer(path: str, file: str) -> bytes:
        own = content[path.split("/")[4]]
        files = [blob("config.json", own), blob("model.safetensors", own)]
        return json.dumps({"Code": 200, "Data": {"Files": files}}).encode() if path.endswith("/files") else own

    def fetched(id: str) -> Path:
        args: Any = text.parse({}, [f"id={id}", "hub=modelscope"], kind="download")
        get(args, Run(tmp_path / "runs" / "one"), mock.MagicMock(), mock.MagicMock())
        return tmp_path / "models" / id.partition("/")[2]

    with modelscope(monkeypatch, answer):
        (tmp_path / "models" / ".partial-there").mkdir(parents=True)
        (tmp_path / "models" / ".partial-there" / "config.json").write_bytes(b"{1}")
        (tmp_path / "models" / ".partial-you--there").mkdir()
        (tmp_path / "models" / ".partial-you--there" / "config.json").write_bytes(b"{0}")  # of an older commit
        assert {file.read_bytes() for file in fetched("you/there").glob("[a-z]*")} == {b"{2}"}
        fetched("you/there")
        with pytest.raises(ModelError, match="holds you/there. Rename or delete that folder"):
            fetched("me/there")
        (tmp_path / "models" / "mine").mkdir()
        with pytest.raises(ModelError, match="which is there already. Rename"):
            fetched("me/mine")
        with pytest.raises(ModelError, match="is not a model's name on ModelScope"):
            fetched("me/../../out")
    assert not list((tmp_path / "models" / "mine").iterdir())


def test_a_dataset_of_a_hub_is_listed_when_it_has_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from data.datasets import registry

    rows = b'{"instruction": "1 + 1", "output": "2"}\n{"instruction": "1 + 2", "output": "3"}\n'

    def answer(path: str, file: str) -> bytes:
        if path.endswith("/repo"):
            return rows
        tree = {"Files": [blob("train.jsonl", rows)]}
        return json.dumps({"Data": tree if path.endswith("/tree") else {"Id": 7, "License": "MIT"}}).encode()

    with modelscope(monkeypatch, answer):
        args = text.parse({}, ["id=me/sums", "of=dataset", "hub=modelscope"], kind="download")
        run = start.start(tmp_path, "download", text.dump(args), devices=())
        assert ended(run) == "done", run.log_path.read_text()
    (entry,) = [entry for entry in registry.entries(tmp_path) if entry.origin == "modelscope:me/sums"]
    assert entry.licence == "MIT" and registry.count(entry).rows == 2
