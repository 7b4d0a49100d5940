"""The first frame: whom we talk to."""

from dataclasses import replace

import pytest

from helix_p2p.errors import HandshakeRefused
from helix_p2p.membership.cells import cell_id
from helix_p2p.membership.credentials import ALL_ROLES, Role, certify, grant, swarm_id_of
from helix_p2p.membership.handshake import Admission, check_hello
from helix_p2p.membership.messages import Hello

from .makers import UNIX_S, identity, peer

ROOT, INVITE = identity(100), identity(101)
MANIFEST = "ab" * 32
ADMISSION = Admission(swarm_id_of(ROOT.public_key), MANIFEST, ROOT.public_key)
CHAIN = certify(INVITE, grant(ROOT, INVITE, ALL_ROLES, UNIX_S + 100), identity(1).public_key)
HELLO = replace(ADMISSION, credentials=CHAIN).hello(bytes(16))


def check(hello: Hello = HELLO, admission: Admission = ADMISSION, who: int = 1) -> frozenset[Role]:
    return check_hello(hello, admission, remote=peer(who), now_unix_s=UNIX_S)


def test_member_of_our_swarm_and_model_is_admitted() -> None:
    assert check() == ALL_ROLES


@pytest.mark.parametrize(
    ("bent", "words"),
    [
        (replace(HELLO, protocol_version=2), "protocol version 2"),
        (replace(HELLO, swarm="elsewhere"), "of the swarm elsewhere"),
        (replace(HELLO, manifest_hash="cd" * 32), "other weights"),
        (replace(HELLO, credentials=b""), "no membership certificate"),
        (replace(HELLO, credentials=CHAIN[:-1]), "unusable"),
        (replace(HELLO, nonce=b""), "nonce"),
    ],
)
def test_every_mismatch_is_refused_with_its_reason(bent: Hello, words: str) -> None:
    with pytest.raises(HandshakeRefused, match=words):
        check(bent)


def test_overheard_certificate_is_of_no_use_to_another_peer() -> None:
    with pytest.raises(HandshakeRefused, match="another peer"):
        check(who=2)


def test_client_and_bootstrap_node_need_no_model_but_are_no_peers() -> None:
    assert check(replace(HELLO, manifest_hash="")) == {Role.CLIENT}
    assert check(admission=replace(ADMISSION, manifest_hash="")) == ALL_ROLES


def test_open_swarm_takes_anyone_of_the_same_model() -> None:
    open_admission = Admission("open-x", MANIFEST)
    hello = open_admission.hello(bytes(16))
    assert check(hello, open_admission, who=7) == ALL_ROLES


def test_members_of_one_cell_let_in_only_their_own_though_the_certificate_is_the_swarms() -> None:
    """Who crashed in one cell and came back in another is not taken for alive in the first."""
    third, second = (
        replace(ADMISSION, swarm=cell_id(ADMISSION.swarm, cell), credentials=CHAIN)
        for cell in (3, 2)
    )
    assert check(third.hello(bytes(16)), third) == ALL_ROLES
    for other in (second, ADMISSION):
        with pytest.raises(HandshakeRefused, match="of the swarm"):
            check(third.hello(bytes(16)), other)
        with pytest.raises(HandshakeRefused, match="of the swarm"):
            check(other.hello(bytes(16)), third)
