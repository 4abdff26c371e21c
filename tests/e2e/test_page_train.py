"""With the mouse alone: see what will happen, start, watch, stop, resume and delete, in a real browser.

The worker is the fake one, so that the tests are about the page.
"""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import Page, expect

from app.form import component_id
from engine.contract import text
from engine.contract.args import TrainArgs
from engine.contract.fields import kind, sections, walk
from engine.contract.methods import Method
from engine.contract.rundir import Run, runs
from engine.contract.tasks import Task
from tests.e2e.browser import PATIENCE

expect.set_options(timeout=PATIENCE)


def ready(page: Page) -> None:
    expect(page.locator("#train-start")).to_be_enabled()


def load(page: Page, file: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.locator("#train-load").click()
    chooser.value.set_files(file)


def only_run(workspace: Path) -> Run:
    (run,) = runs(workspace)
    return run


def test_a_newcomer_chooses_nothing_and_sees_what_will_happen(start_board, open_page, fresh_workspace):
    page = open_page(start_board(fresh_workspace).url)
    ready(page)
    plan = page.locator("#train-outlook")
    expect(plan).to_contain_text(re.compile(r"Trains [\d.]+ k of [\d.]+ k parameters \(LoRA, rank 16\) on \d+ rows"))
    expect(plan).to_contain_text("The chat template is the model's own.")
    expect(page.locator("#train-optim-learning_rate input")).to_have_attribute("placeholder", "auto: 0.0005")
    page.locator("#train-rows > button").click()
    expect(page.locator("#train-rows-seen .tb-learnt").first).to_be_visible()


def test_nonsense_marks_the_field_and_holds_start_back(start_board, open_page, fresh_workspace):
    page = open_page(start_board(fresh_workspace).url)
    ready(page)
    rate = page.locator("#train-optim-learning_rate input")
    rate.fill("quick")
    expect(page.locator("#train-optim-learning_rate")).to_have_class(re.compile("tb-wrong"))
    expect(page.locator("#train-start")).to_be_disabled()
    expect(page.locator("#train-outlook")).to_contain_text("'quick' is not a number or auto.")
    rate.fill("2")
    expect(page.locator("#train-outlook")).to_contain_text("out of range")
    rate.fill("1e-3")
    ready(page)
    expect(page.locator("#train-optim-learning_rate")).not_to_have_class(re.compile("tb-wrong"))


def test_who_only_wants_sft_meets_a_dozen_fields(start_board, open_page, fresh_workspace):
    page = open_page(start_board(fresh_workspace).url)
    ready(page)
    seen = "all => all.filter(one => one.offsetParent && one.querySelector('input, textarea')).map(one => one.id)"
    fields = page.locator("[id^='train-'].block").evaluate_all(seen)
    assert "train-optim-learning_rate" in fields and len(fields) <= 12, fields


def test_a_run_on_several_machines_is_written_down_for_a_cluster(start_board, open_page, fresh_workspace):
    page = open_page(start_board(fresh_workspace).url)
    ready(page)
    page.locator("#train-preview").click()
    command = page.locator("#train-command")
    expect(command).to_contain_text("python -m engine train")
    page.locator("#train-place").get_by_text("Slurm").click()
    expect(command).to_contain_text("#SBATCH --nodes=1")
    page.locator("#train-more-launch > button").click()
    page.locator("#train-launch-machines input").fill("2")
    page.locator("#train-launch-address input").fill("10.0.0.1")
    page.locator("#train-preview").click()
    expect(command).to_contain_text("#SBATCH --nodes=2")
    page.locator("#train-place").get_by_text("This machine").click()
    expect(command).to_contain_text("launch.number=1")


def test_a_closed_accordion_does_not_scroll_sideways(start_board, open_page, fresh_workspace):
    page = open_page(start_board(fresh_workspace).url)
    ready(page)
    wide = "all => all.filter(one => one.scrollWidth > one.clientWidth).map(one => one.id)"
    assert page.locator("#train-find, #train-rows, #train-more-data").evaluate_all(wide) == []


def test_the_method_decides_which_fields_there_are(start_board, open_page, fresh_workspace):
    page = open_page(start_board(fresh_workspace).url)
    ready(page)
    expect(page.locator("#train-method-lora-rank")).to_be_visible()
    page.locator("#train-method-kind").get_by_text("Freeze").click()
    expect(page.locator("#train-method-freeze-layers")).to_be_visible()
    expect(page.locator("#train-method-lora-rank")).to_be_hidden()
    expect(page.locator("#train-outlook")).to_contain_text("the last 2 layers")
    page.locator("#train-method-freeze-layers input").fill("500")
    expect(page.locator("#train-outlook")).to_contain_text("500 is more than the 2 layers of this model.")


def test_a_run_is_started_watched_stopped_resumed_and_deleted(start_board, open_page, fresh_workspace):
    board = start_board(fresh_workspace, FAKE_STEPS=4000, FAKE_SECONDS_PER_STEP=0.05)
    page = open_page(board.url)
    ready(page)
    page.locator("#train-name input").fill("first try")
    expect(page.locator("#train-outlook")).to_contain_text("Trains")
    page.locator("#train-start").click()

    card = page.locator("#train-live")
    expect(card).to_contain_text("running")
    expect(card).to_contain_text(re.compile(r"step [\d,]+ of 4,000"))
    seen = card.locator(".tb-progress-words").inner_text()
    expect(card.locator(".tb-progress-words")).not_to_have_text(seen)
    expect(page.locator("#tb-pill")).to_contain_text("1 running")
    run = only_run(fresh_workspace)
    assert text.load(run.args_path).name == "first try"

    page.wait_for_url(re.compile(f"run={run.id}"))
    page.reload()
    expect(page.locator("#train-live")).to_contain_text(re.compile(r"step [\d,]+ of 4,000"))
    other = open_page(page.url)
    expect(other.locator("#train-live")).to_contain_text(re.compile(r"step [\d,]+ of 4,000"))

    other.locator("#tb-pill button").click()
    detail = other.locator("#runs-run")
    expect(detail).to_contain_text("first try")
    other.wait_for_url(re.compile("tab=runs"))
    expect(other.locator("#runs-delete")).to_be_disabled()
    expect(detail).to_contain_text(re.compile(r"Checkpoint at step [\d,]+"))
    detail.get_by_role("button", name="Stop").click()
    expect(detail).to_contain_text("Stopped on request.")
    expect(page.locator("#train-live")).to_contain_text("Stopped on request.")

    detail.get_by_role("button", name="Resume").click()
    expect(other.locator(".tb-item")).to_have_count(2)
    expect(detail).to_contain_text("running")
    child = next(found for found in runs(fresh_workspace) if found.id != run.id)
    resume = text.load(child.args_path).resume
    assert (resume.run, resume.checkpoint) == (run.id, run.checkpoints()[-1][1].name)
    detail.get_by_role("button", name="Stop").click()
    expect(detail).to_contain_text("Stopped on request.")

    other.locator("#runs-delete").click()
    expect(other.locator("#runs-confirm")).to_contain_text("cannot be undone")
    other.locator("#runs-sure").click()
    expect(other.locator(".tb-item")).to_have_count(1)
    assert only_run(fresh_workspace) == run


def test_arguments_are_saved_and_loaded_and_every_mistake_in_a_file_is_said(
    start_board, open_page, fresh_workspace, tmp_path
):
    page = open_page(start_board(fresh_workspace).url)
    ready(page)
    page.locator("#train-method-lora-rank input").fill("7")
    page.locator("#train-more-method-lora > button").click()
    expect(page.locator("#train-method-lora-alpha input")).to_have_attribute("placeholder", "auto: 14")
    with page.expect_download() as download:
        page.locator("#train-save").click()
    saved = tmp_path / "saved.yaml"
    download.value.save_as(saved)
    assert text.load(saved).method.rank == 7

    again = open_page(page.url)
    ready(again)
    rank = again.locator("#train-method-lora-rank input")
    expect(rank).to_have_value("16")
    load(again, saved)
    expect(rank).to_have_value("7")
    ready(again)

    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("kind: train\nmethod: {kind: lora, rnak: 8}\noptim: {learning_rate: 5}\nsteps: {epochs: many}\n")
    load(again, wrong)
    said = again.locator("#train-said")
    for path in ("method.rnak", "optim.learning_rate", "steps.epochs"):
        expect(said).to_contain_text(path)
    expect(rank).to_have_value("7")


def test_a_run_is_cloned_into_the_form(start_board, open_page, fresh_workspace):
    page = open_page(start_board(fresh_workspace, FAKE_STEPS=3).url)
    ready(page)
    page.locator("#train-method-kind").get_by_text("Freeze").click()
    page.locator("#train-method-freeze-layers input").fill("1")
    expect(page.locator("#train-outlook")).to_contain_text("the last layer")
    ready(page)
    page.locator("#train-start").click()
    expect(page.locator("#train-live")).to_contain_text("done")
    page.get_by_role("button", name="All of it").click()
    detail = page.locator("#runs-run")
    expect(detail).to_contain_text("done")
    page.wait_for_url(re.compile("tab=runs&run="))
    page.reload()
    detail.get_by_role("button", name="Clone").click()
    expect(page.locator("#train-plan")).to_be_visible()
    expect(page.locator("#train-method-freeze-layers input")).to_have_value("1")
    expect(page.locator("#train-outlook")).to_contain_text("the last layer")
    ready(page)


def test_a_killed_board_leaves_the_run_alone_and_the_next_one_shows_it(start_board, open_page, fresh_workspace):
    first = start_board(fresh_workspace, FAKE_STEPS=4000)
    page = open_page(first.url)
    ready(page)
    page.locator("#train-start").click()
    expect(page.locator("#train-live")).to_contain_text(re.compile(r"step [\d,]+ of 4,000"))
    run = only_run(fresh_workspace)
    first.kill()
    assert run.state() == "running"
    again = open_page(f"{start_board(fresh_workspace).url}/?tab=runs&run={run.id}")
    words = again.locator("#runs-run .tb-progress-words")
    expect(words).to_contain_text(re.compile(r"step [\d,]+ of 4,000"))
    expect(words).not_to_have_text(words.inner_text())
    again.locator("#runs-run").get_by_role("button", name="Stop").click()
    expect(again.locator("#runs-run")).to_contain_text("Stopped on request.")


def test_a_failed_run_says_why_and_what_to_do_first(start_board, open_page, fresh_workspace):
    page = open_page(start_board(fresh_workspace, FAKE_FAIL="error@3").url)
    ready(page)
    page.locator("#train-start").click()
    expect(page.locator("#train-live .tb-error")).to_contain_text("The fake worker was asked to fail.")
    expect(page.locator("#train-live .tb-error")).to_contain_text("Take FAKE_FAIL away.")
    page.locator("#train-new").click()
    expect(page.locator("#train-plan")).to_be_visible()
    ready(page)


def test_a_model_outside_the_allowed_folders_is_refused(start_board, open_page, fresh_workspace, tiny_model):
    (fresh_workspace / "models" / "borrowed").symlink_to(tiny_model)
    page = open_page(start_board(fresh_workspace).url)
    ready(page)
    model = page.locator("#train-model-path input")
    for name in (str(tiny_model), "borrowed", "../../../etc"):
        model.fill(name)
        model.press("Enter")
        expect(page.locator("#train-outlook")).to_contain_text(re.compile(rf"{re.escape(name)}.* outside the folders"))
        expect(page.locator("#train-start")).to_be_disabled()


def test_a_model_that_is_none_says_what_is_missing(start_board, open_page, fresh_workspace):
    (fresh_workspace / "models" / "empty").mkdir()
    page = open_page(start_board(fresh_workspace).url)
    ready(page)
    model = page.locator("#train-model-path input")
    model.fill("empty")
    model.press("Enter")
    expect(page.locator("#train-outlook")).to_contain_text("it lacks config.json")
    expect(page.locator("#train-model-path")).to_have_class(re.compile("tb-wrong"))


def test_what_does_not_go_together_is_said_in_labels_that_lead_to_their_fields(start_board, open_page, fresh_workspace):
    page = open_page(start_board(fresh_workspace).url)
    ready(page)
    plan = page.locator("#train-outlook")
    page.locator("#train-more-compute > button").click()
    page.locator("#train-compute-loss input").click()
    page.get_by_role("option", name="chunked").click()
    page.locator("#train-more-compute > button").click()
    page.locator("#train-task-kind").get_by_text("DPO", exact=True).click()
    expect(plan).to_contain_text("Set Loss under Memory and device to auto.")
    expect(plan).not_to_contain_text(re.compile(r"\b(compute|task)\.[a-z]"))
    field = page.locator("#train-compute-loss")
    expect(field).not_to_be_visible()
    plan.get_by_role("button", name="Loss", exact=True).last.click()
    expect(field.locator("input")).to_be_focused()
    expect(field).to_have_attribute("data-problem", re.compile("Set “Loss” under Memory and device to auto."))


def test_each_task_and_method_shows_its_own_basic_fields_and_no_label_breaks(start_board, open_page, fresh_workspace):
    page = open_page(start_board(fresh_workspace).url)
    ready(page)
    broken = "all => all.filter(one => one.offsetParent && one.offsetHeight > 28).map(one => one.innerText)"
    labels = page.locator(".tb-row :is([data-testid=block-info], [data-testid=checkbox-label])")
    for union, section in (("task", Task), ("method", Method)):
        for variant in sections(section):
            page.locator(f"#train-{union}-kind").get_by_text(variant.title, exact=True).click()
            basic = {component_id("train", spec) for spec in walk(TrainArgs)
                     if spec.union == union and spec.basic and not spec.path.endswith(".kind")}  # fmt: skip
            mine = {component_id("train", spec) for spec in walk(TrainArgs)
                    if spec.variant == kind(variant) and spec.union == union and spec.basic}  # fmt: skip
            for name in sorted(basic):
                expect(page.locator(f"[id='{name}']")).to_be_visible(visible=name in mine)
            for more in page.locator(f"#train-more-{union}-{kind(variant)} > button").all():
                more.click()
            assert labels.evaluate_all(broken) == [], variant.title
