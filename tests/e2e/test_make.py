"""Rows made with the embedded model behind our own server, by the command that a user types."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.contract import start, text
from engine.contract.client import address_of
from engine.contract.rundir import records, runs
from tests.processes import ended, kill_runs, until

NAME = "SmolLM2-135M-Instruct"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Path]:
    """A workspace in which the embedded model is loaded for Chat."""
    ready = Path(os.environ.get("TUNEBOARD_DEMO_MODEL") or ROOT / "workspace" / "models" / NAME)
    if not ready.is_dir():
        pytest.skip(f"the embedded model is not at {ready}: make model")
    (tmp_path / "models").mkdir()
    (tmp_path / "datasets").mkdir()
    (tmp_path / "models" / NAME).symlink_to(ready)
    args = text.parse({}, [f"models=[{NAME}]"], kind="serve")
    server = start.start(tmp_path, "chat", text.dump(args), share=True)
    try:
        until(lambda: address_of(server), 120, "the server")
        yield tmp_path
    finally:
        start.stop(server)
        ended(server)
        kill_runs(tmp_path)


def test_the_loaded_model_answers_in_a_personas_style_while_it_holds_the_device(workspace: Path) -> None:
    words = ["data=identity", "max_rows=2", "to=pirates", "endpoint.max_tokens=24", "endpoint.temperature=0"]
    command = [
        sys.executable,
        "-m",
        "engine",
        "make",
        *words,
        "what.persona=You are a pirate.",
        "--workspace",
        str(workspace),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (workspace / "datasets" / "pirates.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and all(row["messages"][-1]["content"] for row in rows)
    assert {row["source"]["model"] for row in rows} == {NAME}
    run = next(found for found in runs(workspace) if text.load(found.args_path).kind == "make")
    result = next(found for found in records(run.events_path) if found["kind"] == "result")
    assert result["facts"]["requests"] == 2 and 0 < result["facts"]["tokens_out"] <= 48
