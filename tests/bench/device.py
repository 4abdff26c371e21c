"""Speed, memory and the planner's error on an accelerator, with models of real shapes: two steps of each job, measured.

    python -m tests.bench --only device [--jobs NAME,...]

Each job is a process of its own and `engine measure` within: what the page's Measure does. One that fails, or takes too
long, is a line that says so, and the JSON file is written after each, so an end that comes early costs nothing. The
records beside them are others' own figures, quoted; only TRL runs here, by turns with us on the same rows. Needs 30 GB
of disk for the weights, and a device of 80 GB for all jobs. Where time is short, `--jobs` takes some of them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench import shapes
from tests.bench.programs import ROOT, Line

SECONDS = 300  # that a job may take; the longest has 160,000 tokens
LORA = ["method.targets=[all-linear]", "data.split=100/0/0", "task=sft"]
LEAN = ["compute.checkpointing=true", "compute.loss=chunked"]
LONG = [*LEAN, "compute.offload=true", "optim.optimiser=adamw_bnb_8bit"]
PLAIN = ["compute.checkpointing=true", "compute.loss=plain", "compute.padding_free=false"]
FAST = ["compute.checkpointing=false", "compute.loss=chunked"]
NF4 = "model.quantisation=nf4"


class Job(NamedTuple):
    """rows x tokens go through `shape` at once, `batches` times a step. record: others' tokens/s, or the bytes that are
    aimed at. spread: rows are of all lengths, up to `tokens`. pieces: of each row, as packing finds them."""

    shape: str
    rows: int
    tokens: int
    said: list[str]
    record: float = 0.0
    unit: str = "tokens/s"
    against: str = ""
    goal: str = ""
    batches: int = 1
    spread: bool = False
    pieces: int = 1


JOBS = {
    "7b-lora": Job("llama-2-7b", 4, 1024, [*LORA, *FAST, "method.rank=8"], 4007, batches=8,
                   against="Unsloth's record on an A100 (plain Hugging Face: 2,954)"),
    "8b-lora": Job("llama-3.1-8b", 1, 8192, [*LORA, *FAST, "method.rank=16", "data.packing=true"], batches=8, pieces=4,
                   goal="60 % of the device's arithmetic"),
    "8b-lora-compiled": Job("llama-3.1-8b", 1, 8192, [*LORA, *FAST, "method.rank=16", "data.packing=true",
                                                      "compute.compile=true"],
                            batches=8, pieces=4, goal="60 % of the device's arithmetic"),
    "8b-qlora-2k": Job("llama-3.1-8b", 1, 2048, [*LORA, *LONG, "method.rank=16", NF4], 6.5e9, "GB", "6.5 GB"),
    "8b-qlora-4x8k": Job("llama-3.1-8b", 1, 8192, [*LORA, *LONG, "method.rank=16", NF4], 10e9, "GB", "10 GB",
                         batches=4),  # the effective batch of four, as `plan --fit` makes it
    "8b-mixed": Job("llama-3.1-8b", 4, 2048, [*LORA, *FAST, "method.rank=16"], batches=4, spread=True),
    "8b-mixed-trl": Job("llama-3.1-8b", 4, 2048, [], batches=4, spread=True, goal="ours at least twice as fast"),
    "8b-mixed-plain": Job("llama-3.1-8b", 4, 2048, [*LORA, *PLAIN, "method.rank=16"], batches=4, spread=True,
                          goal="at least twice the time of 8b-mixed"),
    "8b-lora-64k": Job("llama-3.1-8b", 1, 65536, [*LORA, *LONG, "method.rank=16"], 40e9, "GB", "40 GB"),
    "8b-qlora-160k": Job("llama-3.1-8b", 1, 160_000, [*LORA, *LONG, "method.rank=32", NF4], 40e9, "GB",
                         "40 GB (Unsloth's record: 153,977 tokens)"),
    "tiny": Job("tiny", 2, 256, [*LORA, "method.rank=4"], batches=2, spread=True),
    "tiny-trl": Job("tiny", 2, 256, [], batches=2, spread=True),
}  # fmt: skip
USUAL = tuple(name for name in JOBS if not name.startswith("tiny"))
STEPS = 3  # of TRL's, the first of which pays for what is made once


def measure(
    folder: Path, jobs: tuple[str, ...] = USUAL, keep: Callable[[list[Line]], None] | None = None
) -> list[Line]:
    """The lines of all jobs. keep: gets those so far after each."""
    (folder / "device" / "datasets").mkdir(parents=True, exist_ok=True)
    lines = _apart("arithmetic", folder)
    most = lines[0].ours if lines[0].unit == "TFLOP/s" else 0.0
    for name in jobs:
        print(f"Measuring: {name} ...", flush=True)
        lines += _apart(name, folder, most)
        print(json.dumps([asdict(one) for one in lines[1:] if one.what.startswith(f"{name}:")]), flush=True)
        if keep:
            keep([*lines, *compared(lines)])
    return [*lines, *compared(lines)]


def compared(lines: list[Line]) -> list[Line]:
    """What one job took against another, of those that there are."""
    speeds = {one.what.partition(":")[0]: one.ours for one in lines if one.unit == "tokens/s"}
    pairs = [("8b-mixed", "8b-mixed-trl", "TRL alone, its defaults on bf16 weights, same rows"),
             ("8b-mixed", "8b-mixed-plain", "all switches off"), ("tiny", "tiny-trl", "TRL alone")]  # fmt: skip
    return [
        Line(f"{ours} against {theirs}", "tokens/s ", speeds[ours], speeds[theirs], said, "at least 2.0 times")
        for ours, theirs, said in pairs if ours in speeds and theirs in speeds
    ]  # fmt: skip


def _apart(name: str, folder: Path, most: float = 0.0) -> list[Line]:
    """The lines of one job, from a process of its own that is ended when it takes too long."""
    out = folder / f"{name}.json"
    out.unlink(missing_ok=True)
    log = folder / f"{name}.log"
    with open(log, "wb") as file:
        words = [sys.executable, "-m", "tests.bench.device", name, str(folder), str(most)]
        process = subprocess.Popen(words, cwd=ROOT, stdout=file, stderr=file, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        try:
            code = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            code = -1
        finally:
            process.terminate()  # it takes its own worker with it
            process.wait()
    if code == 0 and out.is_file():
        return [Line(**record) for record in json.loads(out.read_text())]
    why = f"took more than {SECONDS} s" if code == -1 else log.read_text(errors="replace").strip()[-300:]
    print(f"{name} failed: {why}", file=sys.stderr, flush=True)
    return [Line(f"{name}: failed", "", 0.0, against=" ".join(why.split())[-200:])]


def arithmetic() -> float:
    """Floating-point operations a second of a large bf16 product, the most that a model could use."""
    import torch

    accelerated = torch.accelerator.is_available()
    device = torch.accelerator.current_accelerator() if accelerated else torch.device("cpu")
    size = 8192 if accelerated else 1024
    left = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    best = 0.0
    for _ in range(8):
        started = time.perf_counter()
        for _ in range(4):
            left @ left
        if accelerated:
            torch.accelerator.synchronize()
        best = max(best, 4 * 2 * size**3 / (time.perf_counter() - started))
    return best


def _ours(name: str, job: Job, workspace: Path, most: float) -> list[Line]:
    from data.planning.compute import per_token
    from engine.contract import text
    from engine.contract.machine import machine
    from engine.measure import measured
    from engine.plan import made

    words = [f"model={job.shape}", f"data={name}.jsonl", f"steps.batch_size={job.rows}",
             f"steps.accumulation={job.batches}", f"data.max_length={job.tokens}", *job.said]  # fmt: skip
    plan = made(text.parse({}, words, kind="train"), workspace)
    found = measured(plan.args, workspace)
    what = f"{name}: {job.batches} x {job.rows} x {job.tokens:,} tokens"
    on_processor = machine().device == "cpu"  # of an accelerator tensors alone are measured, not what the driver holds
    planned = (plan.memory.total - (0 if on_processor else plan.memory.parts["program"])) / 1e9
    if found.out_of_memory:
        return [Line(f"{what}, out of memory", "GB", planned, job.record / 1e9 or None, job.against)]
    # What the model asks for: what checkpointing computes again is no use that is made of the device.
    once = plan.args.model_copy(update={"compute": plan.args.compute.model_copy(update={"checkpointing": False})})
    used = found.speed * per_token(plan.subject, once, job.tokens / job.pieces / (2 if job.spread else 1)) / most
    fast = job.unit == "tokens/s"
    return [
        Line(f"{what}, speed", "tokens/s", found.speed, job.record if fast and job.record else None, job.against),
        Line(f"{what}, of the device's {most:.1f} TFLOP/s", "%", 100 * used / 1e12, goal=job.goal),
        Line(f"{what}, peak", "GB", found.peak / 1e9, None if fast else job.record / 1e9, "" if fast else job.against),
        Line(f"{what}, planned", "GB", planned, found.peak / 1e9, "what was measured", "0.9 to 1.1"),
    ]


def _trl(name: str, job: Job, workspace: Path) -> list[Line]:
    """TRL as it comes, but for weights in bf16, which it would widen."""
    import torch

    given, journal = workspace / f"{name}.job", workspace / f"{name}.journal"
    rows = [json.loads(line) for line in (workspace / "datasets" / f"{name}.jsonl").read_text().splitlines()]
    trainer: dict[str, Any] = {
        "output_dir": str(workspace / name), "max_steps": STEPS, "per_device_train_batch_size": job.rows,
        "gradient_accumulation_steps": job.batches, "max_length": job.tokens, "save_strategy": "no",
        "report_to": "none", "logging_steps": 1, "disable_tqdm": True, "model_init_kwargs": {"dtype": "bfloat16"},
        "use_cpu": not torch.accelerator.is_available(),
    }  # fmt: skip
    content = {"model": str(workspace / "models" / job.shape), "rows": rows, "trainer": trainer, "lora": {"r": 16}}
    given.write_text(json.dumps({**content, "journal": str(journal)}))
    subprocess.run([sys.executable, "-m", "tests.bench.plain_trl", str(given)], cwd=ROOT, check=True)
    points = [json.loads(line) for line in journal.read_text().splitlines()]
    spent, tokens = points[-1]["t"] - points[0]["t"], points[-1]["tokens"] - points[0]["tokens"]
    return [Line(f"{name}: {job.rows} x {job.tokens:,} tokens, speed", "tokens/s", tokens / spent, goal=job.goal)]


def main(name: str, folder: Path, most: float) -> None:
    """One job, in this process; its lines go to a file."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if name == "arithmetic":
        lines = [Line("A product of large bf16 matrices", "TFLOP/s", arithmetic() / 1e12)]
    else:
        job, workspace = JOBS[name], folder / "device"
        shapes.made(job.shape, workspace / "models" / job.shape)
        many = 2 * job.rows * job.batches * job.pieces  # two steps, of which each side takes all
        length = job.tokens // job.pieces
        shapes.texts(workspace / "datasets" / f"{name}.jsonl", many, length, spread=job.spread)
        lines = _ours(name, job, workspace, most) if job.said else _trl(name, job, workspace)
    (folder / f"{name}.json").write_text(json.dumps([asdict(one) for one in lines]))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]))
