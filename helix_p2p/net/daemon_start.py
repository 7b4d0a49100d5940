"""Starting go-libp2p's daemon: its options, its private folder, and why it did not start.

Always: the daemon runs in a session of its own, so Ctrl-C reaches only us and a graceful leave has
its network until the end; folders that a killed predecessor left are swept when nobody listens on
their sockets any more.
"""

import asyncio
import contextlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from helix_p2p.errors import ConfigError
from helix_p2p.net.lean_hivemind import Hivemind

FOLDER_PREFIX = "helix-p2p-"
CONTROL_SOCKET = "control"
IDLE_TIMEOUT_S = 20
"""The daemon ends when nobody opened a persistent connection for this long."""
STARTING_S = 600.0
"""No start takes longer; a folder that is still empty then is a dead one's."""
MESSAGE_LIMIT_BYTES = 4 * 1024 * 1024
"""For hivemind's unary calls (the DHT); the data plane does not pass there."""


@dataclass(frozen=True, slots=True)
class DaemonOptions:
    """How to run it.

    Attributes:
        identity_file: libp2p private key.
        listen: Multiaddrs to listen on.
        announce: Multiaddrs to tell others instead; empty: what libp2p finds out.
        relays: Peers that may relay for us, behind NAT.
        nat: Port mapping, reachability checks, relays.
        threads: GOMAXPROCS; None leaves it to Go.
        verbose: Let the daemon's own log through.
    """

    identity_file: Path
    listen: Sequence[str]
    announce: Sequence[str] = ()
    relays: Sequence[str] = ()
    nat: bool = False
    threads: int | None = 1
    verbose: bool = False


def make_folder() -> Path:
    """A private folder (0700) for the daemon's sockets; sweeps what dead ones left."""
    parent = Path(tempfile.gettempdir())
    for left in parent.glob(f"{FOLDER_PREFIX}*"):
        with contextlib.suppress(OSError):
            if left.stat().st_uid == os.getuid() and _is_dead(left):
                shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))


def _is_dead(folder: Path) -> bool:
    """Whether nobody listens there any more; a daemon that is just starting has no socket yet."""
    sockets = list(folder.iterdir())
    if not sockets:
        return time.time() - folder.stat().st_mtime > STARTING_S
    return all(_is_refused(path) for path in sockets)


def _is_refused(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(0.2)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
        return False


async def spawn(
    library: Hivemind, options: DaemonOptions, folder: Path
) -> asyncio.subprocess.Process:
    """Start the process.

    Raises:
        ConfigError: There is no daemon for this platform.
    """
    arguments = {
        "listen": f"/unix{folder / CONTROL_SOCKET}",
        "id": str(options.identity_file),
        "hostAddrs": ",".join(options.listen),
        "announceAddrs": ",".join(options.announce),
        "trustedRelays": ",".join(options.relays),
        "idleTimeout": f"{IDLE_TIMEOUT_S}s",
        "persistentConnMaxMsgSize": str(MESSAGE_LIMIT_BYTES),
        "dhtServer": "1",
        "connManager": "1",
        "tls": "1",
        "b": "0",
        "autonat": str(int(options.nat)),
        "natPortMap": str(int(options.nat)),
        "autoRelay": str(int(options.nat and bool(options.relays))),
        "relay": str(int(options.nat)),
        "relayService": str(int(options.nat)),
    }
    environment = dict(os.environ)
    environment.setdefault("GOLOG_LOG_LEVEL", "info" if options.verbose else "fatal")
    if options.threads is not None:
        environment["GOMAXPROCS"] = str(options.threads)
    try:
        return await asyncio.create_subprocess_exec(
            str(library.daemon),
            *(f"-{name}={value}" for name, value in arguments.items() if value),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise ConfigError(
            f"the libp2p daemon cannot be started: {error}",
            hint="hivemind has it for Linux x86-64 and arm64 and for macOS arm64",
        ) from error


def start_error(last_line: str, options: DaemonOptions) -> ConfigError:
    """What the daemon's last words mean to whoever started it."""
    where = ", ".join(options.listen)
    if "address already in use" in last_line:
        return ConfigError(
            f"cannot listen on {where}: the port is in use",
            hint="choose another port, or 0 for any free one",
        )
    if "failed to listen" in last_line:
        reason = last_line.rsplit(": ", 1)[-1].rstrip("]")
        return ConfigError(f"cannot listen on {where}: {reason}", hint="check the address")
    return ConfigError(f"the libp2p daemon did not start: {last_line or 'it said nothing'}")
