"""What an announcement brought: to a view, and to whoever passes it on.

Always: a value; one is made for each record that comes, so it is a struct.
"""

from enum import Enum

from msgspec import Struct

from helix_p2p.cluster.announcement import Announcement


class News(Enum):
    """What an announcement brought."""

    NOTHING = "nothing"
    REFRESHED = "refreshed"
    CONTACT = "contact"
    JOINED = "joined"
    CHANGED = "changed"
    LEFT = "left"


class Learned(Struct, frozen=True, gc=False):
    """The outcome of `MembershipView.learn`.

    Attributes:
        news: What it brought.
        announcement: As read.
        weighty: Whether a new plan may pay: memory, speed, or able to hold layers changed.
        lasting: Whether others need to hear of it: a new word, and not only that it loads.
    """

    news: News
    announcement: Announcement
    weighty: bool = False
    lasting: bool = True
