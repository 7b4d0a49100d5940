"""What a volunteer's machine gives to the swarm, said once when it has a place there.

Always: the figure is the proven bound with the machine less the bound without it, over everyone
whom a plan of that moment would count on; nothing is said of a machine that is alone.
"""

import asyncio
import logging

from helix_p2p.cluster.snapshot import Snapshot
from helix_p2p.membership.member import Member
from helix_p2p.node.events import NodeEvent, OnEvent
from helix_p2p.planning.joining import value_at_join
from helix_p2p.types import PeerId

log = logging.getLogger(__name__)


async def tell_worth(member: Member, counted: asyncio.Event, on_event: OnEvent) -> None:
    """Say it once a plan counts on this peer.

    Args:
        member: This peer, with a model.
        counted: Set when a plan does.
        on_event: Where to say it.
    """
    await counted.wait()
    snapshot = member.snapshot()
    assert snapshot is not None, "a peer has a model"
    try:
        event = await asyncio.to_thread(worth_event, snapshot, member.peer_id)
    except Exception:
        log.exception("what this machine adds could not be worked out")  # it serves all the same
        return
    if event is not None:
        on_event(event)


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
