"""What a peer carries is computed with what the model weighs on that peer."""

from dataclasses import replace

from helix_p2p.cluster.announcement import Announcement, PeerState
from helix_p2p.cluster.model import ModelSpec
from helix_p2p.cluster.profile import SpeedProfile
from helix_p2p.cluster.snapshot import snapshot_of
from helix_p2p.planning.capacity import FIRST, MIDDLE, capacities_of
from helix_p2p.types import LayerRange, PeerId

MODEL = ModelSpec("m", "", 12, 64, 100, 2000, 1000, 400, 400, 1, 128)
SPEED = SpeedProfile(((1, 0.001),), ((1, 0.001), (64, 0.002)))
PLAIN, HALVED = PeerId("plain"), PeerId("quantised")


def test_a_peer_that_holds_layers_in_fewer_bits_is_planned_with_more_of_them():
    said = Announcement(1, 1, 0.0, "", PeerState.STANDBY, 6_000, SPEED)
    halved = replace(said, held=replace(MODEL.held, layer_bytes=500))
    snapshot = snapshot_of(MODEL, [(PLAIN, said), (HALVED, halved)])
    table = capacities_of(snapshot)
    longest = {peer: table.longest[row].tolist() for row, peer in enumerate(table.peers)}
    assert longest[PLAIN][MIDDLE] == 5
    assert longest[HALVED][MIDDLE] == 9
    assert longest[PLAIN][FIRST] == 4
    assert longest[HALVED][FIRST] == 8
    rooms = {p.peer: p.room_tokens(MODEL, LayerRange(0, 4)) for p in snapshot.peers}
    assert rooms == {PLAIN: 6_000 - 4 * 1000 - 400, HALVED: 6_000 - 4 * 500 - 400}


def test_weights_that_leave_no_room_are_no_negative_room():
    said = Announcement(1, 1, 0.0, "", PeerState.STANDBY, 3_000, SPEED)
    (profile,) = snapshot_of(MODEL, [(PLAIN, said)]).peers
    assert profile.room_bytes(MODEL, LayerRange(1, 5)) == -1_000
    assert profile.room_tokens(MODEL, LayerRange(1, 5)) == 0
