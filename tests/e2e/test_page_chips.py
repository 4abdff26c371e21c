"""The names that a field of `name=value` lines can hold, as chips above its text, in a real browser.

The worker is the fake one, so that the tests are about the page.
"""

from __future__ import annotations

import re

from playwright.sync_api import Locator, Page, expect

from engine.contract import text
from engine.contract.args import TrainArgs
from engine.contract.fields import walk
from tests.e2e.browser import PATIENCE
from tests.e2e.test_page_train import only_run, ready

expect.set_options(timeout=PATIENCE)

PLACE = """one => {
  const mine = one.getBoundingClientRect(), field = one.closest('.block').getBoundingClientRect();
  return [mine.x - field.x, mine.y - field.y, mine.width, mine.height];
}"""


def chip(page: Page, field: str, name: str) -> Locator:
    return page.locator(f"#train-{field} .tb-chip[data-name='{name}']")


def pressed(page: Page, field: str) -> Locator:
    return page.locator(f"#train-{field} .tb-chip[aria-pressed=true]")


def choose(page: Page, field: str, value: str) -> None:
    page.locator(f"#train-{field} input").click()
    page.get_by_role("option", name=value, exact=True).click()


def opened(page: Page, task: str) -> Page:
    ready(page)
    page.locator("#train-task-kind").get_by_text(task, exact=True).click()
    expect(page.locator("#train-outlook")).to_contain_text("of 32 answers")
    return page


def test_a_name_is_chosen_by_mouse_by_keyboard_and_by_typing(start_board, open_page, fresh_workspace):
    page, judged = opened(open_page(start_board(fresh_workspace).url), "GRPO"), "task-rewards-grpo-functions"
    said, on = page.locator(f"#train-{judged} textarea"), pressed(page, judged)
    expect(on).to_have_text(["exact"])

    place = chip(page, judged, "length").evaluate(PLACE)
    for name in ("numeric", "length", "json"):
        chip(page, judged, name).click()
    expect(said).to_have_value("exact=1\nnumeric=1\nlength=0.2\njson=1")
    expect(on).to_have_text(["exact", "numeric", "length", "json"])
    assert chip(page, judged, "length").evaluate(PLACE) == place
    tip = page.locator("#tb-tip")
    expect(tip).to_contain_text("It is JSON")
    page.mouse.move(5, 5)
    expect(tip).to_be_hidden()
    chip(page, judged, "numeric").click()
    expect(said).to_have_value("exact=1\nlength=0.2\njson=1")

    chip(page, judged, "json").focus()
    page.keyboard.press("Space")
    expect(said).to_have_value("exact=1\nlength=0.2")
    page.keyboard.press("Tab")
    expect(
        page.get_by_role("button", name="sql: It is a query that finds what the row's own query finds.")
    ).to_be_focused()
    expect(tip).to_contain_text("Usual sql=1")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(said).to_have_value("exact=1\nlength=0.2\njson=1")

    said.fill("format = 0.5\n\nnumeric=2")
    expect(on).to_have_text(["numeric", "format"])
    chip(page, judged, "numeric").click()
    expect(said).to_have_value("format = 0.5")
    said.fill("exact, json")
    expect(on).to_have_text(["exact", "json"])
    chip(page, judged, "json").click()
    expect(said).to_have_value("exact")
    ready(page)


def test_a_chosen_function_brings_its_settings_and_takes_them_away(start_board, open_page, fresh_workspace):
    page, judged = opened(open_page(start_board(fresh_workspace).url), "GRPO"), "task-rewards-grpo-functions"
    pattern, length = (page.locator(f"#train-task-rewards-grpo-{name}") for name in ("pattern", "length"))
    expect(pattern).to_be_hidden()
    chip(page, judged, "regex").click()
    expect(pattern).to_be_visible()
    expect(page.locator("#train-outlook")).to_contain_text("needs a pattern to look for")
    expect(page.locator("#train-start")).to_be_disabled()
    page.locator("#train-outlook").get_by_role("button", name="Pattern").click()
    expect(pattern.locator("input, textarea")).to_be_focused()
    page.keyboard.type(r"\d+")
    ready(page)
    chip(page, judged, "length").click()
    expect(length).to_be_visible()
    pattern.locator("input, textarea").fill("(")
    expect(pattern).to_have_class(re.compile("tb-wrong"))
    chip(page, judged, "regex").click()
    chip(page, judged, "length").click()
    expect(length).to_be_hidden()
    expect(pattern).to_be_visible()
    pattern.locator("input, textarea").fill("")
    expect(pattern).to_be_hidden()
    page.locator("#train-task-kind").get_by_text("SFT", exact=True).click()
    expect(page.locator(f"#train-{judged}")).to_be_hidden()
    ready(page)


def test_a_run_started_from_chips_has_exactly_what_they_say(start_board, open_page, fresh_workspace):
    page = opened(open_page(start_board(fresh_workspace, FAKE_STEPS=3).url), "RLOO")
    judged, own, schedule = "task-rewards-rloo-functions", "optim-own", "optim-schedule_own"
    for name in ("regex", "format", "exact"):
        chip(page, judged, name).click()
    page.locator("#train-task-rewards-rloo-pattern").locator("input, textarea").fill("SELECT")

    page.locator("#train-more-optim > button").click()
    expect(page.locator(f"#train-{own} .tb-chip")).to_have_text(["beta1", "beta2", "eps"])
    choose(page, "optim-optimiser", "muon")
    expect(chip(page, own, "ns_steps")).to_be_visible()
    chip(page, own, "beta2").click()
    chip(page, own, "nesterov").click()
    chip(page, schedule, "num_cycles").click()
    choose(page, "optim-schedule", "linear")
    expect(page.locator("#train-outlook")).to_contain_text("linear has no setting 'num_cycles'. It has none.")
    expect(page.locator(f"#train-{schedule} .tb-chip")).to_have_text(["num_cycles"])
    chip(page, schedule, "num_cycles").click()
    expect(page.locator(f"#train-{schedule} .tb-chip")).to_have_count(0)
    expect(page.locator(f"#train-{schedule} textarea")).to_have_value("")
    choose(page, "optim-optimiser", "sgd")
    expect(page.locator(f"#train-{own} .tb-chip")).to_have_text(["momentum", "nesterov", "beta2"])
    expect(pressed(page, own)).to_have_text(["nesterov", "beta2"])
    expect(page.locator("#train-outlook")).to_contain_text("sgd has no setting 'beta2'")
    page.locator(f"#train-{own} textarea").fill("nesterov=true\nmomentum=0.9")
    expect(pressed(page, own)).to_have_text(["momentum", "nesterov"])
    ready(page)
    page.locator("#train-start").click()
    expect(page.locator("#train-live")).to_contain_text("done")

    args = text.load(only_run(fresh_workspace).args_path)
    decided = {spec.path for spec in walk(TrainArgs) if spec.auto}
    assert {path: value for path, value in text.changes(args) if path not in decided} == {
        "task.kind": "rloo", "task.rewards.functions": {"regex": 1.0, "format": 0.2}, "task.rewards.pattern": "SELECT",
        "optim.schedule": "linear", "optim.optimiser": "sgd", "optim.own": {"nesterov": True, "momentum": 0.9},
    }  # fmt: skip
