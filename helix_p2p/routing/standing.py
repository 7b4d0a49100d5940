"""How an entry peer's neighbours stand with it, and the route that follows from that.

Each kind of news has its own consequence: a peer that failed is masked for longer and longer
(`masks.py`); one without room for a moment only; what one stage says against another costs the way
between the two (`blame.py`); one that has become slow is avoided (`slowness.py`).

Always: who is masked, and a way that is cut, is on no route; who is slow, or was named by the
client, is on one only where nobody else serves; the first stage is this peer, whoever names it.
"""

from collections.abc import Mapping, Sequence

from helix_p2p.routing.blame import Blame, Way
from helix_p2p.routing.masks import Masks
from helix_p2p.routing.route import Route, Router
from helix_p2p.routing.slowness import SlowPeers
from helix_p2p.types import LayerRange, PeerId, SessionId


class Standing:
    """What one entry peer knows of the peers that it routes over.

    Args:
        me: This peer, where each route begins.
        router: Follows the plan.

    Attributes:
        serving: Who serves what, this peer included.
        epoch: The plan that this is by.
    """

    def __init__(self, me: PeerId, router: Router) -> None:
        self._me = me
        self._router = router
        self._failed: Masks[PeerId] = Masks()
        self._full: Masks[PeerId] = Masks(shortest_s=0.1, longest_s=2.0)
        self._blame = Blame()
        self._slow = SlowPeers()
        self._hosts: Mapping[PeerId, str] = {}
        self.serving: Mapping[PeerId, LayerRange] = {}
        self.epoch = 0

    @property
    def begins_here(self) -> bool:
        """Whether this peer serves the first layers."""
        held = self.serving.get(self._me)
        return held is not None and held.start == 0

    def see(
        self, serving: Mapping[PeerId, LayerRange], hosts: Mapping[PeerId, str], epoch: int
    ) -> bool:
        """The view changed: who serves what, on which host, by which plan.

        Returns:
            Whether peers moved to other hosts, so that widths may differ.
        """
        if epoch != self.epoch:
            self._slow.forget()
        moved = hosts != self._hosts
        self.serving, self._hosts, self.epoch = serving, hosts, epoch
        return moved

    def route(
        self, avoid: frozenset[PeerId], tokens: int, now_s: float, preferred: Route = ()
    ) -> Route | None:
        """A route for a generation; None when there is none now.

        Args:
            avoid: Whom its client would rather not meet again.
            tokens: Positions that it can reach.
            now_s: Now.
            preferred: Where stages may have kept its beginning.
        """
        masked = self._failed.masked(now_s) | self._full.masked(now_s)
        usable = {p: held for p, held in self.serving.items() if p not in masked}

        def choose(serving: Mapping[PeerId, LayerRange]) -> Route | None:
            return self._router.choose(self._me, serving, float(tokens), preferred)

        slow, suspect = avoid | self._slow.slow(now_s), self._slow.suspect(now_s, but=self._me)
        tried = slow if suspect is None else slow | {suspect}
        for without in dict.fromkeys((tried, slow, avoid)):
            rest = {p: held for p, held in usable.items() if p == self._me or p not in without}
            route = self._blame.around(choose, rest, now_s)
            if route is not None:
                return route
        return self._blame.around(choose, usable, now_s) if avoid else None

    def width(self, route: Route) -> int:
        """Frames in flight: one per machine on the way; stages that share a host share cores."""
        return len({self._hosts.get(hop.peer, hop.peer) for hop in route})

    # ── good and bad news ────────────────────────────────────────────────────────────────────

    def failed(self, peer: PeerId, now_s: float) -> None:
        """A peer was seen to fail, or admits it."""
        self._failed.fail(peer, now_s)

    def full(self, peer: PeerId, now_s: float) -> None:
        """A peer had no room; several answers of one moment count once."""
        if peer not in self._full.masked(now_s):
            self._full.fail(peer, now_s)

    def any_full(self, now_s: float) -> bool:
        """Whether some peer had no room lately."""
        return bool(self._full.masked(now_s))

    def had_room(self, peer: PeerId) -> None:
        """A peer took a session."""
        self._full.succeed(peer)

    def accuse(
        self, peers: Sequence[PeerId], sender: PeerId, accused: PeerId, now_s: float
    ) -> bool:
        """A stage says that another one is at fault.

        Args:
            peers: Of the pipeline, in order.
            sender: One of them, who says it.
            accused: Whom it names.
            now_s: Now.

        Returns:
            Whether that counts: a stage speaks for itself and of its neighbours, never of us.
        """
        at = peers.index(sender)
        neighbours = {peer for peer in peers[max(0, at - 1) : at + 2] if peer != self._me}
        if accused == sender or accused not in neighbours:
            return False
        way = (sender, accused) if accused in peers[at:] else (accused, sender)
        if self._blame.accuse(sender, accused, way, now_s):
            self._failed.fail(accused, now_s)
        return True

    def dispute(self, way: Way, now_s: float) -> None:
        """One of two neighbours does not say truly what went between them; routes avoid the way."""
        self._blame.dispute(way, now_s)

    def worked(self, route: Route) -> None:
        """A generation ended well on this route."""
        for hop in route:
            self._failed.succeed(hop.peer)
        self._blame.worked(route)

    def token(self, session: SessionId, peers: Sequence[PeerId], now_s: float) -> None:
        """A pipeline gave a token; its pace is charged to all its peers."""
        self._slow.token(session, peers, now_s)

    def over(self, session: SessionId) -> None:
        """A pipeline gives no more."""
        self._slow.over(session)
