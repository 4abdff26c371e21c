"""Datasets of the hubs: looked at, downloaded in part, gone on with, refused in sentences. Both hubs are stubs."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from data.datasets import registry
from data.hubs import hub, web
from engine.contract.errors import DataError, ResourceError

SHA = "c0ffee" + 34 * "0"
ROW = b'{"prompt": "a", "completion": "b"}\n'
CARD = b"---\nlicense: mit\nconfigs:\n- config_name: main\n  data_files:\n  - {split: train, path: main/train*}\n"
CARD += b"  - {split: test, path: main/test.jsonl}\n- config_name: extra\n  data_files: extra.jsonl\n---\n# Card\n"
STATED = {"license": "mit", "configs": [
    {"config_name": "main", "data_files": [{"split": "train", "path": "main/train*"},
                                           {"split": "test", "path": "main/test.jsonl"}]},
    {"config_name": "extra", "data_files": "extra.jsonl"},
]}  # fmt: skip
DATASETS = {
    "me/parts": {"README.md": CARD, "main/train-1.jsonl": ROW * 3, "main/train-2.jsonl": ROW * 40_000,
                 "main/test.jsonl": ROW, "extra.jsonl": ROW * 2, ".gitattributes": b"x"},
    "me/plain": {"data/train-00000-of-00001.jsonl": ROW * 2, "data/validation-00000-of-00001.jsonl": ROW},
    "me/script": {"script.py": b"import os", "README.md": b"# Card"},
    "me/none": {"README.md": b"# Card", "picture.png": b"x"},
    "me/escape": {"../../escape.jsonl": ROW},
}  # fmt: skip


class Stub(BaseHTTPRequestHandler):
    """As much of both hubs' protocols as looking and downloading need; `asked` holds what was asked of it."""

    asked: list[tuple[str, str]] = []
    cut = 0  # bytes after which the answers that hold files break off
    wrong = False  # files arrive damaged

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        steps = unquote(parts.path).strip("/").split("/")
        if steps[:2] == ["api", "datasets"]:
            return self.huggingface("/".join(steps[2:4]), steps[4] if len(steps) > 4 else "")
        if steps[:3] == ["api", "v1", "datasets"]:
            return self.modelscope(steps[3:], query)
        if steps[0] == "datasets":  # datasets/me/parts/resolve/SHA/path
            return self.file("/".join(steps[1:3]), unquote(parts.path).partition(f"/{SHA}/")[2])
        return self.answer(404)

    do_HEAD = do_GET

    def huggingface(self, id: str, what: str) -> None:
        if id == "me/gated":
            return self.answer(403, X_Error_Code="GatedRepo")
        if id == "me/broken":
            return self.answer(500)
        if id not in DATASETS:
            return self.answer(404, X_Error_Code="RepoNotFound")
        if what == "tree":
            found = [
                {"type": "file", "path": path, "size": len(body), "oid": hashlib.sha1(body).hexdigest(),
                 "lfs": {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 1}}
                for path, body in DATASETS[id].items()
            ]  # fmt: skip
            return self.json(found)
        card = {"cardData": STATED} if id == "me/parts" else {}
        return self.json({"id": id, "sha": SHA, "tags": [], "siblings": [], "gated": False, **card})

    def modelscope(self, steps: list[str], query: dict[str, str]) -> None:
        if steps[1:] == ["repo", "tree"]:
            files = DATASETS[list(DATASETS)[int(steps[0])]]
            found = [{"Path": path, "Name": path, "Type": "blob", "Size": len(body), "Revision": path}
                     for path, body in files.items()]  # fmt: skip
            return self.json({"Code": 200, "Data": {"Files": found}})
        id = "/".join(steps[:2])
        if id not in DATASETS:
            return self.answer(404)
        if steps[2:] == ["repo"]:
            return self.file(id, query["FilePath"])
        return self.json({"Code": 200, "Data": {"Id": list(DATASETS).index(id), "License": "mit"}})

    def file(self, id: str, path: str) -> None:
        body = DATASETS[id][path]
        range = self.headers.get("Range", "")
        if self.command == "GET":
            Stub.asked.append((path, range))
        start = int(range.removeprefix("bytes=").rstrip("-") or 0)
        sent = body[start:] if not Stub.wrong else b"?" * (len(body) - start)
        extra = {"Content_Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if start else {}
        length = str(len(sent))
        if Stub.cut and len(sent) > Stub.cut:
            sent = sent[: Stub.cut]
            self.close_connection = True
        self.answer(206 if start else 200, sent, X_Repo_Commit=SHA, ETag='"x"', **{**extra, "Content_Length": length})

    def json(self, found: object) -> None:
        self.answer(200, json.dumps(found).encode(), Content_Type="application/json")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    from huggingface_hub import constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    at = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", at)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", at)
    for name, value in {"asked": [], "cut": 0, "wrong": False}.items():
        monkeypatch.setattr(Stub, name, value)
    yield at
    server.shutdown()
    server.server_close()
    thread.join()


