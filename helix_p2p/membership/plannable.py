"""What plans make of an announcement: who may be given layers, and which changes are worth a plan.

Always: pure functions of announcements and time; two peers that read the same judge the same.
"""

from helix_p2p.cluster.announcement import Announcement, PeerState
from helix_p2p.cluster.belief import DOUBT
from helix_p2p.types import PeerId

PLANNABLE = frozenset({PeerState.STANDBY, PeerState.LOADING, PeerState.SERVING})
"""States in which a peer may be given layers."""
WEIGHTY_CHANGE = 0.2
"""Memory or speed that changes by less than this is not worth a new plan."""
USED_UP_TO_S, USED_AHEAD_S = 3500.0, 45.0
"""Plans may use words of up to 3600 s, and of clocks that are at most 60 s ahead."""


def of_usable_age(said: Announcement, unix_s: float) -> bool:
    """Or one peer with a wrong clock, or with bad intent, would make every plan invalid."""
    return -USED_AHEAD_S <= unix_s - said.issued_unix_s <= USED_UP_TO_S


def weighty_change(old: Announcement, new: Announcement) -> bool:
    """Whether a new plan may pay: what it holds, in which form, how fast it is, whom it doubts."""
    if (old.state in PLANNABLE) != (new.state in PLANNABLE) or (old.speed is None) != (
        new.speed is None
    ):
        return True
    if old.held != new.held or _doubted(old) != _doubted(new):
        return True
    if (old.memory_bytes, old.uplink_bytes_per_s, old.downlink_bytes_per_s, old.speed) == (
        new.memory_bytes,
        new.uplink_bytes_per_s,
        new.downlink_bytes_per_s,
        new.speed,
    ):
        return False
    pairs: list[tuple[float | None, float | None]] = [
        (old.memory_bytes, new.memory_bytes),
        (old.uplink_bytes_per_s, new.uplink_bytes_per_s),
        (old.downlink_bytes_per_s, new.downlink_bytes_per_s),
    ]
    if old.speed is not None and new.speed is not None:
        pairs.append((old.speed.decode_s(1), new.speed.decode_s(1)))
        most = max(old.speed.decode[-1][0], new.speed.decode[-1][0])
        pairs.append((old.speed.decode_s(most), new.speed.decode_s(most)))
    return any(_differ(before, after) for before, after in pairs)


def _doubted(said: Announcement) -> frozenset[PeerId]:
    """Whom it has found to be slower than they say."""
    return frozenset(pace.peer for pace in said.paces if pace.slower > DOUBT)


def _differ(before: float | None, after: float | None) -> bool:
    if before is None or after is None:
        return before is not after
    return abs(after - before) > WEIGHTY_CHANGE * max(abs(before), abs(after))
