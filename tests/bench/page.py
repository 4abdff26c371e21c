"""How long the board's page takes to come, and how much memory it holds, against the smallest gradio page."""

from __future__ import annotations

from pathlib import Path

from tests.bench.programs import Line, Program, answers, free_port, line

PAGES = ("/", "/config")  # what a browser asks for before it can draw anything


def measure(folder: Path, *, times: int = 3) -> list[Line]:
    """Start both by turns, `times` each, in workspaces under `folder`."""
    board, bare = [], []
    for _ in range(times):
        board.append(_once("board", folder))
        bare.append(_once("bare", folder))
    against = "a bare gradio page"
    (seconds, processor, memory), (bare_seconds, bare_processor, bare_memory) = (
        [list(values) for values in zip(*found, strict=True)] for found in (board, bare)
    )
    return [
        line("Page: start until served", "s", seconds, bare_seconds, against, goal="at most 1.4 times"),
        line("... of that, processor time", "s", processor, bare_processor, against),
        line("... memory then", "MB", memory, bare_memory, against, goal="under 250 MB"),
    ]


def _once(name: str, folder: Path) -> tuple[float, float, float]:
    """Until the page is served: seconds, seconds of processor time, and resident megabytes then."""
    port = free_port()
    words = {
        "board": ["-m", "app", "--port", str(port), "--workspace", str(folder / "page")],
        "bare": ["-m", "tests.bench.bare_page", str(port)],
    }[name]
    environment = {"GRADIO_ANALYTICS_ENABLED": "False", "TUNEBOARD_PASSWORD": ""}
    program = Program(words, folder / f"{name}.log", environment)
    try:
        seconds = program.until(lambda: answers(f"http://127.0.0.1:{port}", PAGES))
        assert not program.has_mapped("libtorch"), f"{name} has torch in its memory"
        return seconds, program.processor_seconds(), program.memory() / 1e6
    finally:
        program.kill()
