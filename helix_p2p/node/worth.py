"""What a volunteer's machine gives to the swarm, said once when it has a place there.

Always: the figure is the proven bound with the machine less the bound without it, over everyone
whom a plan of that moment would count on; nothing is said of a machine that is alone.
"""

from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.node.events import NodeEvent
from helix_p2p.planning.joining import value_at_join
from helix_p2p.types import PeerId


def worth_event(snapshot: Snapshot, me: PeerId) -> NodeEvent | None:
    """What `me` adds to what the swarm can carry at best; takes some CPU time among many.

    Args:
        snapshot: What a planner would plan over now, with or without us.
        me: This peer.
    """
    mine = next((peer for peer in snapshot.peers if peer.peer == me), None)
    if mine is None or len(snapshot.peers) < 2:
        return None
    tokens_per_s = value_at_join(snapshot, mine) / 1000
    if tokens_per_s > 0:
        text = f"with this machine the swarm can carry up to {tokens_per_s:.1f} tokens/s more"
    else:
        text = "the swarm carries as much without this machine now; it stands in when others go"
    return NodeEvent("worth", text, {"tokens_per_s": tokens_per_s})
