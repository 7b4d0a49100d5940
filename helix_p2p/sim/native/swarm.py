"""A swarm that serves, in virtual time: every decision is made by the machines that real peers run.

What is modelled is only what the machines never see: how long a step takes, how long a message is
on its way, and who dies, hangs or slows down. Batching, chunked prefill, whole-path reservation,
the waiting queue, IWRR, repair and the client's failover are `session` and `routing` themselves.

Always: deterministic for a seed; a peer that is down hears and says nothing; a KV reservation never
exceeds its stage; a token that reaches a client is checked against the only right one.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from helix_p2p.errors import PeerLost, PeerUnreachable
from helix_p2p.net.link import LinkOptions
from helix_p2p.planning.capacity import MTOKENS
from helix_p2p.planning.plan import EdgeFlow, MinCut, Placement
from helix_p2p.routing.admission import KvLedger
from helix_p2p.routing.route import Router
from helix_p2p.session.effects import ClientKey
from helix_p2p.session.entry import EntryMachine
from helix_p2p.session.entry_choice import EntryCandidate
from helix_p2p.session.generation import EntryLimits
from helix_p2p.session.limits import ModelLimits
from helix_p2p.session.messages import Delivered, Generate, Refused
from helix_p2p.session.stage import StageLimits, StageMachine
from helix_p2p.sim.clock import VirtualTime
from helix_p2p.sim.helix.setup import HelixSetup, StageSetup
from helix_p2p.sim.native.engine import VOCAB, ModelledEngine, SimEngine, seed_in
from helix_p2p.sim.native.peer import CLIENT, EOF_S, MESSAGE_BYTES, SimPeer
from helix_p2p.sim.network import LinkModel, Network
from helix_p2p.types import LayerRange, PeerId, SessionId

TICK_S = 0.5
SILENCE_S = LinkOptions().silence_s
"""Until the heartbeat on a stream gives up on a peer that hangs."""


@dataclass(frozen=True, slots=True)
class ServingRules:
    """The production machines' own limits, and what a run needs to know.

    Attributes:
        entry: Of entry peers. No two prompts begin alike here, so none is hashed.
        stage: Of stages.
        context_tokens: Of the model.
        vocab_size: Of the model.
        loss: Of every link.
        jitter_s: Up to so much more latency for each message.
    """

    entry: EntryLimits = field(default_factory=lambda: EntryLimits(reuse_prefixes=False))
    stage: StageLimits = field(default_factory=StageLimits)
    context_tokens: int = 4096
    vocab_size: int = VOCAB
    loss: float = 0.0
    jitter_s: float = 0.0


class ServingSwarm:
    """See the module's description.

    Args:
        setup: Stages with their times, links with their flows.
        rules: Limits of the machines.
        seed: Of losses.
        time: Virtual time; its own where not given.
        flows: That routes follow, where they are not the setup's.
    """

    def __init__(
        self,
        setup: HelixSetup,
        rules: ServingRules | None = None,
        seed: int = 0,
        time: VirtualTime | None = None,
        flows: tuple[EdgeFlow, ...] | None = None,
    ) -> None:
        self.setup = setup
        self.time = time or VirtualTime()
        self.rules = rules or ServingRules()
        self.flows = flows_of(setup) if flows is None else flows
        self.placement = _as_placement(self.flows)
        links = {
            (link.source or CLIENT, link.target or CLIENT): LinkModel(
                link.latency_s, link.bandwidth_bytes_per_s, self.rules.loss, self.rules.jitter_s
            )
            for link in setup.links
        }
        links |= {(b, a): link for (a, b), link in links.items() if (b, a) not in links}
        self.network = Network(self.time, links, _typical(links, self.rules), Random(seed))
        self.refusals: Counter[str] = Counter()
        """What clients were told that got no answer, by error; they ask again."""
        self._names = Random(f"names {seed}")
        self.peers: dict[PeerId, SimPeer] = {}
        self.activation_bytes = setup.activation_bytes
        self._seeds: dict[SessionId, int] = {}
        self._listeners: dict[SessionId, Any] = {}
        for stage in setup.stages:
            self.peers[stage.peer] = self._new_peer(stage)
        for number, peer in enumerate(self.peers.values()):
            self.time.after(TICK_S * number / len(self.peers), self._tick, peer, 0)
        self.look_around()

    # ── peers ────────────────────────────────────────────────────────────────────────────────

    def _new_peer(self, stage: StageSetup) -> SimPeer:
        ledger = KvLedger(stage.kv_layer_tokens)
        router = Router(self.setup.layers)
        router.follow(self.placement)
        model = ModelLimits(self.setup.layers, self.rules.context_tokens, self.rules.vocab_size)
        machine: StageMachine[Any] = StageMachine(stage.peer, model, ledger, self.rules.stage)
        machine.serve(stage.layers)
        return SimPeer(
            self,
            stage,
            ledger,
            router,
            machine,
            EntryMachine(
                stage.peer, model, router, Random(self._names.getrandbits(64)), self.rules.entry
            ),
            self._new_engine(stage),
            stage.layers,
        )

    def _new_engine(self, stage: StageSetup) -> SimEngine:
        return ModelledEngine(stage, self.setup.layers, self.activation_bytes, self._seeds)

    def serving(self) -> Mapping[PeerId, LayerRange]:
        """Who serves what now."""
        return {p.me: p.layers for p in self.peers.values() if p.alive and p.layers is not None}

    @property
    def cells(self) -> int:
        """How many parts serve apart from each other."""
        return 1

    def entries(self, _cell: int) -> list[EntryCandidate]:
        """Who serves layer 0 in a cell now, with the plan's shares."""
        return entries_of(self.flows, [peer for peer in self.peers.values() if peer.alive])

    def planned(self) -> Iterable[EdgeFlow]:
        """Every planned flow."""
        return self.flows

    def neighbours(self, _name: PeerId) -> Iterable[SimPeer]:
        """Who may have a stream to a peer."""
        return self.peers.values()

    def look_around(self, peers: Iterable[SimPeer] | None = None) -> None:
        """Live peers see who serves what (membership tells it, seconds after a change).

        Args:
            peers: Of these; of all where not given.
        """
        serving = self.serving()
        for peer in self.peers.values() if peers is None else peers:
            if peer.alive:
                near = {p: r for p, r in serving.items() if not self.network.apart(p, peer.me)}
                peer.do(peer.entry.see(near, {}, 1, peer.now_s))

    def crash(self, name: PeerId) -> None:
        """SIGKILL: every stream ends, all it held is gone."""
        dead = self.peers[name]
        if not dead.alive:
            return
        dead.alive = False
        dead.life += 1
        self.network.cut(name)
        self.time.note(b"crash " + name.encode())
        self.time.after(EOF_S, self._everyone_loses, name)

    def restart(self, name: PeerId) -> None:
        """The peer is back with its weights, and knows nothing of any session."""
        old = self.peers[name]
        if old.alive:
            return
        fresh = self._new_peer(old.setup)
        fresh.life = old.life + 1
        fresh.clock_offset_s, fresh.clock_rate = old.clock_offset_s, old.clock_rate
        fresh.tokens_to = old.tokens_to
        self.peers[name] = fresh
        self.time.note(b"restart " + name.encode())
        self.time.after(TICK_S, self._tick, fresh, fresh.life)
        self.look_around(self.neighbours(name))

    def hang(self, name: PeerId, seconds: float) -> None:
        """SIGSTOP: it says nothing, and finds everything waiting when it goes on."""
        self.peers[name].hung = True
        self.time.after(SILENCE_S, self._lost_if_hung, name)
        self.time.after(seconds, self._wake, name)

    def slow(self, name: PeerId, factor: float) -> None:
        """A grey peer: its steps take so many times longer."""
        self.peers[name].engine.slowness = factor

    def partition(self, sides: Mapping[PeerId, int], seconds: float) -> None:
        """Sides hear nothing of each other for a while; clients are on side 0."""
        self.network.partition(sides)
        self.time.note(b"partition")
        self.time.after(SILENCE_S, self._lose_other_sides)
        self.time.after(max(seconds, SILENCE_S + TICK_S), self._heal)

    def _lose_other_sides(self) -> None:
        for peer in list(self.peers.values()):
            for other in list(self.peers):
                if peer.alive and self.network.apart(peer.me, other):
                    peer.lose(other)
        for listener in list(self._listeners.values()):
            for name in self.peers:
                if self.network.apart(CLIENT, name):
                    listener.on_entry_lost(name, PeerLost(f"{name} fell silent"))
        self.look_around()

    def _heal(self) -> None:
        self.network.partition({})
        self.look_around()

    def _wake(self, name: PeerId) -> None:
        self.peers[name].wake()

    def _lost_if_hung(self, name: PeerId) -> None:
        if self.peers[name].hung:
            self._everyone_loses(name)

    def _everyone_loses(self, name: PeerId) -> None:
        for peer in self.neighbours(name):
            if peer.alive and peer.me != name:
                peer.lose(name)
        for listener in list(self._listeners.values()):
            listener.on_entry_lost(name, PeerLost(f"{name} is gone"))
        self.look_around(self.neighbours(name))

    def _tick(self, peer: SimPeer, life: int) -> None:
        if peer.life != life or not peer.alive:
            return
        if not peer.hung:
            peer.tick()
        self.time.after(TICK_S, self._tick, peer, life)

    # ── clients ──────────────────────────────────────────────────────────────────────────────

    def ask(self, entry: PeerId, request: Generate, listener: Any) -> None:
        """A client's request, on its way to an entry peer."""
        peer = self.peers.get(entry)
        if peer is None or not peer.alive or self.network.apart(CLIENT, entry):
            gone = PeerUnreachable(f"{entry} cannot be reached")
            self.time.after(EOF_S, listener.on_entry_lost, entry, gone)
            return
        self._listeners[request.session] = listener
        size = MESSAGE_BYTES + 4.0 * (len(request.prompt) + len(request.generated))
        self.network.send_in_order(CLIENT, entry, size, self._on_generate, peer, request)

    def cancel(self, entry: PeerId, session: SessionId) -> None:
        """The client wants no more of a session."""
        self._listeners.pop(session, None)
        peer = self.peers[entry]
        if peer.alive:
            self.network.send_in_order(CLIENT, entry, MESSAGE_BYTES, self._on_cancel, peer, session)

    def _on_generate(self, peer: SimPeer, request: Generate) -> None:
        if peer.away(self._on_generate, peer, request):
            return
        key = ClientKey(request.session.hex())
        identity = self._identity_of(request)
        peer.do(peer.entry.on_generate(key, identity, request, peer.now_s))

    def _identity_of(self, request: Generate) -> PeerId:
        """Each generation is another client's."""
        return PeerId(f"client-{seed_in(request.prompt)}")

    def _on_cancel(self, peer: SimPeer, session: SessionId) -> None:
        if not peer.away(self._on_cancel, peer, session):
            key = ClientKey(session.hex())
            peer.do(peer.entry.on_cancel(key, session, peer.now_s))

    def answer(self, source: PeerId, messages: Sequence[Delivered | Refused]) -> None:
        """A peer says something to clients; each hears it when its own message arrives.

        Tokens after which an answer goes on change nothing but what its client has, so those of one
        moment are one event, each with its own time.
        """
        tokens: list[tuple[float, Delivered]] = []
        for message in messages:
            at_s = self.network.arrival_in_order(source, CLIENT, MESSAGE_BYTES)
            if at_s is None:
                continue
            if type(message) is Delivered and message.finished is None:
                tokens.append((at_s, message))
                continue
            if type(message) is Refused:
                self.refusals[message.failure.code] += 1
            self.time.at(at_s, self._end, source, message)
        if tokens:
            self.time.at(tokens[0][0], self._tell, source, tokens)

    def _tell(self, source: PeerId, tokens: Sequence[tuple[float, Delivered]]) -> None:
        listeners = self._listeners
        for at_s, message in tokens:
            listener = listeners.get(message.session)
            if listener is not None:
                listener.on_message(source, message, at_s)

    def _end(self, source: PeerId, message: Delivered | Refused) -> None:
        """The last that a client hears."""
        listener = self._listeners.pop(message.session, None)
        if listener is not None:
            listener.on_message(source, message, self.time.now_s)


