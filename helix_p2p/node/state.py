"""What a node keeps on disk: keys, the high-water mark, who was revoked, the peers it knew.

Always: one process owns a state folder (a lock says so); a file is written whole or not at all
(temporary file, fsync, rename, fsync of the folder), so a crash or a full disk leaves the old one;
what is read back is checked, and damage is an error with a way out, never a silent fresh start,
because a peer that forgets its high-water mark could adopt a plan that is over. Files and folder
are the owner's alone (0600, 0700).

The recipe for durable replacement is that of SQLite's and LevelDB's manifest files; see also
Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014, §3.
"""

import contextlib
import fcntl
import hashlib
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from helix_p2p import codec
from helix_p2p.errors import ConfigError, DecodeError, HelixError
from helix_p2p.identity import Identity, Signed
from helix_p2p.membership.cell_count import later_of
from helix_p2p.membership.cells import swarm_of
from helix_p2p.membership.revocations import newer_of

T = TypeVar("T")

IDENTITY_FILE = "identity.key"
SWARM_KEY_FILE = "swarm.key"
HIGH_WATER_FILE = "high-water"
KNOWN_PEERS_FILE = "known-peers"
REVOCATIONS_FILE = "revocations"
CELLS_FILE = "cells"
LOCK_FILE = "lock"

_MAGIC = b"helix-p2p state 1\n"
_DIGEST_BYTES = 32
_VALUE_LIMIT_BYTES = 2 * 1024 * 1024
_KNOWN_PEERS_KEPT = 256


@dataclass(frozen=True, slots=True)
class HighWaterMark:
    """The highest plan this node adopted, in the swarm's total order.

    Attributes:
        swarm: The swarm, or cell, it belongs to; another one starts from zero.
        order: `SignedPlan.order`: epoch, tie, plan hash.
    """

    swarm: str
    order: tuple[int, bytes, bytes]


class StateDir:
    """A node's folder of state, held by this process alone until `close`.

    Args:
        path: Made if it is not there.

    Raises:
        ConfigError: It cannot be made or written, or another process holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._made = not path.exists()
        self._lock = _hold(path)
        for torn in path.glob(".*.new"):  # a crash left them; nobody else may write here
            torn.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another process have the folder; safe to call twice.

        A start that failed before anything was worth keeping leaves nothing behind.
        """
        if self._lock < 0:
            return
        with contextlib.suppress(OSError):
            if [it.name for it in self.path.iterdir()] == [LOCK_FILE]:
                (self.path / LOCK_FILE).unlink()
                if self._made:
                    self.path.rmdir()
        os.close(self._lock)
        self._lock = -1

    def identity(self) -> Identity:
        """This node's own key, made the first time."""
        return load_or_create_key(self.path / IDENTITY_FILE)

    def swarm_key(self) -> Identity:
        """The swarm's root key, made the first time; only bootstrap nodes have one."""
        return load_or_create_key(self.path / SWARM_KEY_FILE)

    def high_water(self, swarm: str) -> HighWaterMark | None:
        """The mark of this swarm, or cell; None before its first plan."""
        mark = read_value(self._high_water_path(swarm), HighWaterMark)
        return mark if mark is not None and mark.swarm == swarm else None

    def raise_high_water(self, mark: HighWaterMark) -> None:
        """Put a mark on disk; it is there for good when this returns.

        Raises:
            ValueError: It is lower than the one on disk, which is a bug of the caller.
            ConfigError: The disk refused; the old mark stands.
        """
        held = self.high_water(mark.swarm)
        if held is not None and mark.order < held.order:
            raise ValueError(f"the high-water mark would fall from {held.order} to {mark.order}")
        write_value(self._high_water_path(mark.swarm), mark)

    def _high_water_path(self, swarm: str) -> Path:
        """Each cell has its own, so that who moves and comes back has not forgotten."""
        return self.path / (HIGH_WATER_FILE + swarm.removeprefix(swarm_of(swarm)))

    def revocations(self) -> Signed | None:
        """The root's last list; a damaged one is an error, since it would let people back in."""
        return read_value(self.path / REVOCATIONS_FILE, Signed)

    def keep_revocations(self, record: Signed) -> None:
        """Keep the root's list for the next start, unless a newer one lies there already."""
        change_revocations(self.path, lambda held: newer_of(record, held))

    def cells(self) -> Signed | None:
        """The root's last word on how many cells there are."""
        return read_value(self.path / CELLS_FILE, Signed)

    def keep_cells(self, record: Signed) -> None:
        """Keep the root's word for the next start, unless a later one lies there already.

        A damaged file is replaced: the word is signed, and others have it too.
        """
        try:
            change_cells(self.path, lambda held: later_of(record, held))
        except HelixError:
            write_value(self.path / CELLS_FILE, record)

    def known_peers(self) -> tuple[str, ...]:
        """Multiaddrs that led into the swarm before; a damaged list counts as empty."""
        with contextlib.suppress(ConfigError):
            return read_value(self.path / KNOWN_PEERS_FILE, tuple[str, ...]) or ()
        return ()

    def remember_peers(self, addresses: tuple[str, ...]) -> None:
        """Keep the first 256 multiaddrs for the next start."""
        write_value(self.path / KNOWN_PEERS_FILE, addresses[:_KNOWN_PEERS_KEPT])


