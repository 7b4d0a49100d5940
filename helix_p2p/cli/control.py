"""Asking the node that runs on this machine how it is: a unix socket in its state folder.

One JSON object per connection, then the end. Always: the socket is its owner's alone; asking
needs no network, no key and no import of asyncio, so `status` answers at once; whoever asks and
never reads does not hold anything up.
"""

import asyncio
import contextlib
import hashlib
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from helix_p2p.errors import ConfigError, DeadlineExceeded, DecodeError, PeerUnreachable
from helix_p2p.node.status import STATUS_LIMIT_BYTES, status_object

_LONGEST_PATH_BYTES = 100  # a unix socket's path has 103 (macOS) or 107 (Linux)
_WRITE_DEADLINE_S = 5.0


def socket_path(state_dir: Path) -> Path:
    """Where the node of this state folder listens."""
    path = state_dir.absolute() / "status.sock"
    if len(os.fsencode(path)) <= _LONGEST_PATH_BYTES:
        return path
    short = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"helix-status-{os.getuid()}-{short}.sock"


@contextlib.asynccontextmanager
async def serving_status(state_dir: Path, status: Callable[[], bytes]) -> AsyncIterator[None]:
    """Answer on the socket of `state_dir` for as long as the context lasts.

    The caller holds the folder's lock, so a socket that lies there already is a dead one.

    Args:
        state_dir: The node's folder.
        status: Gives its status as JSON, at once.
    """
    path = socket_path(state_dir)

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_WRITE_DEADLINE_S):
                writer.write(status())
                await writer.drain()
        writer.close()

    path.unlink(missing_ok=True)
    before = os.umask(0o177)  # asyncio has no other way to set a socket's mode before it listens
    try:
        server = await asyncio.start_unix_server(answer, path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be made: {error.strerror}") from error
    finally:
        os.umask(before)
    try:
        async with server:
            yield
    finally:
        path.unlink(missing_ok=True)


def ask_status(state_dir: Path, timeout_s: float = 5.0) -> dict[str, Any]:
    """What the node of this state folder says of itself.

    Raises:
        PeerUnreachable: None runs there.
        DeadlineExceeded: It did not answer in time.
    """
    path = socket_path(state_dir)
    answer = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(os.fspath(path))
            while chunk := connection.recv(65536):
                answer += chunk
                if len(answer) > STATUS_LIMIT_BYTES:
                    break
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"the process of {state_dir} did not answer within {timeout_s:g} s"
            ) from error
        except OSError as error:
            raise PeerUnreachable(
                f"nothing runs with the state folder {state_dir}",
                hint="start it, or name its --state-dir",
            ) from error
    try:
        return status_object(answer)
    except DecodeError as error:
        raise PeerUnreachable(f"the process of {state_dir} ended while it answered") from error
