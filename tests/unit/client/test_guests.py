import pytest

from helix_p2p.errors import HandshakeRefused
from helix_p2p.identity import Identity
from helix_p2p.membership.credentials import Role, open_swarm_id_of, swarm_id_of
from helix_p2p.membership.handshake import Admission, check_hello
from helix_p2p.membership.messages import Hello

GUEST = Identity(bytes(32))
OPEN = open_swarm_id_of("m")


def hello(swarm: str = "", manifest_hash: str = "") -> Hello:
    return Hello(1, swarm, manifest_hash, b"", bytes(16))


def test_open_swarm_lets_a_client_in_that_does_not_know_its_name():
    roles = check_hello(hello(), Admission(OPEN, "m"), remote=GUEST.peer_id, now_unix_s=0.0)
    assert roles == {Role.CLIENT}


@pytest.mark.parametrize(
    ("said", "admission"),
    [
        (hello(), Admission(swarm_id_of(bytes(32)), "m", bytes(32))),
        (hello(manifest_hash="m"), Admission(OPEN, "m")),
        (hello("open-other"), Admission(OPEN, "m")),
    ],
    ids=["closed swarm", "as a peer", "another swarm"],
)
def test_nobody_else_comes_in_without_the_swarms_name(said: Hello, admission: Admission):
    with pytest.raises(HandshakeRefused):
        check_hello(said, admission, remote=GUEST.peer_id, now_unix_s=0.0)
