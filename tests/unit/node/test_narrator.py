"""What people are told of a swarm: each change once, and no routine."""

from dataclasses import replace

from helix_p2p.cluster.announcement import Announcement, PeerState
from helix_p2p.membership import effects as fx
from helix_p2p.node.narrator import Narrator
from helix_p2p.types import LayerRange, PeerId

ME, DESK = PeerId("12D3KooWme"), PeerId("12D3KooWdesk")
LOADING = Announcement(1, 1, 0.0, "ab", PeerState.LOADING, 1000, public_name="desk")
SERVING = replace(LOADING, sequence=2, state=PeerState.SERVING, serving=LayerRange(0, 4))


def texts(narrator: Narrator, *effects: fx.Effect) -> list[str | None]:
    events = [narrator.event_of(effect, ME) for effect in effects]
    return [event.text if event else None for event in events]


def test_member_that_measures_itself_anew_is_not_told_again() -> None:
    faster = replace(SERVING, sequence=3, memory_bytes=9000)
    other = replace(SERVING, sequence=4, serving=LayerRange(0, 6))
    assert texts(
        Narrator(),
        fx.MemberJoined(DESK, LOADING),
        fx.MemberChanged(DESK, SERVING),
        fx.MemberChanged(DESK, faster),
        fx.MemberChanged(DESK, other),
    ) == ["desk joined", "desk is serving layers [0, 4)", None, "desk is serving layers [0, 6)"]


def test_member_that_came_back_is_told_afresh() -> None:
    narrator = Narrator()
    assert texts(
        narrator,
        fx.MemberJoined(DESK, SERVING),
        fx.MemberLost(DESK, "silent"),
        fx.MemberJoined(DESK, SERVING),
        fx.MemberChanged(DESK, SERVING),
    ) == ["desk joined", f"…{DESK[-8:]} is gone (silent)", "desk joined", None]
