"""Announcements by what they say, wherever this peer has one: for plans that refer to them.

A plan of a large swarm names announcements by their content. Nearly all are at hand: in the view,
in the plans that hold, or with the planner in what it made the plan from. Whoever lacks some asks
for them by the same contents, and is answered from here.

Always: what is given for a content is a verified record of that content.
"""

from collections.abc import Mapping, Sequence

from helix_p2p.cluster.announcement import content_of
from helix_p2p.identity import Signed
from helix_p2p.membership.adoption import Adoption
from helix_p2p.membership.roster import Roster
from helix_p2p.membership.voice import Voice
from helix_p2p.planning.plan import Reference


class Announced:
    """See the module's description.

    Args:
        swarm: Swarm id.
        view: Who is here.
        voice: Our own word.
        adoption: The plans that hold.
    """

    def __init__(self, swarm: str, view: Roster, voice: Voice, adoption: Adoption) -> None:
        self._swarm = swarm
        self._view = view
        self._voice = voice
        self._adoption = adoption
        self.drafted: Mapping[bytes, Signed] = {}
        """What the plan that this peer makes refers to."""

    def gather(self, references: Sequence[Reference]) -> dict[bytes, Signed]:
        """By content, what is at hand of all that a plan refers to."""
        found = self._view.records_of(references)
        if len(found) < len(references):
            for reference in references:
                content = reference.content
                if content not in found and (record := self.find(content)) is not None:
                    found[content] = record
        return found

    def find(self, content: bytes) -> Signed | None:
        """A record that says this, for a plan that holds or is made here; None when none is."""
        if content in self.drafted:
            return self.drafted[content]
        if content_of(self._voice.record, self._swarm) == content:
            return self._voice.record
        return self._adoption.referred(content)
