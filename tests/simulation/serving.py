"""A whole swarm's serving machines in one process: real routing, entry and stage machines, virtual
time, a toy model whose every answer depends on every KV entry, and faults drawn from a seed."""

import hashlib
import heapq
import random
from dataclasses import dataclass, field

from helix_p2p.errors import PeerLost
from helix_p2p.planning.plan import EdgeFlow, MinCut, Placement
from helix_p2p.routing.admission import KvLedger
from helix_p2p.routing.route import Router
from helix_p2p.session.effects import (
    ClientKey,
    CloseCache,
    Deliver,
    OpenCache,
    RunStep,
    Send,
    SendRows,
)
from helix_p2p.session.entry import EntryMachine
from helix_p2p.session.generation import EntryLimits
from helix_p2p.session.limits import ModelLimits
from helix_p2p.session.messages import (
    Close,
    Delivered,
    Forward,
    Generate,
    Open,
    Opened,
    Refused,
    Sampled,
    StageFailed,
    check_forward,
)
from helix_p2p.session.stage import StageMachine
from helix_p2p.types import LayerRange, PeerId, SessionId

VOCAB = 1000


def digest(*parts: object) -> int:
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=6).digest(), "big")


def expected_answer(prompt: tuple[int, ...], count: int, layers: int) -> list[int]:
    """What an unbroken single machine gives."""
    tokens, state = list(prompt), 0
    for position, token in enumerate(tokens):
        state = digest(state, position, embed(token, layers))
    answer = []
    for _ in range(count):
        answer.append(state % VOCAB)
        state = digest(state, len(tokens), embed(answer[-1], layers))
        tokens.append(answer[-1])
    return answer


def embed(token: int, layers: int) -> int:
    """A token's hidden state after all layers: each layer's part is visible in the result."""
    hidden = token
    for layer in range(layers):
        hidden = digest(hidden, layer)
    return hidden


@dataclass
class Engine:
    """Toy engine: per session and layer range, hidden states by position."""

    caches: dict[SessionId, tuple[LayerRange, int, dict[int, int]]] = field(default_factory=dict)
    computed: int = 0

    def open(self, effect: OpenCache) -> None:
        known = self.caches.get(effect.session)
        kept = known[2] if known and known[0] == effect.layers else {}
        if effect.begin is not None:
            layers, _, held = self.caches[effect.begin.source]
            assert layers == effect.layers
            assert len(held) >= effect.begin.positions
            kept = {position: held[position] for position in range(effect.begin.positions)}
        self.caches[effect.session] = (effect.layers, effect.kv_tokens, kept)

    def step(self, step: RunStep) -> tuple[list[list[int]], list[int | None]]:
        outputs, tokens = [], []
        for row in step.rows:
            layers, room, cache = self.caches[row.session]
            assert layers == step.layers
            assert row.position + row.count <= room
            self.computed += row.count
            hidden = list(row.payload)
            for layer in step.layers:
                hidden = [digest(h, layer) for h in hidden]
            for offset, value in enumerate(hidden):
                cache[row.position + offset] = value
            outputs.append(hidden)
            token = None
            if row.last is not None:
                state = 0
                for position in range(row.position + row.count):
                    state = digest(state, position, cache[position])
                token = state % VOCAB
            tokens.append(token)
        return outputs, tokens


@dataclass
class Peer:
    me: PeerId
    layers: LayerRange
    stage: StageMachine
    entry: EntryMachine
    ledger: KvLedger
    engine: Engine = field(default_factory=Engine)
    alive: bool = True
    hung: bool = False
    step: tuple | None = None


