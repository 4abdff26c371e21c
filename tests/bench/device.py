"""Speed, memory and the planner's error on an accelerator, with models of real shapes: two steps of each job, measured.

    python -m tests.bench --only device [--jobs NAME,...]

Each job is `engine measure` on the longest rows: what the page's Measure does. The records beside them are others' own
figures, quoted; nothing of theirs runs here. Needs 20 GB of disk for the weights, and a device of 80 GB for all jobs.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from tests.bench import shapes
from tests.bench.programs import Line

LORA = ["method.targets=[all-linear]", "data.split=100/0/0", "steps.accumulation=1", "task=sft"]
LEAN = ["compute.checkpointing=true", "compute.loss=chunked"]
PLAIN = ["compute.checkpointing=true", "compute.loss=plain", "compute.compile=false"]


class Job(NamedTuple):
    """rows x tokens go through `shape` at once; record: others' tokens/s, or the bytes that are aimed at."""

    shape: str
    rows: int
    tokens: int
    said: list[str]
    record: float = 0.0
    unit: str = "tokens/s"
    against: str = ""
    goal: str = ""


JOBS = {
    "7b-lora": Job("llama-2-7b", 4, 1024, [*LORA, "method.rank=8"], 4007,
                   against="Unsloth's record on an A100 (plain Hugging Face: 2,954)"),
    "8b-lora": Job("llama-3.1-8b", 1, 8192, [*LORA, "method.rank=16", "data.packing=true"],
                   goal="60 % of the device's arithmetic"),
    "8b-lora-lean": Job("llama-3.1-8b", 4, 2048, [*LORA, *LEAN, "method.rank=16"]),
    "8b-lora-plain": Job("llama-3.1-8b", 4, 2048, [*LORA, *PLAIN, "method.rank=16"],
                         goal="at least twice its time, against lean"),
    "8b-lora-64k": Job("llama-3.1-8b", 1, 65536, [*LORA, *LEAN, "compute.offload=true", "method.rank=16"], 40e9,
                       "GB", "40 GB"),
    "8b-qlora-2k": Job("llama-3.1-8b", 1, 2048, [*LORA, *LEAN, "method.rank=16", "model.quantisation=nf4"], 6.5e9,
                       "GB", "6.5 GB"),
    "8b-qlora-4x8k": Job("llama-3.1-8b", 4, 8192, [*LORA, *LEAN, "compute.offload=true", "method.rank=16",
                                                  "model.quantisation=nf4"], 10e9, "GB", "10 GB"),
    "8b-qlora-160k": Job("llama-3.1-8b", 1, 160_000, [*LORA, *LEAN, "compute.offload=true", "method.rank=32",
                                                     "model.quantisation=nf4"], 40e9, "GB",
                         "40 GB (Unsloth's record: 153,977 tokens)"),
    "tiny": Job("tiny", 2, 256, [*LORA, "method.rank=4"]),
}  # fmt: skip
USUAL = tuple(name for name in JOBS if name != "tiny")


def measure(folder: Path, jobs: tuple[str, ...] = USUAL) -> list[Line]:
    """Three lines a job: tokens a second beside the device's own arithmetic, the peak, and the planner's error."""
    workspace = folder / "device"
    (workspace / "datasets").mkdir(parents=True, exist_ok=True)
    most = arithmetic()
    return [line for name in jobs for line in _job(name, JOBS[name], workspace, most)]


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


def _job(name: str, job: Job, workspace: Path, most: float) -> list[Line]:
    from data.planning.compute import per_token
    from engine.contract import text
    from engine.measure import measured
    from engine.plan import made

    shapes.made(job.shape, workspace / "models" / job.shape)
    shapes.texts(workspace / "datasets" / f"{name}.jsonl", 2 * job.rows + 2, job.tokens)
    words = [f"model={job.shape}", f"data={name}.jsonl", f"steps.batch_size={job.rows}",
             f"data.max_length={job.tokens}", *job.said]  # fmt: skip
    plan = made(text.parse({}, words, kind="train"), workspace)
    print(f"Measuring: {name} ...", flush=True)
    found = measured(plan.args, workspace)
    what = f"{name}: {job.rows} x {job.tokens:,} tokens"
    if found.out_of_memory:
        return [Line(f"{what}, out of memory", "GB", plan.total / 1e9, job.record / 1e9 or None, job.against)]
    used = found.speed * per_token(plan.subject, plan.args, job.tokens) / most
    fast = job.unit == "tokens/s"
    return [
        Line(f"{what}, speed", "tokens/s", found.speed, job.record if fast and job.record else None, job.against),
        Line(f"{what}, of the device's {most / 1e12:.1f} TFLOP/s", "%", 100 * used, goal=job.goal),
        Line(f"{what}, peak", "GB", found.peak / 1e9, None if fast else job.record / 1e9, "" if fast else job.against),
        Line(f"{what}, planned", "GB", plan.memory.total / 1e9, found.peak / 1e9, "what was measured", "0.9 to 1.1"),
    ]
