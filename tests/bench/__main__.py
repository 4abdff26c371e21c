"""`python -m tests.bench`: speed and memory, side by side in one run; a table for people, JSON for programs.

Figures, not tests: nothing here fails because a machine is slow. Knows no single measurement.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.bench import device, page, tail, tokens, train
from tests.bench.programs import Line

PARTS = ("page", "train", "alpaca", "tail", "tokens")
ALL = (*PARTS, "device")  # the last only where it is asked for: it wants a large accelerator


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--workspace", type=Path, default=Path("workspace"), help="where the demo model lies")
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {','.join(ALL)}")
    parser.add_argument("--jobs", default=",".join(device.USUAL), help="of device: some of its jobs")
    parser.add_argument("--steps", type=int, default=20, help="optimiser steps of each training")
    parser.add_argument("--out", type=Path, help="the JSON file; default: WORKSPACE/cache/bench.json")
    given = parser.parse_args(argv)
    wanted = given.only.split(",")
    if unknown := sorted(set(wanted) - set(ALL)):
        parser.error(f"--only knows {', '.join(ALL)}, not {', '.join(unknown)}.")
    jobs = tuple(given.jobs.split(","))
    if unknown := sorted(set(jobs) - set(device.JOBS)):
        parser.error(f"--jobs knows {', '.join(device.JOBS)}, not {', '.join(unknown)}.")
    model = given.workspace / "models" / train.MODEL
    if {"train", "alpaca", "tokens"} & set(wanted) and not (model / "config.json").is_file():
        parser.error(f"The demo model is not at {model}. Get it: make model")

    cache = given.workspace.resolve() / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    load = os.getloadavg()[0]
    if load > 0.3 * (os.cpu_count() or 1):
        print(f"The machine is busy (load {load:.1f}): these figures will be worth little.", file=sys.stderr)
    lines: list[Line] = []
    out, facts = given.out or cache / "bench.json", machine() | {"load": round(load, 1)}

    def keep(more: list[Line]) -> None:
        found = [asdict(one) | {"ratio": one.ratio} for one in [*lines, *more]]
        out.write_text(json.dumps({**facts, "steps": given.steps, "lines": found}, indent=1) + "\n", encoding="utf-8")

    with tempfile.TemporaryDirectory(prefix="bench-", dir=cache) as folder:
        for part in wanted:
            print(f"Measuring: {part} ...", file=sys.stderr, flush=True)
            at = Path(folder)
            match part:
                case "page":
                    lines += page.measure(at)
                case "train":
                    lines += train.measure(at, model, steps=given.steps)
                case "alpaca":
                    lines += train.measure_alpaca(at, model, steps=given.steps)
                case "tail":
                    lines += tail.measure(at)
                case "tokens":
                    lines += tokens.measure(at, model)
                case "device":
                    lines += device.measure(cache / "bench", jobs, keep)
    keep([])
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    print(table(lines))
    print(f"As JSON: {out}")
    return 0


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    from engine.contract.machine import machine as found

    names = ("torch", "transformers", "trl", "peft")  # the engine's; a machine that trains may have no page
    processor = platform.processor() or platform.machine()
    try:
        said = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.partition(":")[2].strip() for line in said if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux, or a processor without a name: the architecture is what there is to say
    return {
        "date": time.strftime("%Y-%m-%d"), "device": found().device_name, "processor": processor,
        "cores": found().cores, "python": platform.python_version(), **{name: version(name) for name in names},
    }  # fmt: skip


def table(lines: list[Line]) -> str:
    """Markdown, so that it can go into MEASUREMENTS.md as it is."""
    rows = [("what", "Tuneboard", "other", "ratio", "compared with", "goal")]
    for one in lines:
        other = "" if one.other is None else f"{_short(one.other)} {one.unit}"
        ratio = "" if one.ratio is None else f"{one.ratio:.2f}"
        rows.append((one.what, f"{_short(one.ours)} {one.unit}", other, ratio, one.against, one.goal))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rows.insert(1, tuple("-" * width for width in widths))  # type: ignore[arg-type]
    shown = (" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(f"| {row} |" for row in shown)


def _short(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


if __name__ == "__main__":
    sys.exit(main())
