"""With the mouse alone: bring a file, say what its columns mean, see what is wrong, mend it, and train on it."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from engine.contract.rundir import runs
from tests.e2e.browser import PATIENCE
from tests.processes import until

expect.set_options(timeout=PATIENCE)
HOSTILE = "<script>window.taken = 1</script><img src=x onerror='window.taken = 2'>${window.taken = 3}"
ODD = f"""Kundenfrage,Antwort,Notiz
Was kostet das?,"Fünf Euro, mein Freund.",a
Wie heißt du?,Ich heiße Tuney.,b
Wie heißt du?,Ich heiße Tuney.,b
"Wer bist du? {HOSTILE}","Ich bin {HOSTILE}.",c
Wo wohnst du?,In Zürich.,d
"""


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    file = tmp_path / "odd.csv"
    file.write_text(ODD, encoding="utf-8")
    return file


@pytest.fixture
def open_data(start_board, open_page, fresh_workspace) -> Callable[..., Page]:
    """`open_data(TUNEBOARD_WORKER="")` is the Data tab of a new board on the fresh workspace."""

    def opened(**environment: str) -> Page:
        page = open_page(f"{start_board(fresh_workspace, **environment).url}/?tab=data")
        expect(page.locator("#data-table .tb-rows")).to_be_visible()
        return page

    return opened


def bring(page: Page, *files: Path) -> None:
    page.locator("#data-to-add").click()
    page.locator("#data-files input[type=file]").set_input_files(list(files))


def choose(page: Page, field: str, option: str) -> None:
    page.locator(f"{field} input").click()
    page.get_by_role("option", name=option).first.click()


def test_a_file_is_brought_mapped_mended_saved_and_trained_on(open_data, fresh_workspace, odd):
    page = open_data(TUNEBOARD_WORKER="")

    # Bring it: nobody knows these columns, so the page asks.
    bring(page, odd)
    expect(page.locator("#data-table")).to_contain_text("the columns Kundenfrage, Antwort, Notiz fit no format")
    expect(page.locator("#data-raw")).to_contain_text("Was kostet das?")

    # Map: the sample is a conversation at once, and so are the rows.
    choose(page, "#data-format", "Prompt and completion")
    choose(page, "#data-field-0", "Kundenfrage")
    choose(page, "#data-field-1", "Antwort")
    expect(page.locator("#data-becomes .tb-assistant")).to_contain_text("Fünf Euro, mein Freund.")
    expect(page.locator("#data-table tbody tr")).to_have_count(5)
    expect(page.locator("#data-headline")).to_contain_text("5 rows")
    page.locator("#data-to-columns").click()

    # Look: what is wrong is said, shown and mended, and the mend can be taken back.
    copies = page.locator("#data-findings li", has_text="exact cop")
    copies.get_by_role("button", name="Show").click()
    expect(page.locator("#data-table tbody tr")).to_have_count(1)
    expect(page.locator("#data-table")).to_contain_text("Wie heißt du?")
    copies.get_by_role("button", name="Keep the first").click()
    expect(page.locator("#data-headline")).to_contain_text("4 rows")
    page.locator("#data-undo").click()
    expect(page.locator("#data-headline")).to_contain_text("5 rows")
    page.locator("#data-findings li", has_text="exact cop").get_by_role("button", name="Keep the first").click()
    expect(page.locator("#data-headline")).to_contain_text("1 excluded")
    choose(page, "#data-keep", "All rows")
    expect(page.locator("#data-table tbody tr")).to_have_count(5)

    # Mend a row by hand, and leave one out.
    page.locator("#data-table tr[data-row='5']").click()
    expect(page.locator("#data-talk")).to_contain_text("In Zürich.")
    page.locator("#data-edit").click()
    page.locator("#data-talk textarea").last.fill("")
    page.locator("#data-talk").get_by_role("button", name="Keep this").click()
    expect(page.locator("#data-row-said")).to_contain_text("an answer of the assistant is empty")
    page.locator("#data-talk textarea").last.fill("In Zürich. Und in Bern.")
    page.locator("#data-talk").get_by_role("button", name="Keep this").click()
    expect(page.locator("#data-talk .tb-assistant p")).to_have_text("In Zürich. Und in Bern.")
    expect(page.locator("#data-row-head")).to_contain_text("edited")
    page.locator("#data-previous").click()
    page.locator("#data-exclude").click()
    expect(page.locator("#data-row-head")).to_contain_text("excluded")
    page.locator("#data-back").click()
    expect(page.locator("#data-headline")).to_contain_text(re.compile(r"3 rows.*1 edited.*2 excluded"))

    # Save it, and train on it: Train has it chosen and shows its tokens.
    page.locator("#data-to-keep").click()
    page.locator("#data-name input").fill("kunden")
    page.locator("#data-save").click()
    expect(page.locator("#data-kept-said")).to_contain_text("Saved as kunden")
    expect(page.locator("#data-headline")).to_contain_text(re.compile(r"3 rows.*1 edited.*2 excluded"))
    page.locator("#data-train").click()
    expect(page.locator("#train-data-train")).to_contain_text("kunden")
    expect(page.locator("#train-outlook")).to_contain_text(re.compile(r"on \d rows?"))
    page.locator("#train-rows > button").click()
    expect(page.locator("#train-rows-seen .tb-learnt").first).to_be_visible()
    expect(page.locator("#train-rows-seen")).to_contain_text("Und in Bern.")
    page.locator("#train-more-steps > button").click()
    page.locator("#train-steps-max_steps input").fill("2")
    expect(page.locator("#train-start")).to_be_enabled()
    page.locator("#train-start").click()
    expect(page.locator("#train-live")).to_contain_text("done", timeout=3 * PATIENCE)
    (run,) = runs(fresh_workspace)
    assert run.state() == "done" and "kunden" in run.args_path.read_text()

    # The file itself was never changed.
    assert (fresh_workspace / "datasets" / "odd.csv").read_text(encoding="utf-8") == ODD
    assert page.evaluate("window.taken") is None


def test_the_table_is_searched_sorted_filtered_and_paged(open_data, fresh_workspace):
    lines = [{"prompt": f"Question {n}", "completion": f"Answer {n} {'long ' * (n % 7)}"} for n in range(1, 121)]
    folder = fresh_workspace / "datasets"
    folder.mkdir(exist_ok=True)
    (folder / "many.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    page = open_data()
    choose(page, "#data-choice", "many")
    expect(page.locator("#data-place")).to_contain_text("1 to 50 of 120")
    page.locator("#data-later").click()
    expect(page.locator("#data-place")).to_contain_text("51 to 100 of 120")
    expect(page.locator("#data-table tbody tr").first).to_contain_text("Question 51")
    page.locator("#data-words input").fill("question 77")
    expect(page.locator("#data-table tbody tr")).to_have_count(1)
    page.locator("#data-words input").fill("")
    expect(page.locator("#data-place")).to_contain_text("1 to 50 of 120")
    page.locator("#data-table [data-sort=characters]").click()
    expect(page.locator("#data-table th[aria-sort=ascending]")).to_contain_text("Characters")
    expect(page.locator("#data-table tbody tr").first).to_contain_text("Question 7")
    page.locator("#data-table [data-sort=characters]").click()
    expect(page.locator("#data-table th[aria-sort=descending]")).to_contain_text("Characters")
    page.locator("#data-length input").fill("0-30")
    expect(page.locator("#data-place")).to_contain_text("found in 120 rows")
    page.locator("#data-length input").fill("long")
    expect(page.locator("#data-table")).to_contain_text("'long' is no range of lengths.")
    page.locator("#data-length input").fill("")
    expect(page.locator("#data-place")).to_contain_text("1 to 50 of 120")

    # With the keyboard: from row to row, into one, on to the next.
    page.locator("#data-table tbody button").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#data-row-head")).to_contain_text("2 of 120")
    page.locator("#data-next").press("Enter")
    expect(page.locator("#data-row-head")).to_contain_text("3 of 120")


def test_a_whole_record_is_edited_as_text(open_data):
    page = open_data()
    page.locator("#data-table tbody tr").first.click()
    page.locator("#data-edit").click()
    page.get_by_role("button", name="Edit the whole record").click()
    text = page.locator("#data-text .cm-content")
    expect(text).to_contain_text("messages:")
    text.fill("nothing")
    page.locator("#data-keep-edit").click()
    expect(page.locator("#data-row-said")).to_contain_text("a row must have named parts")
    page.locator("#data-opened").get_by_role("button", name="Leave it as it was").click()
    page.locator("#data-edit").click()
    page.get_by_role("button", name="Edit the whole record").click()
    text.locator(".cm-line", has_text="Which AI model").click()
    page.keyboard.press("End")
    page.keyboard.type(" Tell me.")
    page.locator("#data-keep-edit").click()
    expect(page.locator("#data-talk .tb-user")).to_contain_text("Which AI model is this? Tell me.")
    expect(page.locator("#data-headline")).to_contain_text("1 edited")


def test_hostile_text_is_shown_as_text(open_data):
    page = open_data()
    page.locator("#data-to-add").click()
    page.locator("#data-typed textarea").fill(json.dumps({"prompt": HOSTILE, "completion": HOSTILE, HOSTILE: HOSTILE}))
    expect(page.locator("#data-taken")).to_contain_text(".json file")
    page.locator("#data-add").click()
    expect(page.locator("#data-table tbody tr")).to_have_count(1)
    expect(page.locator("#data-table")).to_contain_text("<script>window.taken")
    page.locator("#data-to-columns").click()
    expect(page.locator("#data-becomes")).to_contain_text("<script>window.taken")
    page.locator("#data-table tbody tr").click()
    expect(page.locator("#data-talk .tb-assistant")).to_contain_text("${window.taken = 3}")
    assert page.evaluate("window.taken") is None


def test_broken_files_end_in_a_sentence_or_in_rows_left_out_with_consent(open_data, tmp_path):
    page = open_data()
    broken = tmp_path / "broken.jsonl"
    broken.write_text(
        '{"prompt": "a", "completion": "b"}\n{"prompt": "a", "compl\n{"prompt": "c", "completion": "d"}\n'
    )
    bring(page, broken)
    expect(page.locator("#data-headline")).to_contain_text(re.compile(r"2 rows.*1 row cannot be read", re.DOTALL))
    expect(page.locator("#data-typed")).to_be_hidden()  # what was brought is shown, and the panel makes room for it
    page.locator("#data-headline summary").click()
    expect(page.locator("#data-headline")).to_contain_text("row 2")
    page.locator("#data-headline").get_by_role("button", name="Leave it out").click()
    expect(page.locator("#data-headline")).to_contain_text("training leaves it out")
    page.locator("#data-to-keep").click()
    expect(page.locator("#data-skip input")).to_be_checked()

    picture = tmp_path / "picture.bmp"
    picture.write_bytes(b"BM")
    bring(page, picture)
    expect(page.locator("#data-add-said")).to_contain_text("files that end like this are not read")
    nothing = tmp_path / "nothing.parquet"
    nothing.write_bytes(b"PAR1 and no more")
    page.locator("#data-files input[type=file]").set_input_files([nothing])
    expect(page.locator("#data-table .tb-error")).to_contain_text("nothing.parquet")


def test_a_path_outside_the_allowed_folders_is_refused(open_data, fresh_workspace):
    page = open_data()
    page.locator("#data-to-add").click()
    page.locator("#data-typed textarea").fill("/etc/passwd")
    page.locator("#data-add").click()
    expect(page.locator("#data-add-said")).to_contain_text("outside the folders that the board may read")


def test_a_download_that_is_refused_says_so(open_data, fresh_workspace):
    page = open_data()
    page.locator("#data-to-add").click()
    page.locator("#data-typed textarea").fill("owner/name")
    expect(page.locator("#data-add")).to_have_text("Look up")
    page.locator("#data-add").click()
    expect(page.locator("#data-add-said")).to_contain_text("the board is offline")
    page.locator("#data-typed textarea").fill("http://127.0.0.1:9/rows.jsonl")
    expect(page.locator("#data-add")).to_have_text("Add")
    page.locator("#data-add").click()
    expect(page.locator("#data-add-said")).to_contain_text("cannot be reached")
    expect(page.locator("#data-add")).to_be_enabled()


@pytest.fixture
def slow_server(tmp_path) -> Iterator[tuple[str, threading.Event]]:
    """The address of a server that gives `rows.jsonl` at once, but ends it only when the event is set."""
    row = json.dumps({"prompt": "far", "completion": "away"}).encode() + b"\n"
    finish = threading.Event()

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(2 * len(row)))
            self.end_headers()
            self.wfile.write(row)
            self.wfile.flush()
            finish.wait(PATIENCE / 1000)
            with suppress(OSError):
                self.wfile.write(row)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/rows.jsonl", finish
    finish.set()
    server.shutdown()


def test_a_download_is_cancelled_or_opens_when_it_is_here_and_survives_a_reload(
    open_data, fresh_workspace, slow_server
):
    url, finish = slow_server
    page = open_data()
    page.locator("#data-to-add").click()
    page.locator("#data-typed textarea").fill(url)
    expect(page.locator("#data-taken")).to_contain_text("Gets this file from 127.0.0.1.")
    page.locator("#data-add").click()
    page.locator("#data-cancel").click()
    expect(page.locator("#data-add-said")).to_contain_text("The download was stopped.")  # though its server is silent
    assert not (fresh_workspace / "datasets" / "rows.jsonl").exists()

    finish.set()
    page.locator("#data-add").click()
    expect(page.locator("#data-table")).to_contain_text("far")
    expect(page.locator("#data-headline")).to_contain_text("2 rows")
    page.wait_for_url(re.compile("data=rows.jsonl"))
    page.reload()
    expect(page.locator("#data-table")).to_contain_text("far")


def test_an_export_holds_what_was_mended(open_data, fresh_workspace, tmp_path):
    folder = fresh_workspace / "datasets"
    folder.mkdir(exist_ok=True)
    (folder / "two.csv").write_text("question,answer\none,1\ntwo,2\n")
    page = open_data()
    choose(page, "#data-choice", "two")
    page.locator("#data-table tr[data-row='1']").click()
    page.locator("#data-exclude").click()
    expect(page.locator("#data-headline")).to_contain_text("1 excluded")
    page.locator("#data-to-keep").click()
    with page.expect_download() as download:
        page.locator("#data-export").click()
    download.value.save_as(tmp_path / "out.jsonl")
    (line,) = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [turn["content"] for turn in json.loads(line)["messages"]] == ["two", "2"]

    page.locator("#data-forget").click()
    page.locator("#data-delete").click()
    until(lambda: not (folder / "two.csv").exists())
    expect(page.locator("#data-choice input")).not_to_have_value(re.compile("two"))


def test_how_a_file_is_read_is_chosen_beside_its_columns_and_saved(open_data, fresh_workspace, tmp_path):
    page = open_data()
    odd = tmp_path / "odd.csv"
    odd.write_text("prompt;answer|completion\nWhat is it, here;there|A house\n", encoding="utf-8")
    bring(page, odd)
    page.locator("#data-to-columns").click()
    expect(page.locator("#data-read-encoding input")).to_have_value("auto (UTF-8)")
    expect(page.locator("#data-read-sheet")).to_be_hidden()
    choose(page, "#data-read-delimiter", "bar |")
    expect(page.locator("#data-raw")).to_contain_text('"prompt;answer": "What is it, here;there"')
    choose(page, "#data-read-delimiter", "semicolon ;")
    expect(page.locator("#data-raw")).to_contain_text('"prompt": "What is it, here"')
    page.locator("#data-to-keep").click()
    page.locator("#data-name input").fill("divided")
    page.locator("#data-save").click()
    expect(page.locator("#data-kept-said")).to_contain_text("Saved as divided")
    assert "delimiter: ;" in (fresh_workspace / "datasets" / "datasets.yaml").read_text()


def test_findings_of_a_large_file_are_looked_for_in_all_of_it_and_mended(open_data, fresh_workspace):
    lines = [{"prompt": f"What is {number}?", "completion": f"It is {number}."} for number in range(1, 20_101)]
    lines[20_049] = lines[20_059] = lines[1]
    folder = fresh_workspace / "datasets"
    folder.mkdir(exist_ok=True)
    (folder / "large.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    page = open_data()
    choose(page, "#data-choice", "large")
    findings = page.locator("#data-findings")
    expect(findings).to_contain_text("Looked at the first 20,000 of 20,100 rows.")
    expect(page.locator("#data-headline")).to_contain_text("95/5/0 gives about 19,095 rows to train")
    expect(findings).not_to_contain_text("exact cop")
    findings.get_by_role("button", name="Look at all").click()
    expect(findings).to_contain_text("Looked at all 20,100 rows.")
    copies = findings.locator("li", has_text="2 rows are exact copies")
    copies.get_by_role("button", name="Show").click()
    expect(page.locator("#data-place")).to_contain_text("rows of this finding, from all of the file")
    expect(page.locator("#data-table tbody tr")).to_have_count(2)
    expect(page.locator("#data-table tr[data-row='20060']")).to_contain_text("duplicate")
    page.locator("#data-table tr[data-row='20060']").click()
    expect(page.locator("#data-talk .tb-assistant")).to_contain_text("It is 2.")
    page.locator("#data-back").click()
    copies.get_by_role("button", name="Keep the first").click()
    expect(page.locator("#data-table tr[data-row='20060']")).to_contain_text("excluded")
    expect(findings).to_contain_text("Looked at all 20,098 rows.")  # of those that are left, by itself
    expect(findings).not_to_contain_text("exact cop")
    page.get_by_role("button", name="First rows").click()
    expect(page.locator("#data-place")).to_contain_text("1 to 50 of 20,000")


def test_on_a_wide_page_labels_stand_above_choices_and_a_long_choice_ends_before_its_arrow(open_data, odd):
    page = open_data()
    page.set_viewport_size({"width": 1920, "height": 900})
    page.locator("#data-to-make").click()
    kinds = page.locator("#make-what-kind")
    label, first = kinds.get_by_test_id("block-info").bounding_box(), kinds.locator("label").first.bounding_box()
    assert label["y"] + label["height"] <= first["y"]

    bring(page, odd)
    expect(page.locator("#data-format input")).to_be_visible()
    room = "input => input.getBoundingClientRect().right - parseFloat(getComputedStyle(input).paddingRight)"
    arrow = page.locator("#data-format .dropdown-arrow").bounding_box()
    assert page.locator("#data-format input").evaluate(room) <= arrow["x"]
