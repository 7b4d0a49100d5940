"""Starting go-libp2p's daemon: its options, its private folder, and why it did not start.

Always: the daemon runs in a session of its own, so Ctrl-C reaches only us and a graceful leave has
its network until the end; our key goes to it through a pipe and is in no file that we would have
to remove; folders that a killed predecessor left are swept by the next start, whoever's it is.

A folder is in use for as long as its owner's lock on it is held, which the kernel lets go of when
that process ends, however it ends. Nobody else takes that lock but to sweep.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from helix_p2p.errors import ConfigError
from helix_p2p.identity import Identity
from helix_p2p.net.lean_hivemind import Hivemind

FOLDER_PREFIX = "helix-p2p-"
CONTROL_SOCKET = "control"
LOCK_FILE = "lock"
IDLE_TIMEOUT_S = 20
"""The daemon ends when nobody opened a persistent connection for this long."""
STARTING_S = 600.0
"""Nobody takes longer to lock a folder of his own; one without a lock is a dead one's then."""
MESSAGE_LIMIT_BYTES = 4 * 1024 * 1024
"""For hivemind's unary calls (the DHT); the data plane does not pass there."""
DAEMON_SLACK_S = 0.02
_PR_SET_TIMERSLACK = 29


@dataclass(frozen=True, slots=True)
class DaemonOptions:
    """How to run it.

    Attributes:
        identity: Who it is on the network.
        listen: Multiaddrs to listen on.
        announce: Multiaddrs to tell others instead; empty: what libp2p finds out.
        relays: Peers that may relay for us, behind NAT.
        nat: Port mapping, reachability checks, relays.
        threads: GOMAXPROCS; None leaves it to Go.
        verbose: Let the daemon's own log through.
    """

    identity: Identity
    listen: Sequence[str]
    announce: Sequence[str] = ()
    relays: Sequence[str] = ()
    nat: bool = False
    threads: int | None = 1
    verbose: bool = False


class SocketFolder:
    """A private folder (0700) for the daemon's sockets, ours until `remove`.

    Args:
        path: Where.
        lock: Descriptor of its locked file.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock: int | None = lock

    def remove(self) -> None:
        """Take it away; safe to call twice."""
        if self._lock is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = None


def make_folder() -> SocketFolder:
    """A folder of our own; sweeps what dead ones left."""
    sweep_folders()
    while True:
        path = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
        with contextlib.suppress(FileNotFoundError):  # swept, as that of one who died making it
            lock = _locked(path / LOCK_FILE, os.O_CREAT)
            if lock is not None:
                return SocketFolder(path, lock)


def sweep_folders() -> None:
    """Remove the folders of processes that are gone."""
    for path in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        with contextlib.suppress(OSError):
            if path.stat().st_uid == os.getuid():
                _sweep(path)


def _sweep(path: Path) -> None:
    try:
        lock = _locked(path / LOCK_FILE, 0)
    except FileNotFoundError:  # its maker is just about to lock it, or died then
        old = time.time() - path.stat().st_mtime > STARTING_S
        if old and all(_is_refused(socket_path) for socket_path in path.iterdir()):
            shutil.rmtree(path, ignore_errors=True)
        return
    if lock is not None:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _locked(path: Path, flags: int) -> int | None:
    """A descriptor with the lock of this file; None when somebody else holds it."""
    lock = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _is_refused(path: Path) -> bool:
    """Whether nobody listens on a socket."""
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
        "id": "/dev/stdin",
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
    key, writer = os.pipe()
    os.write(writer, options.identity.to_libp2p())  # fits into any pipe
    os.close(writer)
    try:
        with _coarse_timers():
            return await asyncio.create_subprocess_exec(
                str(library.daemon),
                *(f"-{name}={value}" for name, value in arguments.items() if value),
                stdin=key,
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
    finally:
        os.close(key)


@contextlib.contextmanager
def _coarse_timers() -> Iterator[None]:
    """Processes started meanwhile by this thread may sleep `DAEMON_SLACK_S` longer than they ask.

    Go's runtime watches itself from a thread that sleeps 20 µs at a time whenever anything is to
    do: several wake-ups for each frame, a third of what the daemon costs. Sockets wake it as
    before. Other systems than Linux know no such setting.

    Afterwards this thread has what it was born with, also where several daemons start at once.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_TIMERSLACK, int(DAEMON_SLACK_S * 1e9), 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(_PR_SET_TIMERSLACK, 0, 0, 0, 0)


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
