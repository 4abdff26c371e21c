"""Fixtures that every tier of tests may use."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections import Counter
from itertools import chain
from pathlib import Path

# No test reaches a hub. Set before any library is imported, because some read it only then.
os.environ["HF_HUB_OFFLINE"] = "1"
# With several files at once each has its core; alone, a test has two.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
# Threads that spin while they wait steal the cores from the other processes of a test.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
from huggingface_hub import constants
from hypothesis import HealthCheck, settings

assert constants.HF_HUB_OFFLINE  # which is read once, so here: not while some test has it otherwise

# What a shell starts in the background ignores Ctrl-C, and so would every command that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

SLOWEST = 12  # files whose time is told

# How long an example takes, and to draw one, depends on what else the machine does.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How long the longest files took, which may have run at once."""
    took = Counter[str]()
    for report in chain.from_iterable(terminalreporter.stats.values()):
        if isinstance(report, pytest.TestReport):
            took[report.nodeid.partition("::")[0]] += report.duration
    if len(took) > 1:
        terminalreporter.section("longest files")
        for file, seconds in took.most_common(SLOWEST):
            terminalreporter.line(f"{seconds:7.0f} s  {file}")


def _drawn_anew() -> None:
    """What tests draw without a seed of their own does not depend on which files their process had before."""
    random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="module")
def draws_of_a_file() -> None:
    _drawn_anew()


@pytest.fixture(autouse=True)
def draws_of_a_test() -> None:
    _drawn_anew()


@pytest.fixture(autouse=True)
def state_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Device locks of their own for every test, so that no test waits for another or for a board that is in use."""
    folder = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("TUNEBOARD_STATE", str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's folder, made once; do not write into it."""
    from tests import tiny

    return tiny.model_folder(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture
def workspace(tmp_path: Path, tiny_model: Path) -> Path:
    """A workspace with the model `tiny` and the dataset `sums.jsonl`."""
    from tests import tiny

    folder = tmp_path / "workspace"
    (folder / "models").mkdir(parents=True)
    (folder / "datasets").mkdir()
    (folder / "models" / "tiny").symlink_to(tiny_model)
    tiny.rows(folder / "datasets" / "sums.jsonl")
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside a development checkout; tests that read it are marked `shared`."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("TUNEBOARD_SHARED", beside))
    if not folder.is_dir():
        pytest.skip(f"the shared data is not at {folder}; set TUNEBOARD_SHARED to its folder")
    return folder
