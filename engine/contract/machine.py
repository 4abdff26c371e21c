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


# The variable by which a program sees some of a machine's devices alone. AMD's build of torch goes by NVIDIA's.
VISIBLE = {"cuda": "CUDA_VISIBLE_DEVICES", "npu": "ASCEND_RT_VISIBLE_DEVICES", "xpu": "ZE_AFFINITY_MASK"}


def keep_to_one(wanted: str, numbers: Sequence[str] = ()) -> None:
    """Have this process see one accelerator, that of the number given or the first; to be called before torch looks.

    A trainer that sees several spreads each batch over all of them, and takes the first where another is meant.
    """
    name = VISIBLE.get(machine().device if wanted == "auto" else wanted)
    if name is not None:
        os.environ[name] = numbers[0] if numbers else os.environ.get(name, "0").split(",")[0]


@dataclass(frozen=True)
class Memory:
    """Bytes of a memory, of which `free` can be had now."""

    total: int
    free: int


def memory(numbers: Sequence[str] = (), device: str = "auto") -> Memory:
    """The memory of the device that works: the GPU's where `nvidia-smi` answers, else the machine's.

    numbers: of the devices, the first without any; of several, that with the least to spare.   device: the kind that is
    wanted, `cpu` also where there is a GPU.
    """
    if device != "cpu" and machine().device == "cuda" and (found := _nvidia("memory.total,memory.free", numbers)):
        sizes = [[int(float(part)) * 2**20 for part in line.split(",")[:2]] for line in found]
        return min((Memory(total, free) for total, free in sizes), key=lambda one: one.free)
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
        if names := _nvidia("name"):
            return "cuda", names[0]
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


def _nvidia(query: str, numbers: Sequence[str] = ()) -> list[str]:
    """The devices' answers, the first's without `numbers`; empty when there is no such device or no driver."""
    if (program := _nvidia_smi()) is None:
        return []
    command = [program, f"--query-gpu={query}", "--format=csv,noheader,nounits", f"--id={','.join(numbers) or '0'}"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return asked.stdout.strip().splitlines() if asked.returncode == 0 else []


def _cpu_has_bf16() -> bool:
    """Whether bf16 is arithmetic of the processor's own, and not emulated (then fp32 is faster)."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16", " bf16"))
