"""What a volunteer is told of its machine's worth to the swarm."""

import asyncio
from dataclasses import replace
from typing import cast

import pytest

from helix_p2p.cluster.announcement import Announcement
from helix_p2p.cluster.model import ModelSpec
from helix_p2p.cluster.profile import SpeedProfile
from helix_p2p.cluster.snapshot import Snapshot, snapshot_of
from helix_p2p.membership.member import Member
from helix_p2p.node import worth
from helix_p2p.node.events import NodeEvent
from helix_p2p.node.worth import worth_event
from helix_p2p.types import PeerId
from tests.unit.membership.makers import announcement

MODEL = ModelSpec("test/model", "ab" * 32, 6, 8, 100, 2048, 1_000, 0, 0, 1, 32)
SPEED = SpeedProfile(prefill=((64, 0.01),), decode=((1, 0.001), (8, 0.002)))
ME, OTHER = PeerId("me"), PeerId("other")
WHOLE = announcement(memory_bytes=200_000, speed=SPEED)
"""Room for the whole model and a few answers."""


def swarm(said: dict[PeerId, Announcement]) -> Snapshot:
    return snapshot_of(MODEL, said.items())


def test_machine_beside_another_adds_tokens_a_second() -> None:
    event = worth_event(swarm({ME: WHOLE, OTHER: WHOLE}), ME)
    assert event is not None
    assert event.data["tokens_per_s"] > 0
    assert f"{event.data['tokens_per_s']:.1f} tokens/s more" in event.text


def test_machine_too_small_for_a_layer_is_told_that_it_stands_in() -> None:
    small = replace(WHOLE, memory_bytes=10)
    event = worth_event(swarm({ME: small, OTHER: WHOLE}), ME)
    assert event is not None
    assert event.data["tokens_per_s"] == 0
    assert "stands in" in event.text


def test_machine_alone_is_told_nothing() -> None:
    assert worth_event(swarm({ME: WHOLE}), ME) is None
    assert worth_event(swarm({OTHER: WHOLE}), ME) is None


async def test_peer_that_cannot_work_it_out_says_nothing_and_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> int:
        raise ZeroDivisionError

    class Here:
        peer_id = ME

        def snapshot(self) -> Snapshot:
            return swarm({ME: WHOLE, OTHER: WHOLE})

    monkeypatch.setattr(worth, "value_at_join", fail)
    counted, said = asyncio.Event(), list[NodeEvent]()
    counted.set()
    await worth.tell_worth(cast("Member", Here()), counted, said.append)
    assert said == []