HUBS = pytest.mark.parametrize("at", ["huggingface", "modelscope"])


@HUBS
def test_configurations_splits_and_sizes_are_those_that_the_card_states(at):
    found = hub.look("me/parts", at)
    assert {name: {split: len(held) for split, held in splits.items()} for name, splits in found.parts.items()} == {
        "main": {"train": 2, "test": 1},
        "extra": {"train": 1},
    }
    assert found.size == len(ROW) * (3 + 40_000 + 1 + 2)
    assert not found.gated
    assert found.licence == "mit"


@HUBS
def test_without_a_card_the_names_of_the_files_tell_the_splits(at):
    assert list(hub.look("me/plain", at).parts[""]) == ["train", "validation"]


def test_left_open_the_configuration_is_the_one_without_a_name_or_all():
    one, other = hub.HubFile("a.jsonl", 1, "x"), hub.HubFile("b.jsonl", 2, "y")
    both = hub.HubDataset("me/x", "huggingface", SHA, {"": {"train": (one,)}, "more": {"train": (other,)}})
    assert (both.files(), both.files("more"), both.size) == ([one], [other], 3)
    named = hub.HubDataset("me/x", "huggingface", SHA, {"one": {"train": (one,)}, "more": {"train": (other,)}})
    assert named.files(split="train") == [one, other]


@HUBS
def test_a_part_is_downloaded_alone_and_read_as_a_dataset(tmp_path, at):
    told: list[tuple[int, int]] = []
    into = tmp_path / "datasets"
    folder = hub.download("me/parts", at, "main", "test", into=into, progress=lambda *numbers: told.append(numbers))
    assert folder == into / "me--parts"
    assert sorted(path.name for path in folder.rglob("*.*") if path.name[0] != ".") == ["README.md", "test.jsonl"]
    assert told[-1] == (len(ROW) + len(CARD),) * 2
    hub.download("me/parts", at, "main", "train", into=into)
    saved = registry.save(hub.entry(hub.look("me/parts", at), folder, "main", "train"), tmp_path)
    assert (saved.name, saved.origin, saved.licence) == ("parts (main, train)", f"{at}:me/parts", "mit")
    assert registry.count(registry.find("parts (main, train)", tmp_path)).rows == 40_003


@HUBS
def test_what_is_here_is_not_fetched_again(tmp_path, at):
    hub.download("me/plain", at, into=tmp_path)
    Stub.asked.clear()
    hub.download("me/plain", at, into=tmp_path)
    assert Stub.asked == []
    (tmp_path / "me--plain/data/train-00000-of-00001.jsonl").write_bytes(b"torn")
    hub.download("me/plain", at, into=tmp_path)
    assert [path for path, _ in Stub.asked] == ["data/train-00000-of-00001.jsonl"]


@HUBS
def test_a_download_that_breaks_off_goes_on_where_it_was(tmp_path, at, monkeypatch):
    monkeypatch.setattr(Stub, "cut", 500_000)
    folder = hub.download("me/parts", at, "main", "train", into=tmp_path)
    assert (folder / "main/train-2.jsonl").read_bytes() == DATASETS["me/parts"]["main/train-2.jsonl"]
    ranges = [range for path, range in Stub.asked if path == "main/train-2.jsonl"]
    assert ranges == ["", "bytes=500000-", "bytes=1000000-"]


