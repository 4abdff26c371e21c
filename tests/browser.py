"""Finds the browser that the tests of the page drive. Knows no test and starts no browser.

`make test` calls `python -m tests.browser` first: whoever lacks one hears the command that installs it at once.
"""

from __future__ import annotations

import os
import shutil
import sys

VARIABLE = "TUNEBOARD_BROWSER"
PROGRAMS = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)  # fmt: skip
INSTALLERS = {
    "apt-get": "sudo apt-get install chromium",
    "dnf": "sudo dnf install chromium",
    "pacman": "sudo pacman -S chromium",
    "zypper": "sudo zypper install chromium",
    "apk": "sudo apk add chromium",
    "brew": "brew install --cask chromium",
}


class NoBrowser(Exception):
    """There is no browser; the text says so and how to get one."""


def find() -> str:
    """The path of a Chromium or Chrome; NoBrowser where there is none."""
    if named := os.environ.get(VARIABLE):
        if found := shutil.which(named):
            return found
        raise NoBrowser(f"{VARIABLE} names {named}, which is no program. Correct it, or leave it away.")
    for program in PROGRAMS:
        if found := shutil.which(program):
            return found
    command = next((said for tool, said in INSTALLERS.items() if shutil.which(tool)), "install Chromium")
    raise NoBrowser(
        f"There is no browser for the tests of the page. Install one: {command}\n"
        f"(Or set {VARIABLE} to a Chromium or Chrome that you have.)"
    )


def required() -> bool:
    """Whether a missing browser is a failure; elsewhere the tests that need it skip, and say so."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def main() -> int:
    try:
        print(f"Browser for the tests of the page: {find()}")
    except NoBrowser as problem:
        print(problem, file=sys.stderr)
        if required():
            return 1
        print("Going on: the tests that need a browser will skip.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