Change = Callable[[Signed | None], Signed]
"""From what the root said last to what it says now."""


def change_revocations(path: Path, change: Change) -> Signed:
    """Replace the list of revocations in a state folder by what `change` makes of it.

    Returns:
        What lies there now.

    Raises:
        ConfigError: The list is damaged, or the disk refused; the old list stands.
    """
    return _change(path, REVOCATIONS_FILE, change)


def change_cells(path: Path, change: Change) -> Signed:
    """Likewise the number of cells."""
    return _change(path, CELLS_FILE, change)


def _change(path: Path, name: str, change: Change) -> Signed:
    """The operator's command does it beside the running node, so both take turns at a lock."""
    try:
        turn = os.open(path / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)
        held = read_value(path / name, Signed)
        changed = change(held)
        if changed != held:
            write_value(path / name, changed)
        return changed
    finally:
        os.close(turn)


def _hold(path: Path) -> int:
    """Make the folder if it is not there and lock it; the lock's descriptor."""
    while True:
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # its last holder is just taking the folder away
        except OSError as error:
            raise _unusable(path, error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), (path / LOCK_FILE).stat()):
                return lock
        except FileNotFoundError:
            pass  # it was taken away between the opening and the locking
        except OSError as error:
            os.close(lock)
            raise ConfigError(
                f"another process uses the state folder {path}",
                hint="stop it, or give this one a --state-dir of its own",
            ) from error
        os.close(lock)


def load_or_create_key(path: Path) -> Identity:
    """Read an Ed25519 key in the form of libp2p's daemon, or make one and keep it (0600).

    Raises:
        ConfigError: The file is damaged, or cannot be read or written.
    """
    try:
        stored = path.read_bytes()
    except FileNotFoundError:
        identity = Identity(secrets.token_bytes(32))
        write_atomically(path, identity.to_libp2p())
        return identity
    except OSError as error:
        raise _unusable(path, error) from error
    identity = Identity(stored[4:36].ljust(32, b"\0"))
    if identity.to_libp2p() != stored:
        raise ConfigError(
            f"the key in {path} is damaged",
            hint="restore it from a copy, or move it away to get a new one",
        )
    return identity


def read_value(path: Path, of: type[T]) -> T | None:
    """A value that `write_value` wrote; None where there is no file.

    Raises:
        ConfigError: The file is damaged or cannot be read.
    """
    try:
        stored = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, error) from error
    digest, body = stored[len(_MAGIC) :][:_DIGEST_BYTES], stored[len(_MAGIC) + _DIGEST_BYTES :]
    damaged = ConfigError(
        f"the state file {path} is damaged",
        hint="restore it from a copy; without it this node forgets what it adopted",
    )
    if not stored.startswith(_MAGIC) or hashlib.sha256(body).digest() != digest:
        raise damaged
    try:
        return codec.decode(body, of, limit_bytes=_VALUE_LIMIT_BYTES)
    except DecodeError as error:
        raise damaged from error


def write_value(path: Path, value: object) -> None:
    """Replace a file by the canonical bytes of `value` and a checksum.

    Raises:
        ConfigError: The disk refused; the old file stands.
    """
    body = codec.encode(value)
    write_atomically(path, _MAGIC + hashlib.sha256(body).digest() + body)


def write_atomically(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace a file as a whole, durably.

    Raises:
        ConfigError: The disk refused; the old file stands and no temporary one is left.
    """
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        fresh.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise _unusable(path, error) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unusable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"{path} cannot be used: {error.strerror or error}",
        hint="check its permissions and the free disk, or choose another --state-dir",
    )
