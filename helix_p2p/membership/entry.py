"""What is known of one member.

Always: only the view writes what a record brings; what the member showed of its own knowledge
(`shown_*`) is written by whoever reads its pings.
"""

from dataclasses import dataclass

from helix_p2p.cluster.announcement import Announcement, PeerState
from helix_p2p.identity import Signed
from helix_p2p.membership.credentials import Role
from helix_p2p.membership.detector import Detector
from helix_p2p.types import PeerId


@dataclass(slots=True)
class MemberEntry:
    """See the module's description.

    Attributes:
        peer: Who.
        record: Its latest announcement, signed.
        announcement: The same, read.
        roles: What it may do.
        detector: Whether it lives.
        joined_s: Since when this run of it is a member.
        admitted_s: When its certificate was looked at last.
        content: Of its record; see `announcement.content_of`.
        word: Likewise; see `announcement.word_of`.
        told_state: Which state of ours it was told last.
        shown_word: The word of ours that it holds, as it says; empty for none, None while it has
            said nothing of it.
        shown_beat: The plan and the beat that it holds, as it says.
        tellings: In how many more messages its word is news; `gossip` counts.
        present: Whether it is still a member; who keeps an entry for a while looks here.
        rtt_s: Round trip, smoothed.
        skew_s: Its wall clock minus ours.
    """

    peer: PeerId
    record: Signed
    announcement: Announcement
    roles: frozenset[Role]
    detector: Detector
    joined_s: float
    admitted_s: float
    content: bytes
    word: bytes
    told_state: PeerState | None = None
    shown_word: bytes | None = None
    shown_beat: tuple[bytes, int] | None = None
    tellings: int = 0
    present: bool = True
    rtt_s: float | None = None
    skew_s: float | None = None
