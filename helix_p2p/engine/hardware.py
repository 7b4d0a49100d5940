"""What this machine can compute on: CUDA, ROCm, Apple's MPS, or the CPU.

Importing this module does not import torch; looking does. Always: the device named is one that
torch can use here and now.
"""

import platform
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psutil

from helix_p2p.errors import ConfigError

RESERVE_BYTES = 1024**3
"""Left to the driver, torch's own context and temporaries on a GPU."""
CPU_SHARE = 0.5
"""Of the free memory of a machine that has other work to do."""


class DeviceKind(StrEnum):
    """The family of a device."""

    CUDA = "cuda"
    ROCM = "rocm"
    MPS = "mps"
    CPU = "cpu"


@dataclass(frozen=True, slots=True)
class Hardware:
    """One device.

    Attributes:
        kind: Its family.
        device: As torch names it, e.g. `cuda:0`.
        name: For people and for the speed cache, e.g. `NVIDIA GeForce RTX 4090`.
        memory_bytes: All of it.
        usable_bytes: What a peer may offer without harming what else runs.
        dtype: The wire's name of the dtype that is fastest here: `f32`, `bf16`, `f16`.
        threads: That torch computes with on a CPU.
    """

    kind: DeviceKind
    device: str
    name: str
    memory_bytes: int
    usable_bytes: int
    dtype: str
    threads: int


def find_hardware(wanted: str | None = None) -> Hardware:
    """The device asked for, or the best there is.

    Args:
        wanted: `cpu`, `cuda`, `cuda:1`, `rocm`, `mps`; None takes a GPU where there is one.

    Raises:
        ConfigError: There is no such device.
    """
    import torch

    kind, _, number = (wanted or "").lower().partition(":")
    if kind not in ("", *DeviceKind) or (number and not number.isdigit()):
        raise ConfigError(f"no device is called {wanted}", hint="cpu, cuda, cuda:1, rocm or mps")
    if kind in ("", "cuda", "rocm") and torch.cuda.is_available():
        if int(number or 0) >= torch.cuda.device_count():
            raise ConfigError(
                f"there is no {wanted}", hint=f"{torch.cuda.device_count()} GPUs were found"
            )
        return _cuda(int(number or 0))
    if kind in ("", "mps") and torch.backends.mps.is_available():
        return _mps()
    if kind in ("", "cpu"):
        return _cpu()
    raise ConfigError(
        f"there is no {wanted} device that torch can use",
        hint="is torch installed for it? `--device cpu` always works",
    )


def _cuda(number: int) -> Hardware:
    import torch

    free, total = torch.cuda.mem_get_info(number)
    return Hardware(
        DeviceKind.ROCM if torch.version.hip else DeviceKind.CUDA,
        f"cuda:{number}",
        torch.cuda.get_device_name(number),
        total,
        max(0, free - RESERVE_BYTES),
        "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "f16",
        torch.get_num_threads(),
    )


def _mps() -> Hardware:
    import torch

    total = torch.mps.recommended_max_memory()
    used = torch.mps.driver_allocated_memory()
    free = min(total - used, psutil.virtual_memory().available)
    name = _cpu_name()
    return Hardware(
        DeviceKind.MPS,
        "mps",
        name,
        total,
        max(0, free - RESERVE_BYTES),
        "f16",
        torch.get_num_threads(),
    )


def _cpu() -> Hardware:
    import torch

    memory = psutil.virtual_memory()
    threads = torch.get_num_threads()
    return Hardware(
        DeviceKind.CPU,
        "cpu",
        f"{_cpu_name()} × {threads}",
        memory.total,
        int(memory.available * CPU_SHARE),
        "f32",  # bfloat16 is slower on CPUs without AMX or AVX512-BF16
        threads,
    )


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    except OSError:
        pass
    return platform.processor() or platform.machine() or "CPU"
