"""A real browser for the tests of the page, and a board for it to open.

    def test_something(start_board, open_page, fresh_workspace):
        page = open_page(start_board(fresh_workspace, FAKE_STEPS=20).url)

The browser is the system's Chromium (or TUNEBOARD_BROWSER); without one the tests skip with the command that installs
it, and fail where CI is set.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.browser import NoBrowser, find, required

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60_000  # milliseconds that a test waits for something that must come, on however slow a machine


def _program() -> str:
    try:
        return find()
    except NoBrowser as problem:
        if required():
            pytest.fail(str(problem))
        pytest.skip(str(problem))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium; each test opens contexts of its own."""
    program = _program()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[[str], Any]]:
    """`open_page(url)` is a page in a context of its own, as a second person would have it. Script errors fail."""
    contexts, errors = [], []

    def opened(url: str) -> Any:
        context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not errors, errors


@pytest.fixture
def fresh_workspace(tmp_path: Path, tiny_model: Path) -> Path:
    """A workspace as a newcomer has it, with the tiny model under the demo model's name and with its context length."""
    workspace = tmp_path / "workspace"
    folder = workspace / "models" / "SmolLM2-135M-Instruct"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 8192}))
    return workspace


@dataclass
class ABoard:
    """A board in a process of its own."""

    url: str
    workspace: Path
    process: subprocess.Popen[str]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


# Below those that systems give to whoever asks for any: a board takes its port seconds after it is told which. Each
# process of the tests has a stretch of its own.
PORTS = count(20_000 + os.getpid() % 120 * 100)


def free_port() -> int:
    """A port that nobody else will come to meanwhile."""
    while True:
        port = next(PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@pytest.fixture
def start_board(state_folder: Path) -> Iterator[Callable[..., ABoard]]:
    """`start_board(workspace, FAKE_STEPS=20)` is a board that answers; capitals go into its environment.

    Its runs have the fake worker, unless `TUNEBOARD_WORKER=""` asks for the real one.
    """
    boards: list[ABoard] = []

    def started(workspace: Path, *options: str, **environment: Any) -> ABoard:
        fake = {"TUNEBOARD_WORKER": f"{sys.executable} {ROOT / 'tests' / 'fake_worker.py'}"}
        given = {**os.environ, **fake, **{name: str(value) for name, value in environment.items()}}
        port = free_port()
        command = [sys.executable, "-m", "app", "--port", str(port), "--workspace", str(workspace), *options]
        process = subprocess.Popen(command, cwd=ROOT, env=given, stdout=subprocess.PIPE, text=True)
        board = ABoard(f"http://127.0.0.1:{port}", workspace, process)
        boards.append(board)
        assert process.stdout is not None
        said = process.stdout.readline()
        assert board.url in said, said
        assert httpx.get(board.url, timeout=60).status_code == 200
        return board

    yield started
    from engine.contract.rundir import runs
    from engine.contract.start import stop

    for board in boards:
        for run in runs(board.workspace):
            stop(run) and stop(run)
        board.process.terminate()
        board.process.wait()
