"""A file from an address: named, gone on with, refused in a sentence; nothing that is there is written over."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from data.hubs import web
from engine.contract.errors import DataError, ResourceError

ROWS = b'{"text": "Once."}\n' * 200_000


class Stub(BaseHTTPRequestHandler):
    """Answers with what the path asks for; `asked` holds the ranges."""

    asked: list[str] = []
    stalls = threading.Event()
    etag = ""

    def do_GET(self) -> None:
        range = self.headers.get("Range", "")
        Stub.asked.append(range)
        if "If-Range" in self.headers and self.headers["If-Range"] != self.etag:
            range = ""
        start = int(range.removeprefix("bytes=").rstrip("-") or 0)
        kind = self.path.split("/")[1]
        if kind in ("403", "404", "500"):
            return self.answer(int(kind), b"")
        if kind == "to":
            return self.answer(302, b"", leads=self.path.partition("?")[2])
        if kind == "html":
            return self.answer(200, ROWS, kind="text/html; charset=utf-8")
        if kind == "page":
            return self.answer(200, b"\n<!DOCTYPE html><html>")
        if kind == "whole":  # a server that knows no ranges
            return self.answer(200, ROWS)
        if kind == "stalled":
            self.answer(200, b"", len(ROWS))
            Stub.stalls.set()
            self.rfile.read()  # until the other side has gone
            return None
        if kind == "silent":
            return self.answer(200, b"", len(ROWS))
        if start >= len(ROWS):
            return self.answer(416, b"")
        return self.answer(206 if start else 200, ROWS[start:])

    def answer(self, status: int, body: bytes, stated: int | None = None, leads: str = "", kind: str = "") -> None:
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
        if leads:
            self.send_header("Location", leads)
        if self.etag:
            self.send_header("ETag", self.etag)
        self.send_header("Content-Length", str(len(body) if stated is None else stated))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    monkeypatch.setattr(Stub, "asked", [])
    monkeypatch.setattr(Stub, "stalls", threading.Event())
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_file_lands_under_its_own_name_and_writes_over_nothing(tmp_path, at):
    arrived: list[int] = []
    first = web.get(f"{at}/rows/my%20rows.jsonl?download=true", tmp_path, tell=arrived.append)
    second = web.get(f"{at}/rows/my%20rows.jsonl", tmp_path)
    assert [first.name, second.name] == ["my rows.jsonl", "my rows-2.jsonl"]
    assert first.read_bytes() == second.read_bytes() == ROWS and sum(arrived) == len(ROWS)
    assert web.free(tmp_path / "a.jsonl.gz").name == "a.jsonl.gz"
    (tmp_path / "a.jsonl.gz").touch()
    assert web.free(tmp_path / "a.jsonl.gz").name == "a-2.jsonl.gz"


@pytest.mark.parametrize(("kind", "told"), [("rows", len(ROWS)), ("whole", len(ROWS))])
def test_a_stopped_download_goes_on_even_where_the_server_begins_anew(tmp_path, at, kind, told):
    with pytest.raises(web.Stopped):
        web.get(f"{at}/{kind}/a.jsonl", tmp_path, stop=lambda: True)
    assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
    arrived: list[int] = []
    assert web.get(f"{at}/{kind}/a.jsonl", tmp_path, tell=arrived.append).read_bytes() == ROWS
    assert Stub.asked == ["", f"bytes={web.CHUNK}-"]
    assert sum(arrived) == told
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_download_stops_although_its_server_has_fallen_silent(tmp_path, at, monkeypatch):
    monkeypatch.setattr(web, "STOP_SECONDS", 0.01)
    with pytest.raises(web.Stopped):
        web.get(f"{at}/stalled/a.jsonl", tmp_path, stop=Stub.stalls.is_set)
    assert web.get(f"{at}/rows/a.jsonl", tmp_path).read_bytes() == ROWS


def test_a_part_of_another_version_is_not_continued(tmp_path, at):
    for version in ("one", "two"):
        with pytest.raises(web.Stopped):
            web.fetch(f"{at}/rows/a.jsonl", tmp_path / "a.jsonl", version=version, stop=lambda: True)
    assert Stub.asked == ["", ""] and len(list(tmp_path.iterdir())) == 1


def test_a_file_that_has_changed_meanwhile_begins_anew(tmp_path, at, monkeypatch):
    monkeypatch.setattr(Stub, "etag", '"one"')
    with pytest.raises(web.Stopped):
        web.get(f"{at}/rows/a.jsonl", tmp_path, stop=lambda: True)
    [part] = tmp_path.glob(".*.part")
    part.write_bytes(b"other rows" * 1000)
    monkeypatch.setattr(Stub, "etag", '"two"')
    assert web.get(f"{at}/rows/a.jsonl", tmp_path).read_bytes() == ROWS
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"] and len(Stub.asked) == 2


@pytest.mark.parametrize("leads", ["file:///etc/passwd", "http://example.org/a.jsonl", "ftp://127.0.0.1/a.jsonl"])
def test_an_address_that_leads_to_no_safe_one_is_refused(tmp_path, at, leads):
    with pytest.raises(DataError, match="leads on to|is not allowed"):
        web.get(f"{at}/to/a.jsonl?{leads}", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_address_that_leads_to_another_is_followed(tmp_path, at):
    assert web.get(f"{at}/to/a.jsonl?{at}/rows/b.jsonl", tmp_path).read_bytes() == ROWS


def test_a_whole_part_is_taken_as_it_is(tmp_path, at):
    with pytest.raises(web.Stopped):
        web.fetch(f"{at}/rows/a.jsonl", tmp_path / "a.jsonl", stop=lambda: True)
    next(tmp_path.iterdir()).write_bytes(ROWS)
    web.fetch(f"{at}/rows/a.jsonl", tmp_path / "a.jsonl", size=len(ROWS))
    assert len(Stub.asked) == 1 and (tmp_path / "a.jsonl").read_bytes() == ROWS


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("403/a.jsonl", "asks for a permission that the board does not have"),
        ("404/a.jsonl", "has no such file"),
        ("500/a.jsonl", "answered 500"),
        ("page/a.jsonl", "is a web page, not a file of rows"),
        ("html/a.jsonl", "is a web page, not a file of rows"),
        ("silent/a.jsonl", "cannot be reached: the answer ended early"),
    ],
)
def test_each_refusal_is_a_sentence_and_leaves_no_file(tmp_path, at, path, sentence):
    with pytest.raises(DataError, match=sentence):
        web.get(f"{at}/{path}", tmp_path)
    assert not (tmp_path / "a.jsonl").exists()


def test_a_size_that_is_not_the_stated_one_is_refused(tmp_path, at):
    with pytest.raises(DataError, match="bytes where 5 were stated"):
        web.fetch(f"{at}/rows/a.jsonl", tmp_path / "a.jsonl", size=5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["http://example.org/a.jsonl", "ftp://x/a", "file:///etc/passwd", "https://x", "https://x/..", "a.jsonl",
            "https://[x/a", "https://x/a%00b", ""]
)  # fmt: skip
def test_what_is_no_safe_address_of_a_file_is_refused(tmp_path, url):
    with pytest.raises(DataError, match="is not the address of a file"):
        web.get(url, tmp_path)


def test_the_page_of_a_file_stands_for_the_file():
    assert web.direct("https://huggingface.co/datasets/a/b/blob/main/c.jsonl").endswith("/b/resolve/main/c.jsonl")
    assert web.direct("https://github.com/a/b/blob/main/c.jsonl").endswith("/b/raw/main/c.jsonl")
    assert web.direct("https://example.org/blob/c.jsonl") == "https://example.org/blob/c.jsonl"


def test_a_full_disk_is_a_sentence(tmp_path):
    with pytest.raises(ResourceError, match="MB left"):
        web.room(tmp_path / "new", 10**18)
