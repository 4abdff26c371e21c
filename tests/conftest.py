"""Fixtures that every tier of tests may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside a development checkout; tests that read it are marked `shared`."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("TUNEBOARD_SHARED", beside))
    if not folder.is_dir():
        pytest.skip(f"the shared data is not at {folder}; set TUNEBOARD_SHARED to its folder")
    return folder
