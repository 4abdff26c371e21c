"""Two boards on one workspace: both show the same runs, and either may start and stop them."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from engine.contract.rundir import runs
from tests.e2e.browser import PATIENCE

expect.set_options(timeout=PATIENCE)


def test_two_boards_show_and_stop_the_same_runs_and_the_second_run_waits(start_board, open_page, fresh_workspace):
    slow = {"FAKE_STEPS": 4000, "FAKE_SECONDS_PER_STEP": 0.05}
    first, second = (open_page(start_board(fresh_workspace, **slow).url) for _ in range(2))
    for page, state in ((first, "running"), (second, "queued")):
        expect(page.locator("#train-start")).to_be_enabled()
        page.locator("#train-start").click()
        expect(page.locator("#train-live .tb-pill").first).to_have_text(state)
    for page in (first, second):
        expect(page.locator("#tb-pill")).to_contain_text(re.compile("1 running.*1 queued"))
    waiting, working = runs(fresh_workspace)

    second.locator("#tb-pill button").click()  # it opens the run that works, which the other board started
    detail = second.locator("#runs-run")
    expect(detail).to_contain_text(re.compile(r"step [\d,]+ of 4,000"))
    detail.get_by_role("button", name="Stop").click()
    expect(first.locator("#train-live")).to_contain_text("Stopped on request.")
    assert working.state() == "stopped"
    expect(second.locator("#tb-pill")).to_have_text("1 running")
    assert waiting.state() == "running"
