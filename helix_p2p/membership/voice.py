"""What this peer says of itself, and when.

Always: each announcement has a higher sequence than the one before; a change is told at once, but
for a short gap that keeps a peer which changes often from flooding the swarm.
"""

from dataclasses import replace

from helix_p2p.cluster.announcement import MOST_PACES, Announcement, lasting, word_of
from helix_p2p.identity import Signed
from helix_p2p.membership.own import MemberConfig, OwnState
from helix_p2p.membership.timing import Now
from helix_p2p.planning.plan import SignedPlan

ADDRESSES = 16
LINKS = 64


class Voice:
    """Our announcements.

    Args:
        config: What does not change.
        may_plan: Whether we stand for election.
        now: Time.
    """

    def __init__(self, config: MemberConfig, *, may_plan: bool, now: Now) -> None:
        self._config = config
        self._may_plan = may_plan
        self._renewed_s = now.s
        self._gap_s = config.timing.publish_gap_s
        self._sequence = self._since = 0
        self.told_s = now.s - self._gap_s
        self._due_s: float | None = now.s
        self.own = OwnState()
        self.announcement: Announcement
        self.record: Signed
        self.word: bytes
        self.renew(None, now)

    def renew(self, plan: SignedPlan | None, now: Now) -> None:
        """Say again what holds, with a new sequence."""
        self._sequence += 1
        self._renewed_s = now.s
        config, own = self._config, self.own
        self.announcement = Announcement(
            incarnation=config.incarnation,
            sequence=self._sequence,
            issued_unix_s=now.unix_s,
            manifest_hash=config.manifest_hash,
            state=own.state,
            memory_bytes=own.memory_bytes,
            held=own.held,
            speed=own.speed,
            serving=own.serving,
            addresses=own.addresses[:ADDRESSES],
            links=own.links[:LINKS],
            epoch=int(plan.plan.epoch) if plan else 0,
            plan_hash=plan.hash if plan else b"",
            may_plan=self._may_plan,
            public_name=config.public_name,
            device=config.device,
            uplink_bytes_per_s=own.uplink_bytes_per_s,
            downlink_bytes_per_s=own.downlink_bytes_per_s,
            credentials=config.credentials,
            since=self._since,
            paces=own.paces[:MOST_PACES],
        )
        self.record = self.announcement.signed(config.identity, config.swarm)
        self.word = word_of(self.record, config.swarm)

    def freshen(self, plan: SignedPlan | None, now: Now) -> None:
        """Somebody asks for a new sequence, perhaps to prove that we live; not twice a period."""
        if now.s - self._renewed_s >= self._config.timing.ping_s / 2:
            self.renew(plan, now)

    def change(
        self, own: OwnState, plan: SignedPlan | None, now: Now, *, among_many: bool = False
    ) -> None:
        """Something about this peer changed; it is to be told.

        That it loads is told to a few only: `among_many` everyone would have to ask for it, and
        what it serves meanwhile stays the same.
        """
        same = _lasting(own) == _lasting(self.own)
        self.own = own
        if not same:
            self._since = self._sequence + 1
        self.renew(plan, now)
        if self._due_s is None and not (same and among_many):
            self._due_s = max(now.s, self.told_s + self._gap_s)

    def take_due(self, now_s: float) -> bool:
        """Whether a change is to be told now; asking counts as telling."""
        if self._due_s is None or now_s < self._due_s:
            return False
        self._due_s, self.told_s = None, now_s
        return True


def _lasting(own: OwnState) -> OwnState:
    return replace(own, state=lasting(own.state, own.serving))
