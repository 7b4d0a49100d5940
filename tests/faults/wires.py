"""A network on one machine: a namespace for each peer, joined by a switch that this process plays.

The kernel here has no netem, so a TAP device of each namespace ends in this process, which passes
Ethernet frames on after a delay, loses some, and drops all between sides that are cut off: what a
pulled cable, a dead router or a firewall without manners does. Needs root.

Always: what it made is gone when the block ends (TAP devices end with their file descriptor, the
namespaces are deleted, and those of a run that was killed are swept by the next).
"""

import asyncio
import contextlib
import fcntl
import os
import random
import struct
import subprocess
from collections.abc import AsyncIterator, Collection
from pathlib import Path

from tests.faults.table import CannotMeasure

TUN = Path("/dev/net/tun")
NAMESPACES = Path("/run/netns")
_TUNSETIFF = 0x400454CA
_TAP_WITHOUT_HEADER = 0x0002 | 0x1000
_FRAME_BYTES = 65536
_PREFIX = "hf-"
_BROADCAST = b"\xff" * 6
HOME = "home"
"""This process's own namespace."""


class Switch:
    """Passes frames between ports.

    Attributes:
        delay_s: One way.
        loss: Share of frames that are lost.
        sides: Ports that can only reach their own side; empty when nothing is cut.
        silent: Ports that nothing reaches and nothing leaves.
    """

    def __init__(self, rng: random.Random) -> None:
        self.delay_s = 0.0
        self.loss = 0.0
        self.sides: tuple[frozenset[str], ...] = ()
        self.silent: frozenset[str] = frozenset()
        self.passed = 0
        self.lost = 0
        self._random = rng
        self._ports: dict[str, int] = {}
        self._port_of: dict[bytes, str] = {}

    def add(self, port: str, descriptor: int) -> None:
        """Serve a TAP device from now on."""
        self._ports[port] = descriptor
        asyncio.get_running_loop().add_reader(descriptor, self._read, port, descriptor)

    def close(self) -> None:
        """Serve none any more."""
        for descriptor in self._ports.values():
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
        self._ports.clear()

    def _read(self, port: str, descriptor: int) -> None:
        for _ in range(64):
            try:
                frame = os.read(descriptor, _FRAME_BYTES)
            except BlockingIOError:
                return
            except OSError:
                return
            self._port_of[frame[6:12]] = port
            known = self._port_of.get(frame[:6])
            targets = [known] if known else [p for p in self._ports if p != port]
            for target in targets:
                self._pass(port, target, frame)

    def _pass(self, source: str, target: str, frame: bytes) -> None:
        if source == target or not self._reaches(source, target):
            return
        if self.loss and self._random.random() < self.loss:
            self.lost += 1
            return
        self.passed += 1
        if self.delay_s:
            loop = asyncio.get_running_loop()
            loop.call_later(self.delay_s, self._write, source, target, frame)
        else:
            self._write(source, target, frame)

    def _write(self, source: str, target: str, frame: bytes) -> None:
        descriptor = self._ports.get(target)
        if descriptor is not None and self._reaches(source, target):
            with contextlib.suppress(OSError):  # a full queue loses frames, as real ones do
                os.write(descriptor, frame)

    def _reaches(self, source: str, target: str) -> bool:
        if self.silent & {source, target}:
            return False
        return not self.sides or any({source, target} <= side for side in self.sides)


class Wires:
    """The namespaces and their switch.

    Args:
        names: One namespace each; `HOME` is added.
        switch: Between them.
    """

    def __init__(self, names: Collection[str], switch: Switch) -> None:
        self.switch = switch
        self._space = {name: f"{_PREFIX}{os.getpid()}-{name}" for name in names}
        self._number = {name: number for number, name in enumerate((HOME, *names), start=1)}

    def host(self, name: str) -> str:
        """A namespace's address."""
        return f"10.77.3.{self._number.get(name, 1)}"

    def prefix(self, name: str) -> tuple[str, ...]:
        """What runs a command in a namespace."""
        space = self._space.get(name)
        return ("ip", "netns", "exec", space) if space else ()

    def build(self) -> None:
        """Make them."""
        for name, space in self._space.items():
            _ip("netns", "add", space)
            _ip("-n", space, "link", "set", "lo", "up")
            self._plug(name, space)
        self._plug(HOME, None)

    def tear_down(self) -> None:
        """Delete them."""
        self.switch.close()
        for space in self._space.values():
            _ip("netns", "del", space, check=False)

    def _plug(self, name: str, space: str | None) -> None:
        device = f"hf{os.getpid() % 100000}x{self._number[name]}"
        descriptor = os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        request = struct.pack("16sH22x", device.encode(), _TAP_WITHOUT_HEADER)
        fcntl.ioctl(descriptor, _TUNSETIFF, request)
        where: tuple[str, ...] = ()
        if space is not None:
            _ip("link", "set", device, "netns", space)
            where = ("-n", space)
        _ip(*where, "address", "add", f"{self.host(name)}/24", "dev", device)
        _ip(*where, "link", "set", device, "mtu", "1400", "up")
        self.switch.add(name, descriptor)


@contextlib.asynccontextmanager
async def wires(names: Collection[str], seed: int) -> AsyncIterator[Wires]:
    """A network for these names.

    Raises:
        CannotMeasure: No root, no `ip`, or no TAP devices here.
    """
    if os.geteuid() != 0:
        raise CannotMeasure("network namespaces need root")
    if not TUN.exists():  # noqa: ASYNC240 - a look at /dev
        raise CannotMeasure(f"the kernel offers no {TUN}")
    _sweep()
    made = Wires(names, Switch(random.Random(seed)))
    try:
        made.build()
        yield made
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise CannotMeasure(f"`ip netns` does not work here: {error}") from error
    finally:
        made.tear_down()


def _sweep() -> None:
    """Delete namespaces whose process is gone."""
    for left in NAMESPACES.glob(f"{_PREFIX}*"):
        owner = left.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            _ip("netns", "del", left.name, check=False)


def _ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=True)
