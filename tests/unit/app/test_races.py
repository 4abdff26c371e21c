"""Quick clicks and late answers: what a person did last is what counts."""

from __future__ import annotations

from types import SimpleNamespace

import gradio as gr

from app import board
from app.datasets import browse


def test_no_click_on_a_tab_is_dropped_and_none_overtakes_another(tmp_path):
    page = board.page(tmp_path)
    tabs = {id for id, block in page.blocks.items() if str(getattr(block, "elem_id", "")).startswith("tb-tab-")}
    clicks = [
        event for event in page.fns.values() if any(id in tabs and what == "select" for id, what in event.targets)
    ]
    assert len(clicks) == len(tabs) == len(board.TABS)
    assert {event.trigger_mode for event in clicks} == {"multiple"}
    assert len({event.concurrency_id for event in clicks}) == 1


def test_what_is_found_in_rows_leaves_the_text_of_the_open_row_alone(monkeypatch):
    with gr.Blocks():
        browser = browse.Browser(SimpleNamespace())
    monkeypatch.setattr(browser, "_drawn", lambda draft, seen, query: [f"new {place}" for place in browser.shown])
    drawn = dict(zip(browser.shown, browser.marked("", browse.Seen()), strict=True))
    left = {place for place, what in drawn.items() if what == gr.skip()}
    assert left == {browser.talk, browser.said, browser.editor}


def test_no_look_at_what_is_loaded_undoes_a_choice_that_was_made_after_another_look(tmp_path):
    page = board.page(tmp_path)
    looks = [event for event in page.fns.values() if getattr(event.fn, "__name__", "") == "_look"]
    chat = [event for event in looks if any(getattr(block, "elem_id", "") == "chat-many" for block in event.outputs)]
    assert len(chat) == 3
    assert {(event.concurrency_id, event.concurrency_limit) for event in chat} == {("tb-chat-look", 1)}
