"""What is remembered of checked records never lets another record through."""

from dataclasses import fields, replace

import pytest

from helix_p2p import codec
from helix_p2p.cluster.announcement import (
    LARGEST_SIZE_BYTES,
    WORD_LIFE_S,
    Announcement,
    LinkMeasurement,
    PaceMeasurement,
    PeerState,
    content_of,
    open_announcement,
    word_of,
)
from helix_p2p.cluster.model import HeldSizes
from helix_p2p.cluster.profile import SpeedProfile
from helix_p2p.errors import RecordRejected, SignatureError
from helix_p2p.identity import Identity
from helix_p2p.types import LayerRange

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


PLANNED_WITH = {
    "manifest_hash": "ab",
    "memory_bytes": 11,
    "speed": SpeedProfile(prefill=((64, 0.01),), decode=((1, 0.001),)),
    "links": (LinkMeasurement(OTHER.peer_id, 0.1),),
    "may_plan": False,
    "device": "another",
    "uplink_bytes_per_s": 1.0,
    "downlink_bytes_per_s": 1.0,
    "credentials": b"others",
    "protocol_version": 2,
    "held": HeldSizes(1, 0, 0, 0),
    "paces": (PaceMeasurement(OTHER.peer_id, 2.0),),
    "issued_unix_s": 1.0 + WORD_LIFE_S,
}
HEARD = {
    "incarnation": 2,
    "since": 2,
    "state": PeerState.DRAINING,
    "serving": LayerRange(0, 1),
    "addresses": ("/ip4/1.1.1.1/tcp/1",),
    "public_name": "another",
}
PASSING = {"sequence": 2, "epoch": 2, "plan_hash": b"a hash", "issued_unix_s": 1.5}


@pytest.mark.parametrize(
    ("changes", "another_word", "another_content"),
    [
        *(({name: value}, True, True) for name, value in PLANNED_WITH.items()),
        *(({name: value}, True, False) for name, value in HEARD.items()),
        *(({name: value}, False, False) for name, value in PASSING.items()),
        ({"state": PeerState.LOADING}, False, False),
    ],
)
def test_what_is_news_and_what_makes_another_plan(
    changes: dict[str, object], another_word: bool, another_content: bool
) -> None:
    before = SAID.signed(OWNER, SWARM)
    after = replace(SAID, **changes).signed(OWNER, SWARM)  # type: ignore[arg-type]
    assert (word_of(before, SWARM) != word_of(after, SWARM)) is another_word
    assert (content_of(before, SWARM) != content_of(after, SWARM)) is another_content


def test_every_field_of_an_announcement_is_sorted_into_news_and_plans() -> None:
    known = {*PLANNED_WITH, *HEARD, *PASSING}
    assert {field.name for field in fields(Announcement)} == known, "say what a new field changes"
