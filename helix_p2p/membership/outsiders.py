"""Peers that are known and are no members: only a record of them was seen, or they are gone.

A record in the DHT may be a ghost's, so its owner is a contact first, pinged a few times and then
given up. Who is gone is remembered for a while, with the order of its last word: no older one
brings it back, and who fell silent is called now and then, since a healed partition looks like
nothing at all until someone calls.

Always: at most as many contacts as members are kept, and as many of the gone; a contact is given up
after a few silent pings, and who is gone is forgotten after ten minutes.
"""

from dataclasses import dataclass
from itertools import islice

from helix_p2p.cluster.announcement import Announcement
from helix_p2p.identity import Signed
from helix_p2p.membership.crowd import Crowd
from helix_p2p.membership.timing import MembershipTiming
from helix_p2p.types import PeerId

CONTACT_TRIES = 4
EXPIRE_EVERY_S = 10.0
LOST_KEPT_S = 600.0
"""Longer than any record lives, and than most partitions last."""

WordOrder = tuple[int, int]
"""`Announcement.order`: incarnation, then sequence."""


@dataclass(slots=True)
class _Gone:
    order: WordOrder
    gone_s: float
    heard_only: bool
    addresses: tuple[str, ...]


@dataclass(slots=True)
class _Contact:
    order: WordOrder
    record: Signed
    issued_unix_s: float
    addresses: tuple[str, ...]
    asked_s: float | None = None
    tries: int = 0


class Outsiders:
    """See the module's description.

    Args:
        timing: How often a contact is pinged.
        most: More contacts, or more of the gone, are not kept.
        limited: Whether only so many contacts of one range of addresses are kept.
    """

    def __init__(self, timing: MembershipTiming, most: int, *, limited: bool = False) -> None:
        self._timing = timing
        self._crowd = Crowd(limited=limited)
        self._most = most
        self._contacts: dict[PeerId, _Contact] = {}
        self._gone: dict[PeerId, _Gone] = {}
        self._expire_s = 0.0

    @property
    def public(self) -> bool:
        """Whether the swarm is on the internet."""
        return self._crowd.public

    @public.setter
    def public(self, public: bool) -> None:
        self._crowd.public = public

    # ── contacts ────────────────────────────────────────────────────────────────────────────────

    @property
    def contacts(self) -> int:
        """How many there are."""
        return len(self._contacts)

    def seen(self, peer: PeerId) -> WordOrder | None:
        """The order of a contact's record; None when it is no contact."""
        contact = self._contacts.get(peer)
        return contact.order if contact is not None else None

    def meet(self, peer: PeerId, record: Signed, said: Announcement) -> None:
        """A record of it was seen; while there is room, it is a contact."""
        room = peer in self._contacts or len(self._contacts) < self._most
        if room and self._crowd.has_room(peer, said.addresses):
            issued_unix_s = said.issued_unix_s
            self._contacts[peer] = _Contact(said.order, record, issued_unix_s, said.addresses)
            self._crowd.add(peer, said.addresses)

    def drop_contact(self, peer: PeerId) -> None:
        """It could not be reached."""
        self._contacts.pop(peer, None)
        self._crowd.drop(peer)

    def young(self, unix_s: float, age_s: float, most: int) -> list[Signed]:
        """Records of contacts that were signed at most so long ago."""
        young = (c.record for c in self._contacts.values() if abs(unix_s - c.issued_unix_s) < age_s)
        return list(islice(young, most)) if self._contacts else []

    def contacts_to_ping(
        self, now_s: float, most: int, signed_before_unix_s: float | None = None
    ) -> list[PeerId]:
        """Whom to ping now; each once a period, and given up after a few silent ones.

        Args:
            now_s: Time.
            most: So many at once.
            signed_before_unix_s: Newcomers only if their record is older; None for all.
        """
        due: list[PeerId] = []
        if not self._contacts:
            return due
        for peer, contact in list(self._contacts.items()):
            fresh = (
                signed_before_unix_s is not None and contact.issued_unix_s > signed_before_unix_s
            )
            if fresh and peer not in self._gone:
                continue
            if contact.asked_s is not None and now_s - contact.asked_s < self._timing.ping_s:
                continue
            if contact.tries == CONTACT_TRIES:
                self.drop_contact(peer)
            elif len(due) < most:
                contact.asked_s, contact.tries = now_s, contact.tries + 1
                due.append(peer)
        for peer in due:  # whoever was not asked yet goes first: a flood keeps nobody waiting twice
            self._contacts[peer] = self._contacts.pop(peer)
        return due

    # ── the gone ────────────────────────────────────────────────────────────────────────────────

    def last_word(self, peer: PeerId) -> WordOrder | None:
        """What it said last; None when it is not known to be gone."""
        gone = self._gone.get(peer)
        return gone.order if gone is not None else None

    def heard_only(self, peer: PeerId) -> bool:
        """Whether it is gone and only its own voice brings it back."""
        gone = self._gone.get(peer)
        return gone is not None and gone.heard_only

    def knows(self, peer: PeerId) -> bool:
        """Whether it is a contact or gone."""
        return peer in self._contacts or peer in self._gone

    def bury(self, peer: PeerId, said: Announcement, now_s: float, *, heard_only: bool) -> None:
        """It is gone; `said` was its last word."""
        self.drop_contact(peer)
        self._gone.pop(peer, None)
        self._gone[peer] = _Gone(said.order, now_s, heard_only, said.addresses)
        while len(self._gone) > self._most:
            # Who left does not come back of itself; whoever fell silent is still called.
            left = next((p for p, gone in self._gone.items() if not gone.heard_only), None)
            del self._gone[left if left is not None else next(iter(self._gone))]

    def lost_to_ping(self, most: int) -> list[PeerId]:
        """Members that fell silent, in turn: when a partition heals, someone has to call first."""
        lost = [peer for peer, gone in self._gone.items() if gone.heard_only][:most]
        for peer in lost:
            self._gone[peer] = self._gone.pop(peer)
        return lost

    def expire(self, now_s: float) -> None:
        """Forget those who are gone for long; their records can no longer be anywhere."""
        if now_s < self._expire_s:
            return
        self._expire_s = now_s + EXPIRE_EVERY_S
        for peer in [p for p, gone in self._gone.items() if now_s - gone.gone_s > LOST_KEPT_S]:
            del self._gone[peer]

    # ── both ────────────────────────────────────────────────────────────────────────────────────

    def addresses_of(self, peer: PeerId) -> tuple[str, ...]:
        """Where it said it is reached."""
        outsider = self._contacts.get(peer) or self._gone.get(peer)
        return outsider.addresses if outsider is not None else ()

    def joined(self, peer: PeerId) -> None:
        """It is a member now."""
        self.drop_contact(peer)
        self._gone.pop(peer, None)
