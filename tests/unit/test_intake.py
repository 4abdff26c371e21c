"""What is uploaded, pasted or fetched becomes a file of the workspace, whole or not at all, and never over another."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data.download import Stopped, download
from data.files import read
from data.intake import kind_of, pasted, safe_name, store
from engine.contract.errors import DataError

ROWS = b"".join(b'{"n": %d, "text": "%s"}\n' % (n, b"x" * 1000) for n in range(2000))


def names(workspace: Path) -> list[str]:
    """The files of the workspace's datasets, hidden ones too."""
    return sorted(str(path.relative_to(workspace)) for path in workspace.rglob("*") if path.is_file())


# Uploads


def test_an_upload_keeps_its_name_and_never_replaces_another(tmp_path):
    upload = tmp_path / "my rows.v1.jsonl"
    upload.write_bytes(b'{"a": 1}\n')
    kept = [store(upload, tmp_path / "workspace") for _ in range(3)]
    assert [path.name for path in kept] == ["my rows.v1.jsonl", "my rows-2.v1.jsonl", "my rows-3.v1.jsonl"]
    assert all(path.read_bytes() == b'{"a": 1}\n' for path in kept)
    assert len(names(tmp_path / "workspace")) == 3


@pytest.mark.parametrize(
    ("name", "safe"),
    [("../../etc/a.csv", "a.csv"), ("C:\\a\\b.csv", "b.csv"), ("a\x00b\n.csv", "a_b_.csv"),
     ("数据.jsonl.gz", "数据.jsonl.gz"),
     (".csv", "csv"), ("..", "data"), ("", "data"), ("x" * 300 + ".csv", "x" * 117 + ".csv")],
)  # fmt: skip
def test_a_name_is_made_safe(name, safe):
    assert safe_name(name) == safe


def test_an_upload_that_cannot_be_read_is_refused_before_it_is_copied(tmp_path):
    (tmp_path / "a.exe").write_bytes(b"MZ")
    with pytest.raises(DataError, match=r"'a\.exe' is no kind of file"):
        store(tmp_path / "a.exe", tmp_path / "workspace")
    assert not (tmp_path / "workspace").exists()


def test_an_upload_that_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "a.csv").write_bytes(b"a\n1\n")
    monkeypatch.setattr("data.intake.shutil.copyfile", full)
    with pytest.raises(DataError, match="No space left"):
        store(tmp_path / "a.csv", tmp_path / "workspace")
    assert names(tmp_path / "workspace") == []
    assert list((tmp_path / "workspace" / "datasets").iterdir()) == []


# Pasted text


@pytest.mark.parametrize(
    ("text", "ending"),
    [('[{"a": 1}]', ".json"), ('{"a": 1}\n{"a": 2}\n', ".jsonl"), ('{\n "a": 1\n}', ".json"), ('{"a": 1}', ".json"),
     ("question,answer\nWho?,Me.\n", ".csv"), ("question;answer\nWho?;Me.\n", ".csv"), ("a\tb\n1\t2\n", ".tsv"),
     ("问题,答案\n谁？,我。\n", ".csv"), ("Hello, world.\nHow are you, today?\n", ".txt"), ("One line", ".txt"),
     ("Dear Sir,\nthank you, and goodbye\n", ".txt")],
)  # fmt: skip
def test_pasted_text_becomes_the_kind_of_file_that_it_is(tmp_path, text, ending):
    assert kind_of(text) == ending
    kept = pasted(text, "what I pasted", tmp_path)
    assert kept.name == f"what I pasted{ending}"
    assert len(list(read(kept))) >= 1


def test_the_name_of_a_paste_may_say_its_kind(tmp_path):
    assert pasted("Hello, world\nHow, now\n", "a.csv", tmp_path).name == "a.csv"
    assert pasted('{"a": 1}', "", tmp_path).name == "pasted.json"
    assert pasted('{"a": "\ud83d"}', "half", tmp_path).name == "half.json"


@pytest.mark.parametrize(
    ("text", "said"),
    [(" \n", "nothing was pasted"), ('{"a": 1}\n{"a": \n', "mine.jsonl, row 2: this is not valid JSON"),
     ('[{"a": 1}, 2]', "mine.json, row 2: a row must be a JSON object")],
)  # fmt: skip
def test_a_paste_that_cannot_be_read_is_not_kept(tmp_path, text, said):
    with pytest.raises(DataError) as caught:
        pasted(text, "mine", tmp_path)
    assert said in str(caught.value)
    assert names(tmp_path) == []


# Web addresses