@HUBS
def test_a_stopped_download_keeps_what_it_has_for_the_next_try(tmp_path, at):
    seen: list[int] = []
    with pytest.raises(web.Stopped, match="was stopped"):
        hub.download("me/parts", at, "main", "train", into=tmp_path, progress=lambda here, _: seen.append(here),
                     stop=lambda: seen[-1] > 1_000_000)  # fmt: skip
    assert not (tmp_path / "me--parts/main/train-2.jsonl").exists()
    Stub.asked.clear()
    folder = hub.download("me/parts", at, "main", "train", into=tmp_path)
    assert (folder / "main/train-2.jsonl").read_bytes() == DATASETS["me/parts"]["main/train-2.jsonl"]
    assert ("main/train-2.jsonl", f"bytes={web.CHUNK}-") in Stub.asked
    assert "main/train-1.jsonl" not in [path for path, _ in Stub.asked]
    assert not list(folder.rglob("*.part"))


def test_a_file_that_arrives_damaged_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Stub, "wrong", True)
    with pytest.raises(DataError, match="arrived damaged"):
        hub.download("me/plain", into=tmp_path)
    assert not list(tmp_path.rglob("*.jsonl"))


def test_too_little_disk_is_said_before_anything_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(web.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(ResourceError, match="left"):
        hub.download("me/plain", into=tmp_path)
    assert Stub.asked == []


@pytest.mark.parametrize(
    ("id", "at", "sentence"),
    [
        ("parts", "huggingface", "'parts' is not the name of a dataset on a hub. It is written owner/name"),
        ("me/../x", "modelscope", "is not the name of a dataset"),
        ("me/missing", "huggingface", "me/missing was not found on Hugging Face. Check the spelling"),
        ("me/missing", "modelscope", "me/missing was not found on ModelScope"),
        ("me/gated", "huggingface", "me/gated is gated: .* Accept them on the dataset's page"),
        ("me/broken", "huggingface", "Hugging Face does not give me/broken"),
        ("me/script", "huggingface", "me/script is made by a program of its own"),
        ("me/script", "modelscope", "me/script is made by a program of its own"),
        ("me/none", "huggingface", "me/none has no files that rows can be read from"),
        ("me/parts", "elsewhere", "'elsewhere' is not a hub"),
    ],
)
def test_each_refusal_is_a_sentence(id, at, sentence):
    with pytest.raises(DataError, match=sentence):
        hub.look(id, at)


@pytest.mark.parametrize("kind", ["GatedRepo", "RevisionNotFound", "RepositoryNotFound", "DisabledRepo"])
def test_models_and_datasets_are_refused_in_the_same_words(kind):
    import httpx
    from huggingface_hub import errors

    from engine import fetch

    answer = httpx.Response(404, request=httpx.Request("GET", "http://hub"))
    problem = getattr(errors, f"{kind}Error")("no", response=answer)
    hidden = errors.LocalEntryNotFoundError("nothing here either")
    hidden.__cause__ = problem
    said = hub._hf_problem("me/it", problem)
    for model in (fetch.hub_error("me/it", problem), fetch.hub_error("me/it", hidden)):
        assert (model.text, model.hint) == tuple(
            text.replace("the dataset", "the model") for text in (said.text, said.hint)
        )


def test_a_split_that_is_not_there_names_those_that_are(tmp_path):
    with pytest.raises(DataError, match="no part 'main dev'.*main: train, test; extra: train"):
        hub.download("me/parts", "huggingface", "main", "dev", into=tmp_path)


def test_a_file_that_would_land_outside_the_folder_is_refused(tmp_path):
    with pytest.raises(DataError):
        hub.download("me/escape", into=tmp_path / "in" / "there")
    assert not list(tmp_path.rglob("*.jsonl"))


@HUBS
def test_offline_is_a_state_with_a_sentence(monkeypatch, at):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="the board is offline, because HF_HUB_OFFLINE is set. Unset it"):
        hub.look("me/parts", at)


@HUBS
def test_a_hub_that_does_not_answer_is_a_sentence(monkeypatch, at):
    with ThreadingHTTPServer(("127.0.0.1", 0), Stub) as closed:
        gone = f"http://127.0.0.1:{closed.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", gone)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", gone)
    with pytest.raises(DataError, match="cannot be reached: .*Check the network"):
        hub.look("me/parts", at)
