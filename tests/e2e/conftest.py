"""Fixtures of the end-to-end tests: a real browser and a real board."""

from tests.e2e.browser import browser, fresh_workspace, open_page, start_board  # noqa: F401
