"""Cutting off: whom the root put out, whose certificate has run out, who convicted itself.

`trust` says who is believed; here that has its effect while everyone runs: the list of revocations
is kept, passed on and written to the DHT, certificates are looked at again, and proofs go round.

Always: whoever is cut off is sent the reason where there is one to send; a list or a proof is
passed on once, when it is news here. Proofs against keys that we never met go out so many at once
and then one in a while: who joined just now has met few, and the others must still hear of them
through us; but made-up keys convict themselves for nothing.
"""

from random import Random

from helix_p2p.errors import HandshakeRefused
from helix_p2p.identity import Signed
from helix_p2p.membership import effects as fx
from helix_p2p.membership import messages as m
from helix_p2p.membership.attendance import Attendance
from helix_p2p.membership.liveness import stretch_of
from helix_p2p.membership.outbox import Outbox
from helix_p2p.membership.own import MemberConfig
from helix_p2p.membership.records import revocations_key
from helix_p2p.membership.talk import Talk
from helix_p2p.membership.timing import Now
from helix_p2p.membership.trust import Trust
from helix_p2p.membership.view import MembershipView
from helix_p2p.types import PeerId

RECHECK_S = 5.0
"""How often certificates are looked at again, for those that expire while their owner runs; in a
large swarm less often."""
STRANGERS_TOLD, STRANGER_S = 16, 10.0
"""So many proofs against keys that we never met go out at once, and one more every so often."""
REVOCATIONS_WRITERS = 6.0
"""So many members write the root's list into the DHT in a period, whatever the swarm's size."""


class Exclusion:
    """See the module's description.

    Args:
        config: What does not change.
        trust: Whom to believe.
        view: Who is here.
        talk: Whom to tell.
        attendance: Where members are lost.
        out: Where effects go.
        rng: Chance: who writes the list into the DHT.
        now: Time.
    """

    def __init__(
        self,
        config: MemberConfig,
        trust: Trust,
        view: MembershipView,
        talk: Talk,
        attendance: Attendance,
        out: Outbox,
        rng: Random,
        now: Now,
    ) -> None:
        self._config = config
        self._me = config.identity.peer_id
        self._trust = trust
        self._view = view
        self._talk = talk
        self._attendance = attendance
        self._out = out
        self._rng = rng
        self._recheck_due_s = self._republish_due_s = now.s
        self._strangers_told = 0.0
        self._told_s = now.s
        self.expelled = False
        """Whether this peer itself is out."""

    def tick(self, now: Now) -> None:
        """Look at certificates again, and keep the list in the DHT, if it is time."""
        self._check_certificates(now)
        self._republish(now)

    def revoke(self, record: Signed, now: Now) -> None:
        """Take the root's list; when it is newer than ours it holds at once.

        Raises:
            HandshakeRefused, SignatureError, DecodeError: It is not the root's.
        """
        if not self._trust.revoke(record):
            return
        self._out.put(fx.PersistRevocations(record))
        self._recheck_due_s = self._republish_due_s = now.s
        self.tick(now)
        self._out.tell(self._talk.targets(), m.PushRevocations(record))

    def convict(self, proof: m.PushProof, now: Now) -> None:
        """Take a proof that somebody signed two plans of one epoch.

        Raises:
            PlanRejected: It proves nothing.
            SignatureError, DecodeError: Its plans are none.
        """
        peer = self._trust.convict(proof, self._view.has_met)
        if peer is None:
            return
        told = self._view.has_met(peer) or self._tells_of_strangers(now)
        self._out.put(fx.Banned(peer, proof))
        self._attendance.ban(peer, now)
        if told:
            self._out.tell(self._talk.targets(), proof)

    def _tells_of_strangers(self, now: Now) -> bool:
        """Whether one more may go out now; it counts if so."""
        since_s, self._told_s = now.s - self._told_s, now.s
        self._strangers_told = max(0.0, self._strangers_told - since_s / STRANGER_S)
        if self._strangers_told > STRANGERS_TOLD - 1:
            return False
        self._strangers_told += 1
        return True

    def why(self, peer: PeerId) -> m.PushProof | m.PushRevocations:
        """What convinces anyone that a banned peer is out."""
        proof = self._trust.proofs.get(peer)
        if proof is not None:
            return proof
        assert self._trust.revocations is not None
        return m.PushRevocations(self._trust.revocations)

    def inform(self, peer: PeerId, serial: int) -> None:
        """`peer` showed the serial of its list; it gets ours if that is newer."""
        if serial < self._trust.serial and self._trust.revocations is not None:
            self._out.send(peer, m.PushRevocations(self._trust.revocations))

    def _check_certificates(self, now: Now) -> None:
        """Who was revoked or whose time is over is a member no longer, we ourselves included."""
        if now.s < self._recheck_due_s:
            return
        self._recheck_due_s = now.s + RECHECK_S * stretch_of(len(self._view))
        if self._config.root_public_key is None:
            return  # nobody vouches for anyone, and who convicts itself is out at once
        for entry in list(self._view):
            try:
                self._trust.admit(entry.announcement.credentials, entry.peer, now.unix_s)
            except HandshakeRefused:
                if self._trust.revocations is not None:  # tell it why
                    self._out.send(entry.peer, m.PushRevocations(self._trust.revocations))
                self._attendance.lose(entry.peer, "banned", now)
        try:
            self._trust.admit(self._config.credentials, self._me, now.unix_s)
        except HandshakeRefused as error:
            if not self.expelled:
                self._out.put(fx.Expelled(error))
            self.expelled = True
        else:
            self.expelled = False

    def _republish(self, now: Now) -> None:
        """Keep the root's list in the DHT; few write it, and any of them will do."""
        record = self._trust.revocations
        if record is None or now.s < self._republish_due_s:
            return
        timing = self._config.timing
        self._republish_due_s = now.s + timing.publish_s
        if self._rng.random() * (len(self._view) + 1) < REVOCATIONS_WRITERS:
            key = revocations_key(self._config.swarm)
            self._out.put(fx.PublishRecord(key, record.signer, record, timing.record_life_s))
