"""What it costs to open a long run, and to look again: 100,000 metric lines through the page's own modules."""

from __future__ import annotations

import json
import math
import statistics
import time
from pathlib import Path

from tests.bench.programs import Line

LINES = 100_000
POLLS = 20


def measure(folder: Path) -> list[Line]:
    """Write a run with LINES metric lines under `folder`, open it, and poll it."""
    from app.running.charts import picture_json
    from app.running.watch import Watch

    run = _long_run(folder / "tail")
    started = time.perf_counter()
    watch = Watch(run)
    watch.look()
    picture = picture_json(watch.curve, run.id, steps_total=LINES)
    opened = time.perf_counter() - started
    assert len(watch.curve) == LINES

    still, bytes_still = _polls(watch, "")
    new = _record(LINES)
    grown, bytes_grown = _polls(watch, new)
    assert len(watch.curve) == LINES + POLLS
    size = run.metrics_path.stat().st_size
    return [
        Line(f"Run of {LINES:,} metric lines ({size / 1e6:.0f} MB): open", "s", opened, goal="under 1 s"),
        Line("... its picture as sent to the page", "kB", len(picture) / 1e3),
        Line("... a look with nothing new", "ms", still * 1e3),
        Line("... bytes read by that look (status.json alone)", "bytes", bytes_still),
        Line(f"... a look with one new line of {len(new)} bytes", "ms", grown * 1e3),
        Line("... bytes read by that look", "bytes", bytes_grown, goal="only new bytes"),
    ]


def _polls(watch, new: str) -> tuple[float, float]:  # type: ignore[no-untyped-def]
    """Median seconds and bytes of a look, with `new` appended before each."""
    seconds, read = [], []
    for _ in range(POLLS):
        with open(watch.run.metrics_path, "a", encoding="utf-8") as file:
            file.write(new)
        before, began = _bytes_read(), time.perf_counter()
        watch.look()
        seconds.append(time.perf_counter() - began)
        read.append(_bytes_read() - before)
    # Reading the counter is itself a read; it is measured alike and taken off.
    own = [-_bytes_read() + _bytes_read() for _ in range(POLLS)]
    return statistics.median(seconds), max(0.0, statistics.median(read) - statistics.median(own))


def _bytes_read() -> int:
    """Bytes that this process has asked the kernel for, from disk or cache."""
    return int(Path("/proc/self/io").read_text().split()[1])


def _record(step: int) -> str:
    values = {
        "train/loss": 1 + 2 * math.exp(-step / 2e4) + 0.1 * math.sin(step * 1.7), "train/learning_rate": 5e-4,
        "train/grad_norm": 0.7 + 0.2 * math.sin(step), "train/tokens_per_second": 400.0 + step % 13,
        "train/tokens": 512.0 * step, "memory/peak_gb": 2.4, "train/accuracy": 0.6,
    }  # fmt: skip
    record = {"kind": "metrics", "t": 1.7e9 + step, "attempt": 1, "step": step, "epoch": step / LINES, "values": values}
    return json.dumps(record) + "\n"


def _long_run(workspace: Path):  # type: ignore[no-untyped-def]
    from engine.contract import rundir, text

    run = rundir.make(workspace, "long", text.dump(text.parse({}, [], kind="train")))
    with open(run.metrics_path, "w", encoding="utf-8") as file:
        file.writelines(_record(step) for step in range(LINES))
    rundir.write_json(run.status_path, {"state": "done", "exit_code": 0})
    return run
