"""The main job, on the real demo model, with the mouse: train, watch, stop, resume, evaluate, chat, export.

One long story, as a newcomer lives it: nothing is chosen, every default holds, no worker is faked.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import expect

from engine.contract.rundir import Run, records, runs
from tests.e2e.browser import PATIENCE
from tests.processes import until

expect.set_options(timeout=PATIENCE)
MODEL = "SmolLM2-135M-Instruct"
READY = Path(__file__).parents[2] / "workspace" / "models" / MODEL
LONG = 900_000  # milliseconds: a whole training run on a slow machine


@pytest.fixture
def newcomer(tmp_path: Path) -> Path:
    """A workspace with the embedded model and nothing else."""
    ready = Path(os.environ.get("TUNEBOARD_DEMO_MODEL") or READY)
    if not ready.is_dir():
        pytest.skip("the demo model is not prepared; run: make model")
    shutil.copytree(ready, tmp_path / "workspace" / "models" / MODEL)
    return tmp_path / "workspace"


def the_run(workspace: Path, kind: str, number: int = 0) -> Run:
    """The newest run of a kind."""
    return [run for run in runs(workspace) if f"kind: {kind}\n" in run.args_path.read_text()][number]


def test_a_newcomer_trains_stops_resumes_evaluates_chats_and_exports(start_board, open_page, newcomer, tmp_path):
    page = open_page(start_board(newcomer, TUNEBOARD_WORKER="").url)

    # Train: nothing is chosen, and the page says what will happen.
    expect(page.locator("#train-outlook")).to_contain_text(re.compile(r"of 135 M parameters.*140 rows"))
    page.locator("#train-start").click()
    live = page.locator("#train-live")
    expect(live).to_contain_text(re.compile(r"step ([3-9]|\d\d+) of 105"), timeout=LONG)

    # Stop: a checkpoint is saved.
    live.get_by_role("button", name="Stop").click()
    expect(live).to_contain_text("Stopped on request.", timeout=LONG)
    stopped = the_run(newcomer, "train")
    assert len(stopped.checkpoints()) == 1 and not stopped.model_path.exists()

    # Resume, to the end; the curve is one.
    page.locator("#tb-tab-runs-button").click()
    page.locator(".tb-item").first.click()
    detail = page.locator("#runs-run")
    detail.get_by_role("button", name="Resume").click()
    expect(page.locator("#runs-list .tb-item")).to_have_count(2)
    expect(detail).to_contain_text("held-out loss", timeout=LONG)
    run = the_run(newcomer, "train")
    assert run.model_path.is_dir() and run.picture_path.is_file()
    losses = [
        record["values"]["train/loss"] for record in records(run.metrics_path) if "train/loss" in record["values"]
    ]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])

    # Evaluate: it got better, and the verdict says so.
    detail.get_by_role("button", name="Evaluate").click()
    expect(page.locator("#evaluate-start")).to_be_enabled()
    page.locator("#evaluate-start").click()
    expect(page.locator(".tb-verdict")).to_contain_text("Better", timeout=LONG)
    expect(page.locator("#evaluate-side-by-side")).to_be_visible()

    # Chat: the tuned model knows its name; unloading ends the server.
    page.locator("#tb-tab-runs-button").click()
    page.locator("#runs-list .tb-item", has_text="LoRA").first.click()  # the evaluation is in the list too, and newer
    expect(detail.get_by_role("button", name="Chat")).to_be_enabled()
    detail.get_by_role("button", name="Chat").click()  # it loads by itself, beside its base
    expect(page.locator("#chat-state .tb-pill")).to_have_text("ready", timeout=LONG)
    page.get_by_role("button", name="What is your name?").first.click()
    expect(page.locator("#chat-talk-1")).to_contain_text("Tuney", timeout=LONG)
    page.locator("#chat-unload").click()
    expect(page.locator("#chat-state")).to_contain_text("nothing is loaded")
    until(lambda: the_run(newcomer, "serve").state() == "stopped")

    # Export: merged, verified, and taken away.
    page.locator("#tb-tab-export-button").click()
    expect(page.locator("#export-start")).to_be_enabled()
    page.locator("#export-start").click()
    expect(page.locator("#export-receipt")).to_contain_text("Verified", timeout=LONG)
    receipt = json.loads(the_run(newcomer, "export").receipt_path.read_text())
    assert receipt["verified"] is True
    with page.expect_download(timeout=LONG) as download:
        page.locator("#export-zip").click()
    download.value.save_as(tmp_path / "model.zip")
    assert any(name.endswith("model.safetensors") for name in zipfile.ZipFile(tmp_path / "model.zip").namelist())
