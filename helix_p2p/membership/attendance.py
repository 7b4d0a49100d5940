"""Who comes and who goes, and who is told of it.

`view` judges records and runs the detectors; here its news and verdicts become effects: newcomers
are spread, the silent probed and reported, the lost dropped, the doubted defended.

Always: each member that goes is told once, with a reason; nobody is reported without a failed
probe of our own.
"""

from collections.abc import Iterable

from helix_p2p.cluster.announcement import reading_of
from helix_p2p.errors import HandshakeRefused, HelixError
from helix_p2p.identity import Signed
from helix_p2p.membership import effects as fx
from helix_p2p.membership import messages as m
from helix_p2p.membership.detector import Verdict
from helix_p2p.membership.disputes import Disputes
from helix_p2p.membership.gossip import Gossip
from helix_p2p.membership.learned import Learned, News
from helix_p2p.membership.office import Office
from helix_p2p.membership.outbox import Outbox
from helix_p2p.membership.plannable import PLANNABLE
from helix_p2p.membership.questions import Questions
from helix_p2p.membership.talk import Talk
from helix_p2p.membership.timing import Now
from helix_p2p.membership.view import MembershipView
from helix_p2p.types import PeerId

FIRST_MEMBERS = 3
"""The first few that a newcomer meets are asked whom they know."""
ACQUAINTED = 32
"""Who has read of so many in the DHT need not ask."""
BELIEVED_PER_TICK = 128
CHECK_EVERY_S, CHECK_CALM_S = 0.9, 1.9
"""In a large swarm, and there when nobody is doubted; who is reported is looked at at once."""


