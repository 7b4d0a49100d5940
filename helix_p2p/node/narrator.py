"""Membership's effects in words, for the people who watch a node.

Always: one event for one thing that happened; routine (pings, records, a member that measured
itself anew) is not told, and of a member's state only what is new.
"""

from helix_p2p.cluster.announcement import Announcement, PeerState
from helix_p2p.errors import SwarmTooSmall
from helix_p2p.membership import effects as fx
from helix_p2p.node.events import NodeEvent
from helix_p2p.planning.plan import SignedPlan
from helix_p2p.types import LayerRange, PeerId

_Told = tuple[PeerState, LayerRange | None]


class Narrator:
    """Tells what happened; remembers what it told of each member."""

    def __init__(self) -> None:
        self._told: dict[PeerId, _Told] = {}

    def event_of(self, effect: fx.Effect, me: PeerId) -> NodeEvent | None:
        """The event of an effect of our own membership, None for routine."""
        match effect:
            case fx.MemberJoined(peer, said):
                self._told[peer] = (said.state, said.serving)
                return _member("member-joined", "joined", peer, said)
            case fx.MemberChanged(peer, said):
                before, now = self._told.get(peer), (said.state, said.serving)
                self._told[peer] = now
                if now == before:
                    return None
                layers = f" layers {said.serving}" if said.state is PeerState.SERVING else ""
                return _member("member-changed", f"is {said.state}{layers}", peer, said)
            case fx.MemberLost(peer, _):
                self._told.pop(peer, None)
                return _narrate(effect, me)
            case _:
                return _narrate(effect, me)


def _narrate(effect: fx.Effect, me: PeerId) -> NodeEvent | None:
    match effect:
        case fx.Adopted(plan):
            return _adopted(plan, me)
        case fx.MemberLost(peer, reason):
            data = {"peer": peer, "reason": reason}
            return NodeEvent("member-lost", f"{_short(peer)} is gone ({reason})", data)
        case fx.PlanningFailed(error):
            name = "waiting" if isinstance(error, SwarmTooSmall) else "trouble"
            return NodeEvent(name, str(error), {"code": error.code})
        case fx.BecamePlanner(reason):
            return NodeEvent("planner", f"this peer plans now: {reason}", {"planning": True})
        case fx.SteppedDown(reason):
            return NodeEvent("planner", f"no longer planning: {reason}", {"planning": False})
        case fx.PlanRefused(peer, _, error):
            text = f"a plan from {_short(peer)} was refused: {error}"
            return NodeEvent("plan-refused", text, {"peer": peer, "code": error.code})
        case fx.ClockSkewed(None):
            return NodeEvent("clock", "this machine's clock is right again", {"offset_s": None})
        case fx.ClockSkewed(offset_s):
            text = f"this machine's clock is {offset_s:+.0f} s off the swarm's; it will not plan"
            return NodeEvent("clock", text, {"offset_s": offset_s})
        case fx.Banned(peer):
            text = f"{_short(peer)} is banned: it signed two plans of one epoch"
            return NodeEvent("banned", text, {"peer": peer})
        case fx.Expelled(error):
            text = f"nobody will talk with this node any more: {error}"
            return NodeEvent("expelled", text, {"code": error.code})
        case fx.PersistRevocations():
            return NodeEvent("revocations", "the operator's list of revocations changed")
        case fx.PlanOmits(planner, peers):
            text = f"the planner {_short(planner)} leaves out {len(peers)} members"
            return NodeEvent("plan-omits", text, {"planner": planner, "peers": list(peers)})
        case _:
            return None


def _adopted(signed: SignedPlan, me: PeerId) -> NodeEvent:
    plan, placement = signed.plan, signed.plan.placement
    mine, count = placement.range_of(me), len(placement.assignments)
    text = (
        f"plan {plan.epoch}: {placement.value_mtokens_per_s / 1000:.1f} tokens/s for many "
        f"requests at once, over {count} {'peer' if count == 1 else 'peers'}, "
        f"gap {placement.gap:.1%}"
    )
    data = {
        "epoch": plan.epoch,
        "hash": signed.hash.hex(),
        "planner": plan.planner,
        "layers": [mine.start, mine.end] if mine else None,
        "peers": count,
        "tokens_per_s": placement.value_mtokens_per_s / 1000,
        "gap": placement.gap,
    }
    return NodeEvent("plan", text, data)


def _member(name: str, what: str, peer: PeerId, said: Announcement) -> NodeEvent:
    serving = [said.serving.start, said.serving.end] if said.serving else None
    data = {"peer": peer, "name": said.public_name, "state": said.state, "serving": serving}
    return NodeEvent(name, f"{said.public_name or _short(peer)} {what}", data)


def _short(peer: PeerId) -> str:
    return f"…{peer[-8:]}"
