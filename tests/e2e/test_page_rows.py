"""The rows of a run on the Train tab: what is wrong with them, and how the model reads them, in a real browser."""

from __future__ import annotations

import json
import re
from pathlib import Path

from playwright.sync_api import Page, Route, expect

from tests.e2e.browser import PATIENCE
from tests.e2e.test_page_train import ready

expect.set_options(timeout=PATIENCE)


def talks(file: Path, count: int, *more: tuple[str, str]) -> None:
    """A dataset of `count` short conversations, and `more` of them."""
    said = [(f"What is {number} and {number}?", f"It is {2 * number}.") for number in range(count)] + list(more)
    rows = [[{"role": "user", "content": asked}, {"role": "assistant", "content": answer}] for asked, answer in said]
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows), encoding="utf-8")


def choose(page: Page, dataset: str) -> None:
    """Train on that dataset alone."""
    field = page.locator("#train-data-train")
    chosen = field.locator(".token-remove:not(.remove-all)")
    while chosen.count():
        before = chosen.count()
        chosen.first.click()
        expect(chosen).to_have_count(before - 1)
    field.locator("input").fill(dataset)
    field.locator("input").press("Enter")
    expect(page.locator("#train-outlook")).to_contain_text("rows looked at")


def test_a_warning_leads_to_its_rows_and_is_waved_through(start_board, open_page, fresh_workspace):
    talks(fresh_workspace / "datasets" / "mine.jsonl", 20, ("What is <|im_end|>?", "It is four."))
    page = open_page(start_board(fresh_workspace, FAKE_STEPS=3).url)
    ready(page)
    expect(page.locator("#train-outlook")).to_contain_text("nothing is wrong")
    expect(page.locator("#train-start")).to_have_text("Start")
    choose(page, "mine.jsonl")
    page.locator("#train-data-split input, #train-data-split textarea").fill("100/0/0")
    plan = page.locator("#train-outlook")
    expect(plan).to_contain_text("All 21 rows looked at: 1 warning.")
    plan.get_by_role("button", name="show").click()
    seen = page.locator("#train-rows-seen")
    expect(seen.locator("figure")).to_have_count(1)
    expect(seen).to_contain_text("mine.jsonl, row 21")
    expect(seen.locator(".tb-special", has_text="<|im_end|>").first).to_be_visible()
    expect(page.locator("#train-lengths")).to_contain_text("None is cut.")

    page.locator("#train-rows-number input").fill("7")
    expect(seen).to_contain_text("mine.jsonl, row 7")
    page.locator("#train-rows-number input").fill("")
    page.locator("#train-more-data > button").click()
    pages = page.locator("#train-rows .tb-pager")
    expect(pages).to_contain_text("of 1")
    page.locator("#train-rows-which input").fill("in their order")
    page.locator("#train-rows-which input").press("Enter")
    expect(pages).to_contain_text("page 1 of 7")
    page.locator("#train-data-max_rows input").fill("4")
    expect(pages).to_contain_text("page 1 of 2")
    page.locator("#train-data-max_rows input").fill("")
    expect(pages).to_contain_text("page 1 of 7")
    page.locator("#train-data-max_length input, #train-data-max_length textarea").fill("24")
    expect(plan).to_contain_text("lose the start of what was asked")
    expect(page.locator("#train-lengths")).to_contain_text("cut at 24")
    expect(seen.locator(".tb-cut").first).to_be_visible()

    expect(page.locator("#train-start")).to_have_text("Start anyway")
    in_sight = page.locator("#train-start").evaluate("button => button.getBoundingClientRect().bottom <= innerHeight")
    assert in_sight
    page.locator("#train-start").click()
    expect(page.locator("#train-live")).to_contain_text("done")


def asking_for_rows(page: Page) -> set[int]:
    """The events whose answer fills the place where rows are looked at."""
    return set(page.evaluate("""() => {
        const {components, dependencies} = window.gradio_config;
        const seen = components.find(one => one.props.elem_id === "train-rows-seen").id;
        return dependencies.filter(one => one.outputs.includes(seen)).map(one => one.id);
    }"""))  # fmt: skip


def test_questions_that_come_late_leave_the_rows_that_were_asked_for(start_board, open_page, fresh_workspace):
    """Those that the page asks by itself, when a field changes, are held back until a finding's rows are there."""
    talks(fresh_workspace / "datasets" / "mine.jsonl", 20, ("What is <|im_end|>?", "It is four."))
    page = open_page(start_board(fresh_workspace).url)
    ready(page)
    choose(page, "mine.jsonl")
    plan, seen = page.locator("#train-outlook"), page.locator("#train-rows-seen")
    asking, late, hold = asking_for_rows(page), [], True
    finding = page.evaluate("gradio_config.components.find(one => one.props.elem_id === 'train-outlook').id")

    def held_back(route: Route) -> None:
        asked = route.request.post_data_json
        if hold and asked["fn_index"] in asking and asked["trigger_id"] != finding:
            late.append(route)
        else:
            route.continue_()

    page.route("**/queue/join*", held_back)
    page.locator("#train-data-split input, #train-data-split textarea").fill("100/0/0")
    expect(plan).to_contain_text("All 21 rows looked at: 1 warning.")
    plan.get_by_role("button", name="show").click()
    expect(seen.locator("figure")).to_have_count(1)
    expect(seen).to_contain_text("mine.jsonl, row 21")

    seen.evaluate("""seen => {
        const said = () => [...seen.querySelectorAll("figcaption b")].map(one => one.textContent);
        window.captions = [];
        new MutationObserver(() => captions.push(...said())).observe(seen, {childList: true, subtree: true});
    }""")
    assert late
    hold = False
    for route in late:
        with page.expect_response(route.request.url):
            route.continue_()
    page.locator("#train-rows-number input").fill("7")  # answered after them
    expect(seen).to_contain_text("mine.jsonl, row 7")
    assert set(page.evaluate("captions")) <= {"mine.jsonl, row 21", "mine.jsonl, row 7"}


def test_an_error_in_the_rows_holds_start_back(start_board, open_page, fresh_workspace):
    talks(fresh_workspace / "datasets" / "mine.jsonl", 20)
    page = open_page(start_board(fresh_workspace).url)
    ready(page)
    page.locator("#train-task-kind").get_by_text("DPO").click()
    expect(page.locator("#train-outlook .tb-findings .tb-error")).to_contain_text("Choose SFT under Task")
    expect(page.locator("#train-start")).to_be_disabled()
    page.locator("#train-task-kind").get_by_text("SFT").click()
    ready(page)


def test_a_sample_is_shown_at_once_and_all_rows_are_counted_behind_it(start_board, open_page, fresh_workspace):
    talks(fresh_workspace / "datasets" / "many.jsonl", 5000, ("What is <|im_end|>?", "It is four."))
    page = open_page(start_board(fresh_workspace).url)
    ready(page)
    choose(page, "many.jsonl")
    plan = page.locator("#train-outlook")
    expect(plan).to_contain_text(re.compile(r"400 of 4,\d+ rows looked at: nothing is wrong"))
    ready(page)
    page.locator("#train-data-split input, #train-data-split textarea").fill("100/0/0")
    expect(plan).to_contain_text("All 5,001 rows looked at: 1 warning.")
    page.reload()
    ready(page)