class Attendance:
    """See the module's description.

    Args:
        me: This peer.
        swarm: Swarm id.
        view: Who is here.
        gossip: What is passed on.
        disputes: Who is doubted by whom.
        questions: Which words were asked for.
        talk: Whom to tell.
        office: Hears of every change that matters to plans.
        out: Where effects go.
    """

    def __init__(
        self,
        me: PeerId,
        swarm: str,
        view: MembershipView,
        gossip: Gossip,
        disputes: Disputes,
        questions: Questions,
        talk: Talk,
        office: Office,
        out: Outbox,
    ) -> None:
        self._me = me
        self._swarm = swarm
        self._view = view
        self._gossip = gossip
        self._disputes = disputes
        self._questions = questions
        self._talk = talk
        self._office = office
        self._out = out
        self._check_due_s = 0.0

    # ── who comes ───────────────────────────────────────────────────────────────────────────────

    def learn(self, record: Signed, source: PeerId, now: Now) -> None:
        """An announcement came from `source`: its owner, another member, or ourselves (the DHT)."""
        owner: PeerId | None = None
        try:
            owner = record.signer
            learned = self._view.learn(record, now, direct=owner == source)
        except HelixError as error:
            self._out.put(fx.MessageRefused(source, error))
            if isinstance(error, HandshakeRefused) and owner is not None and owner in self._view:
                self.lose(owner, "banned", now)
            return
        self._questions.answered(reading_of(record, self._swarm).word)
        if learned is None:
            return
        self._tell(owner, learned, now)
        if owner == source and learned.news is not News.NOTHING:
            self._out.tell(self._disputes.doubters(owner, now.s), m.MembersReply((record,)))

    def _tell(self, owner: PeerId, learned: Learned, now: Now) -> None:
        match learned.news:
            case News.JOINED:
                self._out.put(fx.MemberJoined(owner, learned.announcement))
                self._spread(owner)
                self._office.changed(now)
                if len(self._view) <= FIRST_MEMBERS and self._view.contacts < ACQUAINTED:
                    self._out.send(owner, m.GetMembers())
            case News.CHANGED:
                self._out.put(fx.MemberChanged(owner, learned.announcement))
                if learned.lasting or not self._talk.among_many:
                    self._spread(owner)
                if learned.announcement.state not in PLANNABLE:
                    self._office.cannot_lead(owner, now)
                    if learned.weighty:
                        self._office.lost(owner, now)
                elif learned.weighty:
                    self._office.changed(now)
            case News.LEFT:
                self._lost(owner, "left", now)
            case News.CONTACT:
                self._office.newcomer_seen(now)
            case News.NOTHING | News.REFRESHED:
                pass

    def _spread(self, peer: PeerId) -> None:
        entry = self._view.get(peer)
        if entry is not None:
            self._gossip.spread(entry, len(self._view))

    def heard(
        self, peer: PeerId, now: Now, *, unix_s: float = 0.0, rtt_s: float | None = None
    ) -> None:
        """A message came from `peer` itself; `unix_s` and `rtt_s` as in `MembershipView.heard`."""
        if peer in self._view:
            self._view.heard(peer, now, unix_s=unix_s, rtt_s=rtt_s)
            self._office.heard(now)

    # ── who goes ────────────────────────────────────────────────────────────────────────────────

    def check(self, now: Now) -> None:
        """Run the failure detectors that are due, and do what they ask for."""
        if self._talk.among_many and now.s < self._check_due_s:
            return
        self._check_due_s = now.s + (CHECK_CALM_S if self._view.calm else CHECK_EVERY_S)
        self._act_on(self._view.check(now, self._talk.watched()), now)
        for record in self._view.believable(now, BELIEVED_PER_TICK):
            self.learn(record, self._me, now)
        for peer in self._view.never_answered():  # nobody else is told: others may hear it
            self._view.forget(peer, now, heard_only=True)
            self._lost(peer, "lost", now)
        self._view.expire(now)

    def _act_on(self, verdicts: Iterable[tuple[PeerId, Verdict]], now: Now) -> None:
        for peer, verdict in verdicts:
            match verdict:
                case Verdict.PROBE:
                    self._out.put(self._talk.ping(peer, now, probe=True))
                case Verdict.REPORT:
                    self._report(peer)
                case Verdict.EVICT:
                    self.lose(peer, "lost", now)
                case Verdict.NOTHING:
                    pass

    def _check(self, peer: PeerId, now: Now) -> None:
        """Likewise for one of whom something was heard."""
        self._act_on(self._view.check_one(peer, now, self._talk.watched()), now)

    def gone(self, witness: PeerId, peer: PeerId, now: Now, *, leaving: bool) -> None:
        """`witness` says that `peer` is gone; `leaving` if it says so of itself."""
        if leaving:
            if peer == witness and peer in self._view:
                self.lose(peer, "left", now)
        elif self._view.reported(peer, witness, now.s):
            self._disputes.add(peer, witness, now.s)
            self._check(peer, now)

    def lost_elsewhere(self, witness: PeerId, words: Iterable[bytes], now: Now) -> None:
        """`witness` has lost the members whose last words these were."""
        for word in words:
            peer = self._view.peer_of(word)
            if peer is not None:
                self.gone(witness, peer, now, leaving=False)

    def link_lost(self, peer: PeerId, now: Now) -> None:
        """A stream to it broke or fell silent."""
        if self._view.link_lost(peer, now.s):
            self._check(peer, now)

    def unreachable(self, peer: PeerId, now: Now) -> None:
        """A message to it could not be delivered."""
        if self._view.unreachable(peer, now.s):
            self._check(peer, now)
        self._view.drop_contact(peer)

    def ban(self, peer: PeerId, now: Now) -> None:
        """It is out for good, whether it is a member or not."""
        if peer in self._view:
            self.lose(peer, "banned", now)
        self._office.cannot_lead(peer, now)

    def lose(self, peer: PeerId, reason: str, now: Now) -> None:
        """A member is one no longer: "left", "lost" or "banned"."""
        entry = self._view.get(peer)
        if entry is not None and reason == "lost" and self._talk.among_many:
            self._gossip.lost(entry.word, len(self._view))
        self._view.forget(peer, now, heard_only=reason == "lost")
        self._lost(peer, reason, now)

    def _lost(self, peer: PeerId, reason: str, now: Now) -> None:
        self._out.put(fx.MemberLost(peer, reason))
        self._office.cannot_lead(peer, now)
        self._office.lost(peer, now)

    def _report(self, peer: PeerId) -> None:
        """Say that a probe failed, to the planner above all: it acts on it.

        Among many, who was told by others tells nobody: all would tell all. It is passed on with
        the pings, once it is certain here too.
        """
        entry = self._view.get(peer)
        if entry is not None and entry.detector.doubted and self._talk.among_many:
            return
        told = dict.fromkeys(self._talk.targets())
        holder = self._office.holder
        if holder is not None and holder in self._view:
            told[holder] = None
        told.pop(peer, None)
        self._out.tell(told, m.PeerGone(peer, leaving=False))
