"""The Dockerfile keeps its promises as far as text can: the image itself is not built here."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from app.__main__ import main as start_board

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def instructions() -> list[tuple[str, str]]:
    """(instruction, its words) in their order, comments gone and continued lines joined."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ")
    return [
        (name.upper(), rest.strip()) for name, _, rest in (line.partition(" ") for line in lines.splitlines()) if name
    ]


def said(name: str) -> list[str]:
    return [rest for found, rest in instructions() if found == name]


def test_every_run_line_is_make_targets_that_ci_runs_too() -> None:
    runs = [shlex.split(line) for line in said("RUN")]
    assert runs
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    for words in runs:
        assert words[0] == "make", f"RUN {' '.join(words)} is no make target"
        targets = [word for word in words[1:] if "=" not in word]
        for target in targets:
            assert re.search(rf"^{re.escape(target)}:", MAKEFILE, re.MULTILINE), f"the Makefile has no {target}"
        assert f"make {' '.join(targets)}" in ci
        for variable in (word.partition("=")[0] for word in words if "=" in word):
            assert re.search(rf"^{variable} \?=", MAKEFILE, re.MULTILINE), f"the Makefile knows no {variable}"


def test_nothing_runs_as_root() -> None:
    names = [name for name, _ in instructions()]
    [user] = said("USER")
    assert user.split(":")[0] not in ("root", "0")
    assert names.index("USER") < names.index("RUN")
    [copied] = said("COPY")
    assert copied.startswith(f"--chown={user} ")
    assert names.index("COPY") < names.index("WORKDIR"), "WORKDIR would make the folder as root"


def test_the_workspace_is_a_volume_and_the_board_uses_it() -> None:
    [volume] = said("VOLUME")
    assert board()[board().index("--workspace") + 1] == volume
    [folder] = said("WORKDIR")
    # `make model` in the image fills it under the Makefile's default name.
    assert volume == f"{folder}/workspace" and "WORKSPACE ?= workspace" in MAKEFILE


def test_the_health_check_asks_for_the_page_on_the_port_that_is_served() -> None:
    [check] = said("HEALTHCHECK")
    port = board()[board().index("--port") + 1]
    assert f"http://127.0.0.1:{port}/" in check and said("EXPOSE") == [port]
    program = json.loads(check.partition(" CMD ")[2].strip())
    compile(program[-1], "HEALTHCHECK", "exec")


def test_without_a_password_the_board_refuses_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "TUNEBOARD_PASSWORD" not in " ".join(said("ENV") + said("ARG")), "a password has no place in an image"
    monkeypatch.delenv("TUNEBOARD_PASSWORD", raising=False)
    assert start_board(board()) == 2
    assert "Set TUNEBOARD_PASSWORD first" in capsys.readouterr().err


def test_the_base_is_a_build_argument() -> None:
    assert said("FROM") == ["${BASE}"]
    assert instructions()[0] == ("ARG", "BASE=python:3.11-bookworm")


def test_what_git_ignores_does_not_enter_the_image() -> None:
    ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines() if line}
    left_out = {line.removeprefix("**/").strip("/") for line in (ROOT / ".dockerignore").read_text().splitlines()}
    assert ignored <= left_out


def board() -> list[str]:
    """The words that the container gives to the board."""
    [command] = said("CMD")
    program = json.loads(command)
    assert program[1:3] == ["-m", "app"]
    return program[3:]
