"""What is remembered of checked records never lets another record through."""

from dataclasses import replace

import pytest

from helix_p2p import codec
from helix_p2p.cluster.announcement import (
    LARGEST_SIZE_BYTES,
    Announcement,
    PeerState,
    open_announcement,
)
from helix_p2p.cluster.model import HeldSizes
from helix_p2p.errors import RecordRejected, SignatureError
from helix_p2p.identity import Identity

SWARM = "a swarm"
OWNER, OTHER = Identity(codec.sha256(b"owner")), Identity(codec.sha256(b"other"))
SAID = Announcement(1, 1, 1.0, "", PeerState.STANDBY, 10)


def test_changed_copy_of_a_record_that_held_is_refused() -> None:
    good = SAID.signed(OWNER, SWARM)
    assert open_announcement(good, SWARM) == SAID
    richer = codec.encode(replace(SAID, memory_bytes=11))
    for bad in (
        replace(good, body=richer),
        replace(good, public_key=OTHER.public_key),
        replace(good, signature=bytes(64)),
        replace(good, kind="plan"),
    ):
        with pytest.raises(SignatureError):
            open_announcement(bad, SWARM)
    with pytest.raises(SignatureError):
        open_announcement(good, "another swarm")


@pytest.mark.parametrize(
    "held",
    [
        HeldSizes(0, 1, 1, 1),
        HeldSizes(1, -1, 1, 1),
        HeldSizes(1, 1, LARGEST_SIZE_BYTES + 1, 1),
        HeldSizes(1, 1, 1, 2**62),
    ],
)
def test_sizes_that_no_part_of_a_model_has_are_refused(held: HeldSizes) -> None:
    sound = replace(SAID, held=HeldSizes(1, 0, LARGEST_SIZE_BYTES, 0))
    assert open_announcement(sound.signed(OWNER, SWARM), SWARM) == sound
    with pytest.raises(RecordRejected):
        open_announcement(replace(SAID, held=held).signed(OWNER, SWARM), SWARM)


def test_signature_that_failed_once_fails_again() -> None:
    bad = replace(SAID.signed(OWNER, SWARM), signature=bytes(64))
    for _ in range(2):
        with pytest.raises(SignatureError):
            bad.verify(kind="announcement", swarm=SWARM)
