"""With the mouse alone: ask whether it got better, read the rows, export, read the receipt, fetch the zip.

The worker is the real one, on the tiny model, so what the page shows is what the engine wrote.
"""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from engine.contract.rundir import runs
from tests import tuned
from tests.e2e.browser import PATIENCE, browser, fresh_workspace, open_page, start_board  # noqa: F401

expect.set_options(timeout=3 * PATIENCE)


@pytest.fixture
def trained(workspace: Path) -> Path:
    """A workspace with one finished run that is called `first try`."""
    run = tuned.adapter_run(workspace, scale=0.02)
    run.args_path.write_text(run.args_path.read_text().replace("name: ''", "name: first try", 1))
    run.status_path.write_text(json.dumps({"state": "done", "queued_at": 1, "started_at": 1.0, "ended_at": 61.0}))
    return workspace


def opened(board, open_page, tab: str) -> Page:  # noqa: F811
    return open_page(f"{board.url}/?tab={tab}")


def test_a_verdict_comes_with_its_interval_and_its_rows(start_board, open_page, trained):  # noqa: F811
    page = opened(start_board(trained, TUNEBOARD_WORKER=""), open_page, "evaluate")
    expect(page.locator("#evaluate-tuned input")).to_have_value(re.compile("first try"))
    page.locator("#evaluate-max_tokens").locator("input, textarea").fill("8")
    expect(page.locator("#evaluate-start")).to_be_enabled()
    page.locator("#evaluate-start").click()
    expect(page.locator(".tb-verdict")).to_contain_text("95 % interval")
    expect(page.locator("#evaluate-table tbody tr")).to_have_count(6)
    expect(page.locator("#evaluate-table tbody")).to_contain_text("Perplexity")
    rows = page.locator(".tb-judged")
    expect(rows).to_have_count(10)
    page.get_by_role("button", name="Later").click()
    expect(rows).to_have_count(2)

    (run,) = [run for run in runs(trained) if "evaluate" in run.id]
    found = [json.loads(line) for line in (run.results_path / "rows.jsonl").read_text().splitlines()]
    worst = max(found, key=lambda row: row["tuned"]["loss"] - row["base"]["loss"])
    best = min(found, key=lambda row: row["tuned"]["loss"] - row["base"]["loss"])
    page.get_by_text("Best first").click()
    expect(rows.first).to_contain_text(f"row {best['number']}")
    page.get_by_text("Worst first").click()
    expect(rows.first).to_contain_text(f"row {worst['number']}")
    expect(rows.first).to_contain_text(worst["reference"])

    page.reload()
    expect(page.locator(".tb-verdict")).to_contain_text("95 % interval")
    expect(page.locator("#evaluate-list .tb-item")).to_contain_text("first try against its base")


def test_an_export_ends_with_a_receipt_and_a_zip(start_board, open_page, trained, tmp_path):  # noqa: F811
    page = opened(start_board(trained, TUNEBOARD_WORKER=""), open_page, "export")
    expect(page.locator("#export-cards")).to_contain_text("free on the disk")
    name = page.locator("#export-to").locator("input, textarea")
    name.fill("no/slash")
    expect(page.locator("#export-start")).to_be_disabled()
    name.fill("mine")
    expect(page.locator("#export-start")).to_be_enabled()
    page.locator("#export-start").click()
    receipt = page.locator("#export-receipt")
    expect(receipt).to_contain_text("Verified: loaded afresh, it answers as the tuned model does.")
    expect(receipt).to_contain_text("vllm serve")
    expect(page.locator("#export-start")).to_be_disabled()  # the name is taken now
    with page.expect_download() as download:
        page.locator("#export-zip").click()
    download.value.save_as(tmp_path / "mine.zip")
    with zipfile.ZipFile(tmp_path / "mine.zip") as archive:
        assert archive.testzip() is None
        names = set(archive.namelist())
    assert {"mine/model.safetensors", "mine/README.md", "mine/receipt.json", "mine/tokenizer.json"} <= names
    page.locator("#export-delete").click()
    page.get_by_role("button", name="Delete for good").locator("visible=true").click()
    expect(page.locator("#export-blank")).to_be_visible()
    assert list((trained / "exports").iterdir()) == []


def test_the_adapter_is_one_click_away(start_board, open_page, trained):  # noqa: F811
    page = opened(start_board(trained, TUNEBOARD_WORKER=""), open_page, "export")
    expect(page.locator("#export-start")).to_be_enabled()
    page.locator("[data-form=adapter]").click()
    expect(page.locator("[data-form=adapter]")).to_have_attribute("aria-pressed", "true")
    page.locator("#export-start").click()
    expect(page.locator("#export-receipt")).to_contain_text("PeftModel")


def test_a_newcomer_is_told_to_train_first(start_board, open_page, workspace):  # noqa: F811
    board = start_board(workspace)
    page = opened(board, open_page, "evaluate")
    expect(page.locator("#evaluate-blank")).to_contain_text("Train a model first")
    expect(page.locator("#evaluate-start")).to_be_disabled()
    page.goto(f"{board.url}/?tab=export")
    expect(page.locator("#export-blank")).to_contain_text("Train a model first")
    expect(page.locator("#export-start")).to_be_disabled()


def test_a_folder_out_of_bounds_is_refused(start_board, open_page, trained, tmp_path_factory):  # noqa: F811
    from tests import tiny

    outside = tiny.model_folder(tmp_path_factory.mktemp("outside") / "model")
    page = opened(start_board(trained), open_page, "export")
    expect(page.locator("#export-start")).to_be_enabled()
    box = page.locator("#export-tuned input")
    box.fill(str(outside))
    box.press("Enter")
    expect(page.locator("#export-said")).to_contain_text("outside the folders that the board may read")
    expect(page.locator("#export-start")).to_be_disabled()
