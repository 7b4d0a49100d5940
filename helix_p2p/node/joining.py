"""From an invite, or the addresses of an open swarm, to everything a member needs to belong.

Always: what is returned is consistent (the invite holds now, names this model, and its certificate
is for this key), and nothing was written to disk on the way.
"""

from dataclasses import dataclass

from helix_p2p.errors import ConfigError, ModelError
from helix_p2p.identity import Identity
from helix_p2p.membership.credentials import (
    ALL_ROLES,
    certify,
    grant,
    open_swarm_id_of,
    swarm_id_of,
)
from helix_p2p.membership.handshake import Admission
from helix_p2p.membership.invite import Invite, read_invite

_FOR_EVER_UNIX_S = 32_503_680_000.0  # the year 3000


@dataclass(frozen=True, slots=True)
class Belonging:
    """A member's place in a swarm.

    Attributes:
        swarm: Swarm id.
        bootstrap: Multiaddrs by which it comes in.
        manifest_hash: The model it serves.
        root_public_key: None in an open swarm.
        credentials: Its certificate chain; empty in an open swarm.
    """

    swarm: str
    bootstrap: tuple[str, ...]
    manifest_hash: str
    root_public_key: bytes | None
    credentials: bytes

    @property
    def trusted(self) -> bool:
        """False where nobody vouches for the members."""
        return self.root_public_key is not None

    def admission(self) -> Admission:
        """Whom to let in, and what to show."""
        return Admission(
            swarm=self.swarm,
            manifest_hash=self.manifest_hash,
            root_public_key=self.root_public_key,
            credentials=self.credentials,
        )


def usable_invite(text: str, now_unix_s: float) -> Invite:
    """Read an invite that is to be used now.

    Raises:
        InviteError: Malformed, or expired.
    """
    invite = read_invite(text)
    invite.check(now_unix_s)
    return invite


def belong(
    bootstrap: tuple[str, ...], invite: Invite | None, identity: Identity, manifest_hash: str
) -> Belonging:
    """Join the swarm of an invite, or without one the open swarm of the model.

    Raises:
        ModelError, ConfigError: As the two below.
    """
    if invite is not None:
        return belong_by_invite(invite, identity, manifest_hash)
    return belong_to_open_swarm(bootstrap, manifest_hash)


def belong_by_invite(
    invite: Invite, identity: Identity, manifest_hash: str, extra: tuple[str, ...] = ()
) -> Belonging:
    """Join the swarm of an invite.

    Args:
        invite: Read and checked.
        identity: Ours.
        manifest_hash: Of the model at hand.
        extra: More addresses to try, e.g. peers known from before.

    Raises:
        ModelError: The model at hand is not the swarm's.
    """
    if invite.manifest_hash and invite.manifest_hash != manifest_hash:
        raise ModelError(
            f"this model (manifest {manifest_hash[:12]}) is not the one that the swarm serves "
            f"({invite.model_name}, manifest {invite.manifest_hash[:12]})",
            hint="give the folder with the swarm's exact weights with --model",
        )
    return Belonging(
        swarm=invite.swarm,
        bootstrap=(*invite.addresses, *extra),
        manifest_hash=manifest_hash,
        root_public_key=invite.root_public_key if invite.trusted else None,
        credentials=invite.credentials_for(identity.public_key),
    )


def belong_to_open_swarm(
    bootstrap: tuple[str, ...], manifest_hash: str, extra: tuple[str, ...] = ()
) -> Belonging:
    """Join the open swarm of a model; it is named by the model, so no invite is needed.

    Raises:
        ConfigError: No way in was given.
    """
    if not bootstrap:
        raise ConfigError("no bootstrap address is given", hint="paste an invite, or --bootstrap")
    return Belonging(
        open_swarm_id_of(manifest_hash), (*bootstrap, *extra), manifest_hash, None, b""
    )


def found_swarm(
    root: Identity, identity: Identity, manifest_hash: str, bootstrap: tuple[str, ...] = ()
) -> Belonging:
    """A bootstrap node's place in the swarm whose root key it holds: it vouches for itself."""
    own = Identity(root.seed[::-1])
    granted = grant(root, own, ALL_ROLES, _FOR_EVER_UNIX_S)
    return Belonging(
        swarm_id_of(root.public_key),
        bootstrap,
        manifest_hash,
        root.public_key,
        certify(own, granted, identity.public_key),
    )
