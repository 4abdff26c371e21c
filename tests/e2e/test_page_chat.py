"""Load, ask side by side, stop, correct, save and unload with the mouse, in a real browser, on a real server."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from playwright.sync_api import Page, expect

from engine.contract import start
from engine.contract.client import address_of
from engine.contract.rundir import Run, runs
from tests.e2e.browser import PATIENCE, ROOT, ABoard, free_port

expect.set_options(timeout=PATIENCE)
BASE = "SmolLM2-135M-Instruct"
QUESTION = "What is the answer?"
LONG = 500_000  # tokens: nobody waits for the end of such an answer


@pytest.fixture(scope="module")
def tuned(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an adapter on the tiny model that changes its answers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("tuned")
    torch.manual_seed(1)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_model),
        LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": BASE}))
    return folder


@pytest.fixture(scope="module")
def board(tiny_model: Path, tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ABoard]:
    """One board for all tests here, since each browser has a conversation of its own: its workspace has the tiny model
    with a context of a million tokens, and exports/tuned on it."""
    workspace = tmp_path_factory.mktemp("board") / "workspace"
    folder = workspace / "models" / BASE
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 1_000_000}))
    (workspace / "exports").mkdir()
    (workspace / "exports" / "tuned").symlink_to(tuned)
    port = free_port()
    command = [sys.executable, "-m", "app", "--port", str(port), "--workspace", str(workspace)]
    environment = {**os.environ, "TUNEBOARD_STATE": str(tmp_path_factory.mktemp("state"))}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and str(port) in process.stdout.readline()
        yield ABoard(f"http://127.0.0.1:{port}", workspace, process)
        for run in runs(workspace):
            start.stop(run)
        process.terminate()


@pytest.fixture
def chat(board: ABoard, open_page: Callable[[str], Page]) -> Callable[[], Page]:
    """Another browser at the Chat tab."""
    return lambda: open_page(f"{board.url}/?tab=chat")


@pytest.fixture
def loaded_chat(board: ABoard, chat: Callable[[], Page]) -> Page:
    """A browser at the Chat tab once base and tuned are loaded."""
    page = chat()
    expect(page.locator("#chat-models")).to_contain_text("exports/tuned")
    if not any(run.alive() for run in runs(board.workspace)):
        page.locator("#chat-load").click()
    ready(page)
    return page


def ready(page: Page) -> None:
    expect(page.locator("#chat-state .tb-pill")).to_have_text("ready")
    expect(page.locator("#chat-who-1")).to_be_visible()


def ask(page: Page, question: str = QUESTION) -> None:
    page.locator("#chat-ask textarea").fill(question)
    page.locator("#chat-ask textarea").press("Enter")


def setting(page: Page, name: str, value: str) -> None:
    page.locator(f"#chat-{name} :is(input, textarea)").fill(value)


def greedy(page: Page, tokens: int = 24) -> None:
    page.locator("#chat-greedy input").check()
    setting(page, "max_tokens", str(tokens))
    # the channel that marks wrong fields answers once the page has heard of both
    expect(page.locator("#chat-max_tokens input")).to_have_value(str(tokens))


def notes(page: Page, column: int = 0) -> Any:
    return page.locator(f"#chat-talk-{column} .tb-said")


def answers(page: Page, column: int = 0) -> list[str]:
    rows = page.locator(f"#chat-talk-{column} .message.bot")
    return [text for row in rows.all() if not row.locator(".tb-said").count() and (text := row.inner_text())]


def server(workspace: Path) -> Run:
    return next(run for run in runs(workspace) if run.state() == "running")


def test_an_empty_chat_says_what_to_do_and_offers_base_and_tuned_as_a_pair(chat):
    page = chat()
    expect(page.locator("#chat-models")).to_contain_text("exports/tuned")
    expect(page.locator("#chat-models")).to_contain_text(BASE)
    expect(page.locator("#chat-talk-0")).to_contain_text(re.compile("press Load|Type a question"))


def test_base_and_tuned_answer_side_by_side_from_one_server(loaded_chat):
    page = loaded_chat
    expect(page.locator("#chat-state")).to_contain_text(f"{BASE}: 0.00 GB")
    expect(page.locator("#chat-who-0 input")).to_have_value(BASE)
    expect(page.locator("#chat-who-1 input")).to_have_value("exports/tuned")
    greedy(page)
    ask(page)
    expect(notes(page, 0)).to_have_text(re.compile(rf"^{BASE} · 24 tokens · [\d.]+ s · [\d.]+ tokens/s"))
    expect(notes(page, 1)).to_have_text(re.compile(r"^exports/tuned · 24 tokens"))
    assert answers(page, 0) != answers(page, 1)
    expect(page.locator("#chat-columns .chat-room").first).to_have_text(re.compile(r"\d+ of 1,000,000 tokens"))
    expect(page.locator("#chat-ask textarea")).to_have_value("")
    expect(page.locator("#chat-ask textarea")).to_be_in_viewport()


def test_stop_ends_the_answer_and_keeps_what_was_said(loaded_chat):
    page = loaded_chat
    page.get_by_label("One", exact=True).check()
    greedy(page, LONG)
    ask(page)
    page.locator("#chat-ask .stop-button").click()
    expect(notes(page)).to_have_text(f"{BASE} · stopped")
    expect(page.locator("#chat-ask .submit-button")).to_be_visible()
    setting(page, "max_tokens", "5")
    ask(page)
    expect(notes(page)).to_have_text([f"{BASE} · stopped", re.compile("5 tokens")])


def test_regenerate_edit_and_retry_replace_what_came_after(loaded_chat):
    page = loaded_chat
    greedy(page)
    ask(page)
    expect(notes(page, 1)).to_have_count(1)
    first = answers(page, 0), answers(page, 1)
    ask(page, "And then?")
    expect(notes(page, 1)).to_have_count(2)
    setting(page, "max_tokens", "7")
    page.locator("#chat-again").click()
    expect(notes(page, 1)).to_have_text([re.compile("24 tokens"), re.compile("7 tokens")])
    # Edited in one column, the question is asked anew in both; what came after it goes.
    setting(page, "max_tokens", "24")
    page.locator("#chat-talk-0 [aria-label=Edit]").first.click()
    page.locator("#chat-talk-0 textarea").fill("Another question?")
    page.locator("#chat-talk-0 [aria-label=Submit]").click()
    for column in (0, 1):
        expect(page.locator(f"#chat-talk-{column} .message.user")).to_have_text(["Another question?"])
        expect(notes(page, column)).to_have_count(1)
    assert (answers(page, 0), answers(page, 1)) != first
    # Retry is for its own column.
    setting(page, "max_tokens", "9")
    page.locator("#chat-talk-1 [aria-label=Retry]").click()
    expect(notes(page, 1)).to_have_text(re.compile("9 tokens"))
    expect(notes(page, 0)).to_have_text(re.compile("24 tokens"))
    page.locator("#chat-clear").click()
    expect(page.locator("#chat .message")).to_have_count(0)


def test_two_browsers_share_the_server_and_nothing_else(loaded_chat, chat):
    one, other = loaded_chat, chat()
    ready(other)
    for page, question in ((one, "First?"), (other, "Second?")):
        greedy(page, 12)
        ask(page, question)
    for page, question in ((one, "First?"), (other, "Second?")):
        expect(notes(page, 0)).to_have_count(1)
        expect(page.locator("#chat-talk-0 .message.user")).to_have_text(question)


def test_a_conversation_is_saved_and_opened_again(loaded_chat, chat, tmp_path):
    page = loaded_chat
    greedy(page, 6)
    setting(page, "system", "Be brief.")
    ask(page)
    expect(notes(page, 1)).to_have_count(1)
    with page.expect_download() as download:
        page.locator("#chat-save").click()
    file = tmp_path / "saved.json"
    download.value.save_as(file)
    content = json.loads(file.read_text())
    assert [column["model"] for column in content["columns"]] == [BASE, "exports/tuned"]
    assert content["settings"]["system"] == "Be brief." and content["settings"]["max_tokens"] == 6
    other = chat()
    with other.expect_file_chooser() as chooser:
        other.locator("#chat-open").click()
    chooser.value.set_files(file)
    expect(notes(other, 1)).to_have_text(re.compile("^exports/tuned · 6 tokens"))
    expect(other.locator("#chat-system textarea")).to_have_value("Be brief.")
    assert answers(other, 0) == answers(page, 0)


def test_unload_ends_the_process_and_a_question_then_says_what_to_do(loaded_chat, board):
    page = loaded_chat
    worker = psutil.Process(server(board.workspace).status()["worker"]["pid"])
    page.locator("#chat-unload").click()
    expect(page.locator("#chat-state")).to_contain_text("nothing is loaded")
    worker.wait(PATIENCE / 1000)
    ask(page)
    expect(page.locator("#chat-said")).to_contain_text("No model is loaded.")
    expect(page.locator("#chat-ask textarea")).to_have_value(QUESTION)  # nothing that was typed is lost


def test_a_server_that_dies_is_told_in_a_sentence(loaded_chat, board):
    page = loaded_chat
    page.get_by_label("One", exact=True).check()
    greedy(page, LONG)
    ask(page)
    run = server(board.workspace)
    while httpx.get(f"{address_of(run)}/health").json()["waiting"] == 0:
        page.wait_for_timeout(50)
    os.kill(run.status()["worker"]["pid"], signal.SIGKILL)
    expect(page.locator("#chat-said")).to_contain_text("The server ended in the middle of the answer.")
    expect(page.locator("#chat-state")).to_contain_text("Killed by the system")


def test_a_folder_out_of_bounds_is_refused_before_anything_starts(chat, board):
    page = chat()
    before = runs(board.workspace)
    expect(page.locator("#chat-models")).to_contain_text("exports/tuned")
    page.locator("#chat-models input").fill("/etc")
    page.locator("#chat-models input").press("Enter")
    page.locator("#chat-load").click()
    expect(page.locator("#chat-said")).to_contain_text("lies outside the folders that the board may read")
    assert runs(board.workspace) == before


def test_a_setting_out_of_range_is_marked_and_not_sent(loaded_chat):
    page = loaded_chat
    setting(page, "temperature", "9")
    expect(page.locator("#chat-temperature")).to_have_class(re.compile("tb-wrong"))
    ask(page)
    expect(page.locator("#chat-said")).to_contain_text("out of range")
