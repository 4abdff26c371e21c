"""In a real browser: a model that does not fit is made to, and two steps are measured in place of an estimate."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from engine.contract.rundir import runs
from tests.e2e.browser import PATIENCE

expect.set_options(timeout=PATIENCE)
LARGE = "Qwen/Qwen2.5-72B-Instruct"


def ready(page: Page) -> None:
    expect(page.locator("#train-start")).to_be_enabled()


def choose(page: Page, model: str) -> None:
    field = page.locator("#train-model-path input")
    field.fill(model)
    field.press("Enter")


def test_what_does_not_fit_is_made_to_and_nothing_changes_before_it_is_accepted(
    start_board, open_page, fresh_workspace
):
    page = open_page(start_board(fresh_workspace).url)
    ready(page)
    expect(page.locator("#train-fit")).to_be_hidden()
    choose(page, LARGE)
    plan, proposal = page.locator("#train-outlook"), page.locator("#train-proposal")
    expect(plan).to_contain_text("a rough estimate, from the model's size alone")
    page.locator("#train-method-kind").get_by_text("Full", exact=True).click()
    expect(plan).to_contain_text(re.compile(r"about [\d.]+ TB of .* free .*more than is free"))
    expect(page.locator("#train-measure")).to_be_hidden()  # there is nothing here to measure yet
    page.locator("#train-fit").click()
    expect(proposal).to_contain_text("Train an adapter instead of the weights themselves")
    expect(proposal).to_contain_text(re.compile(r"Saves [\d.]+ [TG]B"))
    expect(page.locator("#train-method-lora-rank")).to_be_hidden()
    page.locator("#train-dismiss").click()
    expect(proposal).to_be_hidden()
    page.locator("#train-fit").click()
    page.locator("#train-accept").click()
    expect(page.locator("#train-method-lora-rank")).to_be_visible()
    expect(proposal).to_be_hidden()
    expect(plan).to_contain_text("LoRA")


def test_two_steps_are_measured_and_replace_the_estimate(start_board, open_page, fresh_workspace):
    page = open_page(start_board(fresh_workspace).url)
    ready(page)
    plan = page.locator("#train-outlook")
    expect(plan).to_contain_text("an estimate")
    page.locator("#train-measure").click()
    expect(page.locator("#train-measure")).to_have_text("Cancel")
    expect(page.locator("#train-measured")).to_contain_text("Measuring:")
    expect(plan).to_contain_text("measured in two steps on the longest rows")
    expect(plan).to_contain_text("at the speed of the two steps that were measured")
    expect(page.locator("#train-measure")).to_have_text("Measure")
    assert runs(fresh_workspace) == []
    page.locator("#train-method-lora-rank input").fill("7")
    expect(plan).to_contain_text("an estimate")
    page.locator("#train-measure").click()
    expect(page.locator("#train-measure")).to_have_text("Cancel")
    page.locator("#train-measure").click()
    expect(page.locator("#train-measure")).to_have_text("Measure")
    expect(page.locator("#train-measured")).not_to_contain_text("Measuring")


def test_what_takes_several_processes_says_why_it_is_not_measured(start_board, open_page, fresh_workspace):
    page = open_page(start_board(fresh_workspace).url)
    ready(page)
    expect(page.locator("#train-measure")).to_be_enabled()
    page.locator("#train-more-launch > button").click()
    page.locator("#train-launch-processes input").fill("2")
    why = page.locator("#train-unmeasured")
    expect(why).to_contain_text("Measuring takes one process: set Processes to 1.")
    expect(page.locator("#train-measure")).to_be_disabled()
    why.get_by_role("button", name="Processes").click()
    expect(page.locator("#train-launch-processes input")).to_be_focused()
    page.locator("#train-launch-processes input").fill("1")
    expect(page.locator("#train-measure")).to_be_enabled()
    expect(why).to_have_text("")


def test_a_model_that_cannot_come_is_planned_for_and_not_started(start_board, open_page, fresh_workspace):
    page = open_page(start_board(fresh_workspace, HF_HUB_OFFLINE=1).url)
    ready(page)
    choose(page, "Qwen/Qwen2.5-7B-Instruct")
    expect(page.locator("#train-outlook")).to_contain_text("Memory: about")
    expect(page.locator("#train-outlook .tb-wrongs")).to_contain_text("because HF_HUB_OFFLINE is set")
    expect(page.locator("#train-start")).to_be_disabled()
