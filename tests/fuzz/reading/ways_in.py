"""What a person pastes to get in: invites and addresses."""

import contextlib
from typing import Any

import base58

from helix_p2p import codec
from helix_p2p.client.way_in import read_way_in
from helix_p2p.errors import InputError
from helix_p2p.membership import credentials, invite
from helix_p2p.membership.crowd import ranges_of
from helix_p2p.net import lean_hivemind
from helix_p2p.net.libp2p import peer_of_address
from tests.fuzz.decoder import KIB, Decoder, text
from tests.fuzz.mutation import (
    mutate_path,
)
from tests.fuzz.seeds import INVITE, ME, NOW_UNIX_S, ROOT
from tests.fuzz.trees import sealed


def _invite(data: bytes) -> str:
    """Text as it is pasted; a tree becomes an invite with a right checksum."""
    if data.startswith(invite.INVITE_PREFIX.encode()):
        return data.decode(errors="replace")
    body = sealed(data)
    return invite.INVITE_PREFIX + base58.b58encode(body + codec.sha256(body)[:4]).decode()


def _read_invite(text: str) -> Any:
    found = invite.read_invite(text)
    found.check(NOW_UNIX_S)
    found.credentials_for(ME.public_key)
    return found


def _invite_seeds() -> list[bytes]:
    address = f"/ip4/203.0.113.7/tcp/4001/p2p/{ME.peer_id}"
    made = invite.create_invite(
        root=ROOT,
        invite_seed=INVITE.seed,
        addresses=(address,),
        model_name="org/model",
        manifest_hash="ab" * 32,
        expires_unix_s=NOW_UNIX_S + 1,
    )
    free = invite.Invite(credentials.open_swarm_id_of("x"), (address,), "m", "")
    texts = [made.to_text(), free.to_text()]
    bodies = [base58.b58decode(t.removeprefix(invite.INVITE_PREFIX))[:-4] for t in texts]
    return [*(text.encode() for text in texts), *bodies]


def _invite_again(found: invite.Invite) -> tuple[bytes, bytes]:
    once = found.to_text()
    return once.encode(), invite.read_invite(once).to_text().encode()


def _read_address(text: str) -> None:
    with contextlib.suppress(InputError):
        read_way_in(text, NOW_UNIX_S)
    library = lean_hivemind.load()
    with contextlib.suppress(Exception):  # as libp2p.py and daemon.py take its errors
        library.multiaddr_class(text).to_bytes()
    ranges_of((text,))
    peer = peer_of_address(text)
    with contextlib.suppress(ValueError):  # as daemon.py takes them
        library.peer_id_class.from_base58(peer).to_bytes()


DECODERS = (
    Decoder(
        "invite",
        _read_invite,
        _invite_seeds,
        invite.INVITE_LIMIT_CHARACTERS,
        (InputError,),
        _invite,
        again=_invite_again,
    ),
    Decoder(
        "address",
        _read_address,
        lambda: [
            f"{where}/p2p/{ME.peer_id}".encode()
            for where in (
                "/ip4/127.0.0.1/tcp/4001",
                "/dns4/example.org/udp/1/quic-v1",
                "/ip6/::1/tcp/9",
            )
        ],
        4 * KIB,
        (InputError,),
        text,
        mutate_path,
    ),
)
