"""The one line that a new peer pastes: `helix1…`.

It carries where to enter, which swarm and model, and a bearer grant (credentials.py). Whoever holds
it can join, so it is handed over like a password.

    helix1 ‖ base58(canonical bytes ‖ first 4 bytes of their SHA-256)

base58 has no character that mail or a terminal breaks; the checksum finds a line cut short.

Always: an invite that was read is consistent: its grant is signed by its root, for its key.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

import base58
import msgspec

from helix_p2p import codec
from helix_p2p.errors import InviteError, ProtocolError
from helix_p2p.identity import Identity, Signed
from helix_p2p.membership.credentials import (
    ALL_ROLES,
    GRANT_KIND,
    OPEN_PREFIX,
    Grant,
    Role,
    certify,
    grant,
    is_open,
    open_grant,
    swarm_id_of,
    utc,
)

INVITE_PREFIX = "helix1"
INVITE_LIMIT_CHARACTERS = 4096
CHECKSUM_BYTES = 4
_OPEN_SWARM = re.compile(rf"{OPEN_PREFIX}[a-z2-7]{{1,64}}")


class _Packed(msgspec.Struct, frozen=True, array_like=True):
    """What cannot be derived, without field names: half as long as the invite's own fields."""

    open_swarm: str
    addresses: tuple[str, ...]
    model_name: str
    manifest_hash: bytes
    root_public_key: bytes
    invite_seed: bytes
    grant_body: bytes
    grant_signature: bytes


@dataclass(frozen=True, slots=True)
class Invite:
    """The way into a swarm.

    Attributes:
        swarm: Swarm id.
        addresses: Multiaddrs of bootstrap nodes, with `/p2p/…`.
        model_name: What people call the model.
        manifest_hash: Which weights exactly; empty when the bootstrap node serves any.
        root_public_key: Empty in an open swarm.
        invite_seed: The invite's private key, 32 bytes; empty in an open swarm.
        grant: The root's word on that key; None in an open swarm.
    """

    swarm: str
    addresses: tuple[str, ...]
    model_name: str
    manifest_hash: str
    root_public_key: bytes = b""
    invite_seed: bytes = b""
    grant: Signed | None = None

    @property
    def trusted(self) -> bool:
        """False for an open swarm, whose members nobody vouches for."""
        return self.grant is not None

    def granted(self) -> Grant | None:
        """What the root allows; None in an open swarm."""
        if self.grant is None:
            return None
        return open_grant(self.grant, self.swarm, self.root_public_key)

    def to_text(self) -> str:
        """As one line."""
        packed = _Packed(
            "" if self.grant else self.swarm,
            self.addresses,
            self.model_name,
            bytes.fromhex(self.manifest_hash),
            self.root_public_key,
            self.invite_seed,
            self.grant.body if self.grant else b"",
            self.grant.signature if self.grant else b"",
        )
        body = codec.encode(packed)
        return INVITE_PREFIX + base58.b58encode(body + _checksum(body)).decode()

    def credentials_for(self, public_key: bytes) -> bytes:
        """The certificate chain of a peer that joins with this invite; empty in an open swarm."""
        if self.grant is None:
            return b""
        return certify(Identity(self.invite_seed), self.grant, public_key)

    def check(self, now_unix_s: float, swarm: str | None = None) -> None:
        """Whether it can be used now.

        Args:
            now_unix_s: Wall clock.
            swarm: The swarm that this peer already belongs to, if any.

        Raises:
            InviteError: It is for another swarm, or has expired.
        """
        if swarm is not None and swarm != self.swarm:
            raise InviteError(
                f"this invite is for the swarm {self.swarm}, not for {swarm}",
                hint="use an invite of your swarm, or another state folder",
            )
        granted = self.granted()
        if granted is not None and not now_unix_s < granted.expires_unix_s:
            raise InviteError(
                f"this invite expired on {utc(granted.expires_unix_s)}",
                hint="ask the swarm's operator for a new one",
            )


def create_invite(
    *,
    root: Identity,
    invite_seed: bytes,
    addresses: Collection[str],
    model_name: str,
    manifest_hash: str,
    expires_unix_s: float,
    roles: Collection[Role] = ALL_ROLES,
) -> Invite:
    """An invite to the swarm of `root`; `invite_seed` are 32 fresh random bytes."""
    return Invite(
        swarm=swarm_id_of(root.public_key),
        addresses=tuple(addresses),
        model_name=model_name,
        manifest_hash=manifest_hash,
        root_public_key=root.public_key,
        invite_seed=invite_seed,
        grant=grant(root, Identity(invite_seed), roles, expires_unix_s),
    )


def read_invite(text: str) -> Invite:
    """Read a pasted invite; spaces and line breaks that crept in do no harm.

    Raises:
        InviteError: It is not an invite, was cut short, or contradicts itself.
    """
    again = "copy the whole line again, from helix1 to its end"
    line = "".join(text.split())
    if not line.startswith(INVITE_PREFIX):
        raise InviteError(f"an invite begins with {INVITE_PREFIX}, this does not", hint=again)
    if len(line) > INVITE_LIMIT_CHARACTERS:
        raise InviteError("this is too long to be an invite", hint=again)
    try:
        data = base58.b58decode(line[len(INVITE_PREFIX) :])
    except ValueError as error:
        raise InviteError("this invite has characters that no invite has", hint=again) from error
    body, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
    if len(data) <= CHECKSUM_BYTES or _checksum(body) != checksum:
        raise InviteError("this invite's checksum is wrong: part of it is missing", hint=again)
    try:
        invite = _unpacked(codec.decode(body, _Packed, limit_bytes=INVITE_LIMIT_CHARACTERS))
        _check_consistent(invite)
    except ProtocolError as error:
        raise InviteError(f"this invite is unusable: {error}", hint="ask for a new one") from error
    return invite


def _unpacked(packed: _Packed) -> Invite:
    root, granted = packed.root_public_key, None
    swarm = packed.open_swarm
    if not swarm:
        swarm = swarm_id_of(root)
        granted = Signed(GRANT_KIND, swarm, packed.grant_body, root, packed.grant_signature)
    return Invite(
        swarm,
        packed.addresses,
        packed.model_name,
        packed.manifest_hash.hex(),
        root,
        packed.invite_seed,
        granted,
    )


def _check_consistent(invite: Invite) -> None:
    if is_open(invite.swarm):
        if not _OPEN_SWARM.fullmatch(invite.swarm):
            raise InviteError("this invite names no swarm that there can be")
        if invite.grant is not None:
            raise InviteError("this invite names an open swarm, yet brings a grant")
        return
    granted = invite.granted()
    if granted is None:
        raise InviteError("this invite brings no grant of the swarm's root")
    if len(invite.invite_seed) != 32:
        raise InviteError("this invite brings no key")
    if Identity(invite.invite_seed).public_key != granted.invite_public_key:
        raise InviteError("this invite's key is not the one that was granted")


def _checksum(body: bytes) -> bytes:
    return codec.sha256(body)[:CHECKSUM_BYTES]
