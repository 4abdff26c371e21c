"""A person judges the answers of a run that waits: by button, by number, and with a word that is no number."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import expect

from engine.contract import judging, rundir, text
from tests.e2e.browser import PATIENCE, browser, fresh_workspace, open_page, start_board  # noqa: F401

expect.set_options(timeout=PATIENCE)
ARGS = {
    "task": {"kind": "grpo", "rewards": {"functions": {}, "person": True}}, "data": {"train": ["sql"]},
}  # fmt: skip


def test_answers_are_judged_one_after_the_other_and_the_run_goes_on(
    start_board, open_page, fresh_workspace: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text.dump(text.parse(ARGS, kind="train")))
    page = open_page(start_board(fresh_workspace, FAKE_ASK=3, FAKE_STEPS=3, FAKE_SECONDS_PER_STEP=0.01).url)
    with page.expect_file_chooser() as chooser:
        page.locator("#train-load").click()
    chooser.value.set_files(file)
    expect(page.locator("#train-task-kind input:checked")).to_have_attribute("value", "grpo")

    page.click("#train-start:enabled")

    place = page.locator("#tb-train-run-judging, [id$=run-judging]").locator("visible=true")
    expect(place).to_contain_text("3 answers left")
    expect(page.locator("#tb-pill")).to_have_text("1 waiting for you")  # wherever the person is on the page
    expect(place.locator("q")).to_have_text("What is 2 and 2?")
    expect(place.locator(".tb-judged-answer")).to_have_text("It is <b>0</b>.")  # as text, and not as HTML
    place.get_by_role("button", name="1 good").click()
    expect(place).to_contain_text("2 answers left")
    number = place.get_by_role("textbox")
    number.fill("two")
    number.press("Enter")
    expect(place).to_contain_text("'two' is no score.")
    number.fill("0,3")
    number.press("Enter")
    expect(place).to_contain_text("The last answer")
    expect(number).to_have_value("")
    place.get_by_role("button", name="0 bad").click()
    expect(place).to_have_count(0)
    expect(page.locator(".tb-run-head").locator("visible=true")).to_contain_text(re.compile("done"))
    [run] = rundir.runs(fresh_workspace)
    assert judging.judged(run) == {1: 1.0, 2: 0.3, 3: 0.0}
