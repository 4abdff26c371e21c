"""What the READMEs tell people to type is understood, and the tree that they show is the tree that is there."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.__main__ import options
from engine import __main__ as commands
from engine import chat, check, demo, fetch, follow, measure, plan
from engine.contract import docs, text
from engine.contract.text import AnyArgs

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "app/README.md", "engine/README.md", "tests/README.md", "tests/bench/MEASUREMENTS.md")
SETTING = re.compile(r"[A-Z_]+=.*")


def lines() -> Iterator[tuple[str, list[str]]]:
    """(page, words) of every command in a shell block, without comments and settings of the environment."""
    for page in PAGES:
        for block in re.findall(
            r"```(?:sh|bash|shell)\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL
        ):
            for line in block.splitlines():
                words = shlex.split(line, comments=True)
                while words and SETTING.fullmatch(words[0]):
                    words = words[1:]
                if words:
                    yield page, words


COMMANDS = [pytest.param(words, id=f"{page}: {' '.join(words)}") for page, words in lines()]


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_in_a_readme_is_understood(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if words[0] == "make":
        understood_by_make(words[1:])
    elif words[1:3] == ["-m", "engine"]:
        understood_by_the_engine(words[3:], tmp_path, monkeypatch)
    elif words[1:3] == ["-m", "app"]:
        options(words[3:])
    elif words[0].endswith("python") and words[1] == "-m":
        assert importlib.util.find_spec(words[2]), f"there is no module {words[2]}"
        files = [word for word in words[3:] if word.startswith("tests/")]
        assert all((ROOT / file).exists() for file in files), files
    else:
        assert words[0] == "docker", f"nothing here checks {words[0]}"


def understood_by_make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name, _, value = word.partition("=")
        pattern = rf"^{name} \?=" if value or "=" in word else rf"^{name}:"
        assert re.search(pattern, makefile, re.MULTILINE), f"the Makefile has no {word}"


def understood_by_the_engine(words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything up to the act itself: the verb, its options, an args file, every name and value."""
    monkeypatch.chdir(folder)
    (folder / "my-run.yaml").write_text(text.dump(text.parse({}, [], kind="train")), encoding="utf-8")
    acts: list[Any] = []

    def act(*given: Any, **more: Any) -> int:
        acts.append(given[0])
        return 0

    monkeypatch.setattr(follow, "start_and_follow", act)
    monkeypatch.setattr(check, "check", act)
    monkeypatch.setattr(plan, "plan", act)
    monkeypatch.setattr(measure, "measure", act)
    for module in (chat, demo, fetch):
        monkeypatch.setattr(module, "main", act)
    monkeypatch.setattr(docs, "FILE", folder / "ARGUMENTS.md")
    assert commands.main(words) == 0
    if words[0] == "docs":
        assert docs.FILE.is_file()
        return
    if words[0] == "cluster":  # prints a job, and starts nothing
        return
    [given] = acts
    if isinstance(given, AnyArgs):
        assert given.kind == words[0] or words[0] in ("check", "plan", "measure")


def test_a_command_that_is_wrong_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError):
        understood_by_make(["bord"])
    with pytest.raises(AssertionError):
        understood_by_the_engine(["train", "optim.learning_rat=1"], tmp_path, monkeypatch)


def shown() -> dict[str, str]:
    """path -> phrase of the annotated tree; folders end in a slash, `templates/` covers what lies in it."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [block] = re.findall(r"## The tree\n\n```text\n(.*?)```", readme, re.DOTALL)
    found, above = {}, [""]
    for line in block.splitlines():
        indent = (len(line) - len(line.lstrip())) // 2
        name, _, phrase = line.strip().partition(" ")
        found["".join(above[: indent + 1]) + name] = phrase.strip()
        if name.endswith("/"):
            above[indent + 1 :] = [name]
    return found


def test_whatever_the_tree_shows_is_there_with_a_phrase() -> None:
    for path, phrase in shown().items():
        assert phrase, f"{path} has no phrase"
        assert (ROOT / path).exists(), f"the README shows {path}, which is not there"


def test_every_module_has_its_line_in_the_tree() -> None:
    told = shown()
    folders = [path for path in told if path.endswith("/") and path.startswith(("app/", "engine/", "data/"))]
    # A folder whose modules are not listed one by one is told as a whole.
    listed = [folder for folder in folders if any(path.startswith(folder) and path != folder for path in told)]
    modules = [folder + file.name for folder in listed for file in sorted((ROOT / folder).glob("*.py"))]
    missing = [path for path in modules if path not in told and not path.endswith("__init__.py")]
    assert not missing, f"README.md, The tree: give these a line each: {', '.join(missing)}"


def test_links_of_the_readmes_lead_somewhere() -> None:
    for page in PAGES:
        content = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"(?<!!)\[[^\]]*\]\(([^)#:]+)\)", content):
            assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}, which is not there"
