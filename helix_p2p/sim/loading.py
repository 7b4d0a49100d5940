"""What a plan asks of a simulated peer: load the missing layers, then serve them.

The steps are those of a real peer's cut-over (docs/adr/0009): the weights arrive at its downlink,
it serves old and new range together where they touch and fit, and leaves the old one when the plan
is complete. The disk never fails, and keeps what arrived.

Always: what a crash or a later plan has overtaken has no effect.
"""

from collections.abc import Callable, Mapping

from helix_p2p.cluster.announcement import PeerState
from helix_p2p.cluster.model import ModelSpec
from helix_p2p.planning.plan import Placement
from helix_p2p.sim.clock import VirtualTime
from helix_p2p.sim.mind import Mind
from helix_p2p.sim.native.peer import SimPeer
from helix_p2p.types import LayerRange, PeerId

CUT_OVER_S = 60.0
"""After which the old range is left whether the others are there or not."""
LOOK_S = 1.0
START_S = 0.5
"""Of a load, whatever is to be loaded."""


class Loading:
    """See the module's description.

    Args:
        time: Virtual time.
        model: What is served.
        minds: Everyone's.
        peers: Everyone's serving machines.
        announce: Tells the swarm a peer's new state.
    """

    def __init__(
        self,
        time: VirtualTime,
        model: ModelSpec,
        minds: Mapping[PeerId, Mind],
        peers: Mapping[PeerId, SimPeer],
        announce: Callable[[PeerId, PeerState], None],
    ) -> None:
        self._time = time
        self._model = model
        self._minds = minds
        self._peers = peers
        self._announce = announce

    def follow(self, name: PeerId, placement: Placement) -> None:
        """A peer adopted a plan."""
        mind, peer = self._minds[name], self._peers[name]
        target = mind.cell.ranges_of(placement).get(name)
        if target == mind.target:
            return
        mind.target = target
        if target is None:
            self._serve(name, None, PeerState.STANDBY)
            return
        missing = set(target) - mind.weights
        size_bytes = len(missing) * self._model.layer_bytes
        self._announce(name, PeerState.LOADING)
        load_s = START_S + size_bytes / mind.hardware.downlink_bytes_per_s
        self._time.after(load_s, self._loaded, name, peer.life, target, placement)

    def _loaded(self, name: PeerId, life: int, target: LayerRange, placement: Placement) -> None:
        mind, peer = self._minds[name], self._peers[name]
        if peer.life != life or mind.target != target:
            return
        mind.weights |= set(target)
        both = _union(peer.layers, target)
        room_bytes = mind.hardware.memory_bytes
        if both is not None and both != target and self._model.weight_bytes(both) < room_bytes:
            self._serve(name, both, PeerState.SERVING)
            deadline_s = self._time.now_s + CUT_OVER_S
            self._cut_over(name, life, target, placement, deadline_s)
        else:
            self._serve(name, target, PeerState.SERVING)

    def _cut_over(
        self, name: PeerId, life: int, target: LayerRange, placement: Placement, deadline_s: float
    ) -> None:
        """Serve old and new until everyone of the plan is there."""
        mind, peer = self._minds[name], self._peers[name]
        if peer.life != life or mind.target != target or mind.member is None:
            return
        member = mind.member
        complete = all(
            (held := member.serving_of(a.peer)) is not None and held.contains(a.layers)
            for a in placement.assignments
        )
        if complete or self._time.now_s >= deadline_s:
            self._serve(name, target, PeerState.SERVING)
        else:
            self._time.after(LOOK_S, self._cut_over, name, life, target, placement, deadline_s)

    def _serve(self, name: PeerId, layers: LayerRange | None, state: PeerState) -> None:
        peer = self._peers[name]
        peer.layers = layers
        peer.stage.serve(layers, draining=self._minds[name].draining)
        if layers is not None:
            free_bytes = self._minds[name].hardware.memory_bytes - self._model.weight_bytes(layers)
            peer.ledger.resize(max(0, free_bytes // max(1, self._model.kv_bytes_per_token)))
        self._announce(name, state)


def _union(old: LayerRange | None, new: LayerRange) -> LayerRange | None:
    """Both ranges as one where they touch."""
    if old is None or old.end < new.start or new.end < old.start:
        return None
    return LayerRange(min(old.start, new.start), max(old.end, new.end))
