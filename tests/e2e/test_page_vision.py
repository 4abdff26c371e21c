"""Pictures on the page: settings where a model sees, and a picture asked about in the chat, in a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, expect

from tests import tiny_sight
from tests.e2e.browser import PATIENCE, ABoard

expect.set_options(timeout=PATIENCE)


def test_pictures_are_offered_for_a_model_that_sees_and_for_no_other(
    start_board: Callable[..., ABoard], open_page: Callable[[str], Page], fresh_workspace: Path, tmp_path: Path
) -> None:
    made = tiny_sight.make("qwen2-vl", tmp_path / "made")
    shutil.copytree(made, fresh_workspace / "models" / "tiny-sight")
    Image.new("RGB", (90, 60), "red").save(tmp_path / "red.png")
    page = open_page(start_board(fresh_workspace, TUNEBOARD_WORKER="").url)
    settings, model = page.locator("#train-more-vision"), page.locator("#train-model-path input")
    expect(settings).to_be_hidden()
    choose(model, "tiny-sight")
    expect(settings).to_be_visible()
    choose(model, "SmolLM2-135M-Instruct")
    expect(settings).to_be_hidden()

    page.get_by_role("tab", name="Chat").click()
    chosen = page.locator("#chat-models input")
    expect(page.locator("#chat-models")).to_contain_text("SmolLM2")
    page.locator("#chat-models .token-remove").first.click()
    choose(chosen, "tiny-sight")
    expect(page.locator("#chat-picture")).to_be_hidden()
    page.locator("#chat-load").click()
    expect(page.locator("#chat-state .tb-pill")).to_have_text("ready")
    expect(page.locator("#chat-picture")).to_be_visible()
    with page.expect_file_chooser() as chooser:
        page.locator("#chat-picture").click()
    chooser.value.set_files(tmp_path / "red.png")
    expect(page.locator("#chat-attached img")).to_have_count(1)
    page.locator("#chat-max_tokens :is(input, textarea)").fill("4")
    page.locator("#chat-ask textarea").fill("What is it?")
    page.locator("#chat-ask textarea").press("Enter")
    expect(page.locator("#chat-talk-0 .tb-said")).to_have_count(1)
    expect(page.locator("#chat-talk-0 img[src^='data:image/png']")).to_have_count(1)
    expect(page.locator("#chat-attached img")).to_have_count(0)
    expect(page.locator("#chat-said .tb-error")).to_have_count(0)


def choose(field: Any, name: str) -> None:
    field.fill(name)
    field.press("Enter")
