"""What this machine lends: a device, its memory, an engine for the model, and how fast that is.

A peer announces its memory as it is, and beside it what the model weighs there, where that is not
what its own dtype says (docs/adr/0011).

Always: what is announced was measured on this device with this model's shapes; whatever range the
planner finds to fit into the announced memory fits into the real one.
"""

import gc
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from helix_p2p.cluster.manifest import Manifest
from helix_p2p.cluster.model import HeldSizes, ModelSpec
from helix_p2p.cluster.profile import SpeedProfile
from helix_p2p.engine.architecture import read_architecture
from helix_p2p.engine.hardware import Hardware, find_hardware
from helix_p2p.engine.hashes import Refetch, WeightGuard
from helix_p2p.engine.memory import release_cached, trim_heap
from helix_p2p.engine.profile import speed_of
from helix_p2p.engine.quantised import Quantisation, check_computable
from helix_p2p.engine.spec import spec_of
from helix_p2p.engine.torch_engine import EngineConfig, TorchEngine
from helix_p2p.engine.wireformat import DTYPES
from helix_p2p.errors import ConfigError
from helix_p2p.node.config import PeerConfig
from helix_p2p.node.events import NodeEvent

_SHORT = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


@dataclass(frozen=True, slots=True)
class Loan:
    """A device with an engine on it.

    Attributes:
        engine: Nothing loaded yet.
        hardware: The device.
        held_in: `f32`, `bf16` or `f16`, and `int8` or `nf4` behind it where the weights are; for
            people, and for those who check what is computed (`routing.recheck`).
        spec: The model's sizes in its own dtype, the same on every peer.
        held: Its sizes on this device; None where they are the same.
        memory_bytes: For weights and KV cache.
        speed: Measured.
    """

    engine: TorchEngine
    hardware: Hardware
    held_in: str
    spec: ModelSpec
    held: HeldSizes | None
    memory_bytes: int
    speed: SpeedProfile


def lend(
    config: PeerConfig, folder: Path, manifest: Manifest, refetch: Refetch | None = None
) -> Loan:
    """Find the device, make an engine for the model, measure it; takes seconds the first time.

    Args:
        config: What was asked for.
        folder: The model's.
        manifest: What the swarm serves.
        refetch: Gets a corrupt file again; None for a folder of the person's own.

    Raises:
        ConfigError: The device that was asked for is not there, has less memory, or cannot compute
            in this dtype or with these weights.
        ModelError: The model cannot be served, or not quantised.
    """
    hardware, engine_config = choose_device(config)
    guard = WeightGuard(folder, manifest, refetch=refetch)
    engine = TorchEngine(folder, manifest, engine_config, guard)
    spec = swarm_spec(folder, manifest)
    speed = speed_of(folder, manifest, engine_config, device_name=hardware.name)
    return Loan(
        engine=engine,
        hardware=hardware,
        held_in=held_in(engine_config),
        spec=spec,
        held=None if engine.spec.held == spec.held else engine.spec.held,
        memory_bytes=engine_config.memory_bytes,
        speed=speed,
    )


def give_back(device: str) -> None:
    """Let go of what the peers that ended in this process held on a device."""
    gc.unfreeze()  # what was there when a peer began was set aside
    release_cached(torch.device(device))
    trim_heap()


def measured_event(loan: Loan) -> NodeEvent:
    """What this machine lends, for people."""
    decode_s = loan.speed.decode_s(1)
    text = (
        f"{loan.hardware.name}, {loan.memory_bytes / 1e9:.1f} GB in {loan.held_in}, "
        f"{decode_s * 1e3:.2f} ms per layer and token"
    )
    data = {
        "device": loan.hardware.name,
        "dtype": loan.held_in,
        "memory_bytes": loan.memory_bytes,
        "decode_s_per_layer": decode_s,
    }
    return NodeEvent("measured", text, data)


def choose_device(config: PeerConfig) -> tuple[Hardware, EngineConfig]:
    """The device, and how the model will be held on it.

    Raises:
        ConfigError: As `lend`.
    """
    if config.torch_threads is not None:
        torch.set_num_threads(config.torch_threads)
    hardware = find_hardware(None if config.device == "auto" else config.device)
    dtype = hardware.dtype if config.dtype == "auto" else _SHORT[config.dtype]
    budget = config.memory_bytes or hardware.usable_bytes
    if budget > hardware.memory_bytes:
        raise ConfigError(
            f"{budget / 1e9:.1f} GB are more than the {hardware.memory_bytes / 1e9:.1f} GB of "
            f"{hardware.name}",
            hint="lower --max-memory",
        )
    quantisation = Quantisation(config.quantisation)
    check_computable(hardware.device, DTYPES[dtype], quantisation)
    return hardware, EngineConfig(
        budget, hardware.device, dtype, quantisation, graphs=config.graphs
    )


def held_in(config: EngineConfig) -> str:
    """`bf16`, or `bf16 int8`: each word is one that checks know."""
    if config.quantisation is Quantisation.NONE:
        return config.dtype
    return f"{config.dtype} {config.quantisation}"


def swarm_spec(folder: Path, manifest: Manifest) -> ModelSpec:
    """The model's sizes in its own dtype."""
    architecture, whole = read_architecture(folder)
    return spec_of(manifest, architecture, whole, DTYPES[own_dtype(folder)])


def own_dtype(folder: Path) -> str:
    """The dtype that the model's configuration names, `f32` where it names none."""
    config = json.loads((folder / "config.json").read_bytes())
    named = config.get("dtype") or config.get("torch_dtype") or ""
    return _SHORT.get(str(named).removeprefix("torch."), "f32")