class Stub(BaseHTTPRequestHandler):
    """A server that breaks off after `cut` bytes, once for each number in it."""

    cuts: list[int] = []
    asked: list[str] = []
    etag = '"1"'
    content = ROWS

    def do_GET(self) -> None:
        type(self).asked.append(self.headers.get("Range", ""))
        plain = {"/missing": 404, "/private": 403, "/busy": 503}
        if status := plain.get(self.path):
            self.answer(status, b"no")
        elif self.path.startswith("/to?"):
            self.answer(302, b"", location=self.path.partition("?")[2])
        elif self.path == "/page":
            self.answer(200, b"<html>", content_type="text/html; charset=utf-8")
        elif self.path == "/page.jsonl":
            self.answer(200, b" <!DOCTYPE html><html>")
        elif self.path == "/named":
            self.answer(200, ROWS, content_disposition='attachment; filename="../the rows.jsonl"')
        elif self.path == "/typed":
            self.answer(200, b"a,b\n1,2\n", content_type="text/csv")
        elif self.path == "/broken.jsonl":
            self.answer(200, b'{"a": \n')
        elif self.path == "/rows.jsonl.gz":
            self.answer(200, gzip.compress(ROWS))
        else:
            self.rows()

    def rows(self) -> None:
        content, start = self.content, 0
        asked = self.headers.get("Range", "")
        if asked and self.headers.get("If-Range") == self.etag:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        stated = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = self.cuts.pop(0) if self.cuts else len(content)
        self.answer(
            206 if start else 200, content[start : start + cut], length=len(content) - start,
            **({"content_range": stated} if start else {}), etag=self.etag,
        )  # fmt: skip

    def answer(self, status: int, content: bytes, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if self.path != "/unsized.jsonl":
            self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        with suppress(ConnectionError):  # whoever fetches may have stopped
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    """The address of a stub, which is forgotten after the test."""
    Stub.cuts, Stub.asked, Stub.etag, Stub.content = [], [], '"1"', ROWS
    served = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    thread = threading.Thread(target=served.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()
    thread.join()
    served.server_close()


def test_a_file_is_fetched_with_progress_and_kept_under_its_name(tmp_path, server):
    seen: list[tuple[int, int | None]] = []
    kept = download(f"{server}/rows.jsonl?download=true", tmp_path, lambda done, total: seen.append((done, total)))
    assert kept == tmp_path / "datasets" / "rows.jsonl" and kept.read_bytes() == ROWS
    assert seen[-1] == (len(ROWS), len(ROWS)) and len(seen) > 2
    assert download(f"{server}/rows.jsonl", tmp_path).name == "rows-2.jsonl"
    assert names(tmp_path) == ["datasets/rows-2.jsonl", "datasets/rows.jsonl"]


def test_the_server_may_name_the_file_or_its_kind(tmp_path, server):
    assert download(f"{server}/named", tmp_path).name == "the rows.jsonl"
    assert download(f"{server}/typed", tmp_path).name == "typed.csv"
    assert len(list(read(download(f"{server}/rows.jsonl.gz", tmp_path)))) == 2000


def test_a_connection_that_breaks_goes_on_where_it_broke(tmp_path, server):
    Stub.cuts = [500_000, 700_000]
    assert download(f"{server}/rows.jsonl", tmp_path).read_bytes() == ROWS
    assert Stub.asked[0] == "" and Stub.asked[1].startswith("bytes=") and len(Stub.asked) == 3
    assert names(tmp_path) == ["datasets/rows.jsonl"]


def test_a_download_that_was_stopped_goes_on_later(tmp_path, server):
    arrived: list[int] = []
    with pytest.raises(Stopped):
        download(f"{server}/rows.jsonl", tmp_path, lambda done, _: arrived.append(done), lambda: len(arrived) > 1)
    assert not (tmp_path / "datasets" / "rows.jsonl").exists()
    assert download(f"{server}/rows.jsonl", tmp_path).read_bytes() == ROWS
    assert Stub.asked == ["", f"bytes={arrived[-1]}-"]


def test_a_file_that_has_changed_meanwhile_is_fetched_anew(tmp_path, server):
    with pytest.raises(Stopped):
        download(f"{server}/rows.jsonl", tmp_path, stop=iter([False, True]).__next__)
    Stub.etag, Stub.content = '"2"', b'{"other": 1}\n'
    assert download(f"{server}/rows.jsonl", tmp_path).read_bytes() == b'{"other": 1}\n'


def test_a_connection_that_breaks_without_a_byte_is_said(tmp_path, server):
    Stub.cuts = [0] * 9
    with pytest.raises(DataError, match="no connection to 127.0.0.1"):
        download(f"{server}/rows.jsonl", tmp_path)
    assert len(Stub.asked) == 1


@pytest.mark.parametrize(
    ("path", "said"),
    [("/missing", "nothing at this address"), ("/private", "does not give this file to everybody"),
     ("/busy", "cannot give the file now"), ("/page", "a web page, not a file"),
     ("/page.jsonl", "a web page, not a file"), ("/broken.jsonl", "broken.jsonl, row 1: this is not valid JSON"),
     ("/a.exe", "is no kind of file"), ("/to?/to?/to?/to?/to?/to?/to?/to?/x", "without end"),
     ("/to?file:///etc/passwd", "leads on to file://"), ("/to?http://example.com/a.csv", "leads on to http://example")],
)  # fmt: skip
def test_what_cannot_be_fetched_is_said_and_leaves_no_dataset(tmp_path, server, path, said):
    with pytest.raises(DataError) as caught:
        download(server + path, tmp_path)
    assert said in str(caught.value) and caught.value.hint
    assert [name for name in names(tmp_path) if ".downloads" not in name] == []


def test_a_redirect_is_followed(tmp_path, server):
    assert download(f"{server}/to?/rows.jsonl", tmp_path).name == "rows.jsonl"


@pytest.mark.parametrize(
    "url",
    ["http://example.com/a.csv", "ftp://example.com/a.csv", "file:///etc/passwd", "a.csv", "http://10.0.0.1/a.csv"],
)
def test_only_https_is_spoken_with_others(tmp_path, url):
    with pytest.raises(DataError, match="https://"):
        download(url, tmp_path)


def test_a_server_that_is_not_there_is_said(tmp_path):
    with pytest.raises(DataError, match="there is no connection to 127.0.0.1"):
        download("http://127.0.0.1:9/a.csv", tmp_path)


@pytest.mark.parametrize("path", ["/rows.jsonl", "/unsized.jsonl"])
def test_a_file_beyond_the_limit_is_refused_whether_or_not_its_size_is_stated(tmp_path, server, path):
    with pytest.raises(DataError, match="larger than"):
        download(server + path, tmp_path, limit=1_000_000)
    assert [name for name in names(tmp_path) if ".downloads" not in name] == []
