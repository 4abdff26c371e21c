"""Making rows on the page: asked for with the mouse, watched, and there to be trained on."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.browser import browser, fresh_workspace, open_page, start_board  # noqa: F401
from tests.endpoint import endpoint


def test_rows_are_made_and_can_be_chosen(start_board, open_page, fresh_workspace: Path) -> None:
    with endpoint(lambda messages: f"Arr, {messages[-1]['content']}") as stub:
        page = open_page(start_board(fresh_workspace, TUNEBOARD_WORKER="").url + "?tab=data")
        page.click("#data-to-make")
        page.get_by_role("textbox", name="Server").fill(stub.address)
        page.get_by_role("textbox", name="Max rows").fill("3")
        page.get_by_role("textbox", name="New dataset").fill("pirates")
        page.get_by_role("textbox", name="Persona").fill("You are a pirate.")
        page.click("#make-start:enabled")
        page.wait_for_selector("#make-run .tb-run-head >> text=done")
        page.wait_for_selector("#make-run .tb-log >> text=Made 3 rows: pirates.jsonl")
        assert {body["messages"][0]["content"] for body in stub.asked} == {"You are a pirate."}
        page.get_by_role("tab", name="Train").click()
        page.get_by_role("tab", name="Data").click()
        page.click("#data-choice input")
        page.get_by_role("option", name="pirates").first.click()
        page.wait_for_selector("#data-rows >> text=Arr,")


def test_a_server_that_is_none_is_said_at_its_field(start_board, open_page, fresh_workspace: Path) -> None:
    page = open_page(start_board(fresh_workspace).url + "?tab=data")
    page.click("#data-to-make")
    page.wait_for_selector("#make-said >> text=No model is loaded")
    assert page.locator("#make .tb-wrong").count() == 0  # nobody has done anything yet
    page.get_by_role("textbox", name="Server").fill("example")
    page.wait_for_selector("#make-said >> text=is not the address of a server")
    page.wait_for_selector("#make-start:disabled")