class Swarm:
    def __init__(
        self,
        held: dict[str, tuple[int, int]],
        layers: int,
        seed: int,
        *,
        kv: int = 10_000,
        flows: tuple = (),
        chunk: int = 8,
        reuse: bool = True,
    ) -> None:
        self.layers, self.rng = layers, random.Random(seed)
        self.now, self.events, self.order = 0.0, [], 0
        self.last_arrival: dict[tuple, float] = {}
        self.delivered: dict[SessionId, list[int]] = {}
        self.ended: dict[SessionId, object] = {}
        self.log: list[str] = []
        placement = Placement(
            (), tuple(EdgeFlow(*flow) for flow in flows), 1, 1, MinCut(), "test", 0.0
        )
        self.peers: dict[PeerId, Peer] = {}
        for name, (start, end) in held.items():
            me, ledger, router = PeerId(name), KvLedger(kv), Router(layers)
            router.follow(placement)
            model = ModelLimits(layers, 500, VOCAB)
            entry = EntryMachine(
                me,
                model,
                router,
                random.Random(f"{seed} {name}"),
                EntryLimits(
                    prefill_chunk_tokens=chunk,
                    token_deadline_s=3.0,
                    waiting_s=20.0,
                    reuse_prefixes=reuse,
                ),
            )
            stage = StageMachine(me, model, ledger)
            stage.serve(LayerRange(start, end))
            self.peers[me] = Peer(me, LayerRange(start, end), stage, entry, ledger)
        for peer in self.peers.values():
            self.see(peer)
            self.at(0.1, lambda p=peer: self.tick(p))

    # ── time ──
    def at(self, delay: float, action) -> None:
        self.order += 1
        heapq.heappush(self.events, (self.now + delay, self.order, action))

    def run(self, until: float) -> None:
        while self.events and self.events[0][0] <= until:
            self.now, _, action = heapq.heappop(self.events)
            action()
        self.now = until

    def tick(self, peer: Peer) -> None:
        if peer.alive and not peer.hung:
            self.do(peer, peer.entry.tick(self.now))
            self.do(peer, peer.stage.tick(self.now))
        self.at(0.1, lambda: self.tick(peer))

    # ── what happens ──
    def see(self, peer: Peer) -> None:
        serving = {p.me: p.layers for p in self.peers.values() if p.alive}
        self.do(peer, peer.entry.see(serving, {}, 1, self.now))

    def generate(self, entry: str, request: Generate) -> None:
        self.delivered[request.session] = list(request.generated)
        peer = self.peers[PeerId(entry)]
        client = ClientKey(request.session.hex())
        self.do(peer, peer.entry.on_generate(client, PeerId("client"), request, self.now))

    def kill(self, name: str) -> None:
        dead = self.peers[PeerId(name)]
        dead.alive = False
        for peer in self.peers.values():
            if peer.alive:
                self.at(self.rng.uniform(0.01, 0.1), lambda p=peer: self.lose(p, dead.me))

    def hang(self, name: str) -> None:
        stopped = self.peers[PeerId(name)]
        stopped.hung = True
        for peer in self.peers.values():
            if peer.alive and peer is not stopped:
                self.at(3.0, lambda p=peer: self.lose(p, stopped.me))

    def lose(self, peer: Peer, lost: PeerId) -> None:
        if peer.alive:
            self.do(peer, peer.stage.on_peer_lost(lost))
            self.do(peer, peer.entry.on_peer_lost(lost, self.now))

    # ── effects ──
    def do(self, peer: Peer, effects) -> None:
        for effect in effects:
            match effect:
                case Send(to, message):
                    self.send(peer, to, message, [])
                case SendRows(to, message, rows):
                    self.send(peer, to, message, [peer.step[0][index] for index in rows])
                case Deliver(_, message):
                    self.deliver(message)
                case OpenCache():
                    peer.engine.open(effect)
                case CloseCache(session):
                    peer.engine.caches.pop(session, None)
                case RunStep():
                    self.at(self.rng.uniform(0.001, 0.02), lambda s=effect: self.ran(peer, s))

    def ran(self, peer: Peer, step: RunStep) -> None:
        if not peer.alive:
            return
        if peer.hung:
            self.at(1.0, lambda: self.ran(peer, step))
            return
        if any(row.session not in peer.engine.caches for row in step.rows):
            # A session that ended while its step was under way; the engine refuses the batch.
            self.do(peer, peer.stage.on_step_failed(PeerLost("cache is gone")))
            return
        outputs, tokens = peer.engine.step(step)
        peer.step = (outputs,)
        self.do(peer, peer.stage.on_step_done(tokens))

    def send(self, source: Peer, to: PeerId, message, payloads) -> None:
        pair = (source.me, to)
        delay = 0.0 if source.me == to else self.rng.uniform(0.001, 0.03)
        arrival = max(self.now + delay, self.last_arrival.get(pair, 0.0))
        self.last_arrival[pair] = arrival
        self.at(arrival - self.now, lambda: self.receive(source.me, to, message, payloads))

    def receive(self, sender: PeerId, to: PeerId, message, payloads) -> None:
        peer = self.peers[to]
        if not peer.alive:
            return
        if peer.hung:
            self.at(0.5, lambda: self.receive(sender, to, message, payloads))
            return
        match message:
            case Open():
                self.do(peer, peer.stage.on_open(sender, message, self.now))
            case Close():
                self.do(peer, peer.stage.on_close(sender, message))
            case Forward():
                check_forward(message)
                if message.tokens:
                    payloads, start = [], 0
                    for count in message.counts:
                        payloads.append(list(message.tokens[start : start + count]))
                        start += count
                self.do(peer, peer.stage.on_forward(sender, message, payloads, self.now))
            case Opened():
                self.do(peer, peer.entry.on_opened(sender, message, self.now))
            case Sampled():
                self.do(peer, peer.entry.on_sampled(sender, message, self.now))
            case StageFailed():
                self.do(peer, peer.stage.on_stage_failed(sender, message))
                self.do(peer, peer.entry.on_stage_failed(sender, message, self.now))

    def deliver(self, message) -> None:
        match message:
            case Delivered(session, first, tokens, finished):
                assert session not in self.ended
                assert first == len(self.delivered[session])
                self.delivered[session] += tokens
                if finished:
                    self.ended[session] = finished
            case Refused(session, failure):
                assert session not in self.ended
                self.ended[session] = failure