def entries_of(flows: Iterable[EdgeFlow], peers: Iterable[SimPeer]) -> list[EntryCandidate]:
    """Which of these peers a client may ask."""
    weights = {flow.target: flow.mtokens_per_s for flow in flows if flow.source is None}
    first = [peer.me for peer in peers if peer.layers is not None and peer.layers.start == 0]
    return [EntryCandidate(name, weights.get(name, 0)) for name in sorted(first)]


def flows_of(setup: HelixSetup) -> tuple[EdgeFlow, ...]:
    """The planned flows of a setup; where it has none, every link alike."""
    planned = [link for link in setup.links if link.flow_tokens_per_s > 0]
    return tuple(
        EdgeFlow(link.source, link.target, max(1, round(link.flow_tokens_per_s * MTOKENS)) or 1)
        for link in planned or setup.links
    )


def _as_placement(flows: tuple[EdgeFlow, ...]) -> Placement:
    value = sum(flow.mtokens_per_s for flow in flows if flow.source is None)
    return Placement((), flows, value, value, MinCut(), "given", 0.0)


def _typical(links: Mapping[tuple[PeerId, PeerId], LinkModel], rules: ServingRules) -> LinkModel:
    """For pairs that no planned link joins (the entry peer and later stages): the median one."""
    ordered = sorted(links.values(), key=lambda link: (link.latency_s, link.bandwidth_bytes_per_s))
    if not ordered:
        return LinkModel(0.001, 1e8, rules.loss, rules.jitter_s)
    return ordered[len(ordered) // 2]
