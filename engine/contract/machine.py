"""What this machine is, found without torch: cores, memory, the accelerator, and what the processor can do.

For the page's meter, for `auto`, and for device locks. It looks at files of the operating system and loads no driver.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Machine:
    """device is `cpu`, `cuda` (NVIDIA or AMD), `mps`, `npu` or `xpu`; bf16: whether that arithmetic is fast there."""

    device: str
    device_name: str
    cores: int
    bf16: bool


@cache
def machine() -> Machine:
    device, name = _accelerator()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device == "cpu":
        return Machine("cpu", f"CPU, {cores} cores", cores, _cpu_has_bf16())
    # fp16-only accelerators (before Ampere) are found out by the worker, which asks the device itself.
    return Machine(device, name, cores, True)


def device_ids(wanted: str, numbers: Sequence[str] = ()) -> tuple[str, ...]:
    """The names of the device locks that a run needs: `cpu`, or the accelerator's devices of these numbers."""
    device = machine().device if wanted == "auto" else wanted
    return ("cpu",) if device == "cpu" else tuple(f"{device}-{int(number)}" for number in numbers or ("0",))


@dataclass(frozen=True)
class Memory:
    """Bytes of a memory, of which `free` can be had now."""

    total: int
    free: int


def memory() -> Memory:
    """The memory of the device that trains: the GPU's where `nvidia-smi` answers, else the machine's."""
    if machine().device == "cuda" and (found := _nvidia("memory.total,memory.free")):
        total, free = (int(float(part)) * 2**20 for part in found.split(",")[:2])
        return Memory(total, free)
    return main_memory()


def main_memory() -> Memory:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return Memory(total, total)
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return Memory(sizes["MemTotal"], sizes["MemAvailable"])


def _accelerator() -> tuple[str, str]:
    if Path("/proc/driver/nvidia/gpus").exists() or shutil.which("nvidia-smi"):
        if name := _nvidia("name"):
            return "cuda", name
    if Path("/dev/kfd").exists():
        return "cuda", "AMD GPU"
    if Path("/dev/davinci0").exists():
        return "npu", "Ascend NPU"
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return "mps", "Apple GPU"
    return "cpu", ""


@cache
def _nvidia_smi() -> str | None:
    return shutil.which("nvidia-smi")


def _nvidia(query: str) -> str:
    """The first device's answer; empty when there is no device or no driver."""
    if (program := _nvidia_smi()) is None:
        return ""
    command = [program, f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout.strip().splitlines()[0].strip() if asked.returncode == 0 and asked.stdout.strip() else ""


def _cpu_has_bf16() -> bool:
    """Whether bf16 is arithmetic of the processor's own, and not emulated (then fp32 is faster)."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16", " bf16"))
