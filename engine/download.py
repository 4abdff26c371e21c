"""Gets a model or a dataset from a hub as a run: progress by what lies on the disk, a clean stop, and sentences.

What has arrived is kept by the hubs' own caches and by our partial files, so the next try goes on from there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine import fetch
from engine.contract.args import DownloadArgs
from engine.contract.rundir import Run
from engine.report import Report, Stop

LOOK_SECONDS = 1.0


def run(args: DownloadArgs, run: Run, report: Report, stop: Stop) -> None:
    report.phase("downloading")
    folder = _model(args, run, report)
    report.result(f"{args.id} is on this machine.", folder=str(folder))


def _model(args: DownloadArgs, run: Run, report: Report) -> Path:
    return fetch.fetch(
        args.id,
        run.workspace,
        revision=args.revision or None,
        code=args.trust_remote_code,
        say=report.note,
        watch=lambda folder, size: watched(folder, size, report),
    )


@contextmanager
def watched(folder: Path, size: int, report: Report) -> Iterator[None]:
    """Report how much of `size` bytes has arrived in `folder`, once a second, until the block ends."""
    if not size:
        yield
        return
    before, began, ended = occupied(folder), time.monotonic(), threading.Event()

    def look() -> None:
        while not ended.wait(LOOK_SECONDS):
            tell(occupied(folder) - before)

    def tell(arrived: int) -> None:
        arrived = max(0, min(arrived, size))
        speed = arrived / (time.monotonic() - began)
        left = (size - arrived) / speed if arrived else None
        report.progress(round(arrived / 1e6), max(1, round(size / 1e6)), left, "MB")

    thread = threading.Thread(target=look, daemon=True)
    tell(0)
    thread.start()
    try:
        yield
        tell(size)
    finally:
        ended.set()
        thread.join()


def occupied(folder: Path) -> int:
    """Bytes of the files in a folder, those that still grow included."""
    total = 0
    for file in folder.iterdir() if folder.is_dir() else ():
        try:
            total += file.stat().st_size
        except FileNotFoundError:  # renamed while we looked
            continue
    return total
