"""Announcements by what they say, wherever this peer has one: for plans that refer to them.

A plan of a large swarm names announcements by their content. Nearly all are at hand: in the view,
in the plans that hold, or with the planner in what it made the plan from. Whoever lacks some asks
for them by the same contents, and is answered from here.

Always: what is given for a content is a verified record of that content.
"""

from collections.abc import Mapping

from helix_p2p.cluster.announcement import WORD_BYTES, content_of
from helix_p2p.identity import Signed
from helix_p2p.membership.adoption import Adoption
from helix_p2p.membership.view import MembershipView
from helix_p2p.membership.voice import Voice


class Announced:
    """See the module's description.

    Args:
        swarm: Swarm id.
        view: Who is here.
        voice: Our own word.
        adoption: The plans that hold.
    """

    def __init__(self, swarm: str, view: MembershipView, voice: Voice, adoption: Adoption) -> None:
        self._swarm = swarm
        self._view = view
        self._voice = voice
        self._adoption = adoption
        self.drafted: Mapping[bytes, Signed] = {}
        """What the plan that this peer makes refers to."""

    def find(self, content: bytes) -> Signed | None:
        """A record that says this; None when none is at hand."""
        peer = self._view.peer_of(content[:WORD_BYTES])
        entry = self._view.get(peer) if peer is not None else None
        if entry is not None and entry.content == content:
            return entry.record
        if content in self.drafted:
            return self.drafted[content]
        if content_of(self._voice.record, self._swarm) == content:
            return self._voice.record
        return self._adoption.referred(content)
