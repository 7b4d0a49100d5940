"""Which device this machine can lend, and how much memory it has free.

Always: what is reported was asked of the device, not looked up in a table; a device that was asked
for by name and is not there is an error, never silently another one.
"""

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from helix_p2p.errors import ConfigError

CPU_SHARE = 0.7
"""Of the memory that is free on a CPU: the person goes on using the machine."""
GPU_SHARE = 0.9
"""Of a GPU's free memory: allocators fragment, and the desktop wants some."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """A device as torch reaches it.

    Attributes:
        device: As torch names it: `cpu`, `cuda:0` (ROCm too), `mps`.
        kind: `cpu`, `cuda`, `rocm` or `mps`.
        name: As its maker calls it.
        total_bytes: Memory of the device.
        free_bytes: Of it, free now.
        dtype: `f32` or `bf16`, what it is fastest in: bf16 on GPUs; on CPUs without AMX, f32 wins.
    """

    device: str
    kind: str
    name: str
    total_bytes: int
    free_bytes: int
    dtype: str

    @property
    def usable_bytes(self) -> int:
        """What a peer takes when nobody says how much."""
        return int(self.free_bytes * (CPU_SHARE if self.kind in ("cpu", "mps") else GPU_SHARE))


def find_hardware(wanted: str = "auto") -> Hardware:
    """The device that is meant by `wanted`.

    Args:
        wanted: `auto` takes the GPU with most free memory, else the CPU; otherwise torch's name.

    Raises:
        ConfigError: No such device is usable here.
    """
    if wanted == "auto":
        if torch.cuda.is_available():
            return max(
                (_cuda(index) for index in range(torch.cuda.device_count())),
                key=lambda it: it.free_bytes,
            )
        return _mps() if torch.backends.mps.is_available() else _cpu()
    named = re.fullmatch(r"(cpu|mps|cuda)(?::(\d+))?", wanted)
    match named and named[1]:
        case "cpu":
            return _cpu()
        case "mps" if torch.backends.mps.is_available():
            return _mps()
        case "cuda" if torch.cuda.is_available():
            assert named is not None
            index = int(named[2] or 0)
            if index < torch.cuda.device_count():
                return _cuda(index)
            raise ConfigError(
                f"there is no GPU number {index}",
                hint=f"there are {torch.cuda.device_count()}, counted from 0",
            )
        case "mps" | "cuda":
            raise ConfigError(
                f"torch {torch.__version__} finds no {wanted} device here",
                hint="update the driver, install the torch build for this GPU, or use --device cpu",
            )
        case _:
            raise ConfigError(
                f"{wanted!r} is no device", hint="write auto, cpu, cuda, cuda:1 or mps"
            )


def _cuda(index: int) -> Hardware:
    free_bytes, total_bytes = torch.cuda.mem_get_info(index)
    return Hardware(
        device=f"cuda:{index}",
        kind="rocm" if torch.version.hip else "cuda",
        name=torch.cuda.get_device_name(index),
        total_bytes=total_bytes,
        free_bytes=free_bytes,
        dtype="bf16" if torch.cuda.is_bf16_supported() else "f16",
    )


def _mps() -> Hardware:
    total_bytes = torch.mps.recommended_max_memory()
    return Hardware(
        device="mps",
        kind="mps",
        name=f"Apple {platform.machine()}",
        total_bytes=total_bytes,
        free_bytes=total_bytes - torch.mps.driver_allocated_memory(),
        dtype="bf16",
    )


def _cpu() -> Hardware:
    memory = psutil.virtual_memory()
    limit_bytes = _cgroup_limit_bytes(memory.total)
    return Hardware(
        device="cpu",
        kind="cpu",
        name=f"{_cpu_name()}, {os.cpu_count()} threads",
        total_bytes=limit_bytes,
        free_bytes=min(memory.available, limit_bytes),
        dtype="f32",
    )


def _cgroup_limit_bytes(otherwise: int) -> int:
    """In a container the machine's memory is not ours."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return min(otherwise, int(Path(path).read_text()))
        except (OSError, ValueError):
            continue
    return otherwise


def _cpu_name() -> str:
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()
