"""Train opened by its address: the run that it names, and what the form holds then, in a real browser."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from engine.contract import rundir, text
from tests.e2e.browser import PATIENCE

expect.set_options(timeout=PATIENCE)


def ready(page: Page) -> None:
    expect(page.locator("#train-start")).to_be_enabled()


def test_the_address_of_a_run_shows_it_beside_a_form_with_its_arguments(start_board, open_page, fresh_workspace):
    board = start_board(fresh_workspace, FAKE_STEPS=4000)
    page = open_page(board.url)
    ready(page)
    page.locator("#train-method-lora-rank input").fill("7")
    expect(page.locator("#train-method-lora-rank input")).to_have_value("7")
    page.locator("#train-start").click()
    expect(page.locator("#train-live")).to_contain_text("running")
    page.wait_for_url(re.compile("tab=train&run="))
    page.reload()
    expect(page.locator("#train-live")).to_contain_text("running")
    expect(page.locator("#train-method-lora-rank input")).to_have_value("7")
    page.locator("#train-new").click()
    expect(page.locator("#train-outlook")).to_contain_text("LoRA, rank 7")
    gone = open_page(f"{board.url}/?tab=train&run=20261121-143205-gone")
    expect(gone.locator("#train-said")).to_contain_text("There is no run 20261121-143205-gone any more.")
    ready(gone)


def test_the_address_of_what_is_no_training_says_so_and_leaves_the_form_alone(start_board, open_page, fresh_workspace):
    run = rundir.make(fresh_workspace, "other", text.dump(text.parse({}, ["id=owner/name"], kind="download")))
    page = open_page(f"{start_board(fresh_workspace).url}/?tab=train&run={run.id}")
    expect(page.locator("#train-said")).to_contain_text(f"{run.id} is no training.")
    ready(page)
