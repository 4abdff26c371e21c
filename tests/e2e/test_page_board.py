"""The frame of the page in a browser: what its address says, and who has the last word."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from tests.e2e.browser import PATIENCE

expect.set_options(timeout=PATIENCE)


def test_a_click_before_the_address_has_been_answered_wins(start_board, open_page, fresh_workspace):
    url = start_board(fresh_workspace).url
    page = open_page("about:blank")
    held, clicked = [], []  # the answers of the server, and with them that to the address
    page.route("**/queue/data*", lambda answer: answer.continue_() if clicked else held.append(answer))
    with page.expect_request("**/queue/data*"):
        page.goto(f"{url}/?tab=data&data=identity", wait_until="commit")
    page.get_by_role("tab", name="Evaluate").click()
    clicked.append(True)
    for answer in held:
        answer.continue_()
    expect(page.locator("#tb-pill")).to_contain_text("nothing runs")
    page.wait_for_url(re.compile("tab=evaluate"))
    expect(page.get_by_role("tab", name="Evaluate")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#tb-tab-evaluate")).to_be_visible()


def test_the_address_says_what_is_shown(start_board, open_page, fresh_workspace):
    page = open_page(f"{start_board(fresh_workspace).url}/?tab=data&data=sql")
    expect(page.get_by_role("tab", name="Data")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#data-choice input")).to_have_value(re.compile("sql"))
    page.wait_for_url(re.compile("tab=data&data=sql"))
