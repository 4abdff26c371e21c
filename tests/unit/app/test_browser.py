"""Finding the browser for the tests of the page: what is said and which exit code comes, with and without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import browser


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose programs are those in the returned folder, and where nothing is named."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(browser, "PROGRAMS", ("chromium",))
    for name in (browser.VARIABLE, "CI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def program(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_a_browser_on_the_path_is_found(bare: Path) -> None:
    chromium = program(bare, "chromium")
    assert browser.find() == str(chromium)
    assert browser.main() == 0


def test_a_named_browser_wins(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(bare, "chromium")
    mine = program(bare, "mine")
    monkeypatch.setenv(browser.VARIABLE, str(mine))
    assert browser.find() == str(mine)


def test_without_one_the_command_that_installs_it_is_said_and_the_tests_go_on(
    bare: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program(bare, "dnf")
    assert browser.main() == 0
    said = capsys.readouterr().err
    assert "sudo dnf install chromium" in said and "apt-get" not in said and "skip" in said


def test_without_one_ci_fails(bare: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CI", "true")
    assert browser.main() == 1
    assert "There is no browser" in capsys.readouterr().err


def test_a_named_browser_that_is_not_there_is_named(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(bare, "chromium")
    monkeypatch.setenv(browser.VARIABLE, "/nowhere/chrome")
    with pytest.raises(browser.NoBrowser, match="TUNEBOARD_BROWSER names /nowhere/chrome"):
        browser.find()
