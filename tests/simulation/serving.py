"""A toy swarm on the simulator's driver: a model whose every answer depends on every KV entry, and
steps and messages that take as long as chance wants. Beside it only what tests ask for."""

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from helix_p2p.planning.plan import EdgeFlow
from helix_p2p.session.effects import OpenCache, RunStep
from helix_p2p.session.generation import EntryLimits
from helix_p2p.session.messages import Delivered, Forward, Generate, Refused, check_forward
from helix_p2p.sim.helix.setup import HelixSetup, StageSetup
from helix_p2p.sim.native.peer import SimPeer
from helix_p2p.sim.native.swarm import ServingRules, ServingSwarm
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

    rng: random.Random
    caches: dict[SessionId, tuple[LayerRange, int, dict[int, int]]] = field(default_factory=dict)
    computed: int = 0
    slowness: float = 1.0
    ran: tuple[list[list[int]], ...] = ()

    def open(self, effect: OpenCache) -> None:
        known = self.caches.get(effect.session)
        kept = known[2] if known and known[0] == effect.layers else {}
        if effect.begin is not None:
            layers, _, held = self.caches[effect.begin.source]
            assert layers == effect.layers
            assert len(held) >= effect.begin.positions
            kept = {position: held[position] for position in range(effect.begin.positions)}
        self.caches[effect.session] = (effect.layers, effect.kv_tokens, kept)

    def close(self, session: SessionId) -> None:
        self.caches.pop(session, None)

    def seconds(self, _step: RunStep) -> float:
        return self.slowness * self.rng.uniform(0.001, 0.02)

    def inputs(self, message: Forward) -> list[list[int]]:
        check_forward(message)
        payloads, start = [], 0
        for count in message.counts:
            payloads.append(list(message.tokens[start : start + count]))
            start += count
        return payloads

    def outputs(self, _step: RunStep, rows: Sequence[int]) -> list[list[int]]:
        return [self.ran[0][index] for index in rows]

    def run(self, step: RunStep) -> list[int | None] | None:
        if any(row.session not in self.caches for row in step.rows):
            return None
        outputs: list[list[int]] = []
        tokens: list[int | None] = []
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
        self.ran = (outputs,)
        return tokens


class Swarm(ServingSwarm):
    """The simulator's swarm, as tests ask it: seconds from now, names as text, what was delivered.

    Unlike a real swarm's, its clients never go elsewhere.
    """

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
        self.delivered: dict[SessionId, list[int]] = {}
        self.ended: dict[SessionId, object] = {}
        stages = tuple(
            StageSetup(PeerId(name), LayerRange(*ends), kv, (), (), 1, 64)
            for name, ends in held.items()
        )
        rules = ServingRules(
            entry=EntryLimits(
                prefill_chunk_tokens=chunk,
                token_deadline_s=3.0,
                waiting_s=20.0,
                reuse_prefixes=reuse,
            ),
            context_tokens=500,
            vocab_size=VOCAB,
            jitter_s=0.03,
        )
        planned = tuple(EdgeFlow(*flow) for flow in flows)
        super().__init__(HelixSetup(layers, 16, stages, ()), rules, seed, flows=planned)

    def _new_engine(self, stage: StageSetup) -> Engine:
        return Engine(random.Random(f"{stage.peer} {self.rng.random()}"))

    def _identity_of(self, _request: Generate) -> PeerId:
        return PeerId("client")

    @property
    def now(self) -> float:
        return self.time.now_s

    def at(self, delay: float, action: Callable[[], None]) -> None:
        self.time.after(delay, action)

    def run(self, until: float) -> None:
        self.time.run(until)

    def generate(self, entry: str, request: Generate) -> None:
        self.delivered[request.session] = list(request.generated)
        self.ask(PeerId(entry), request, self)

    def kill(self, name: str) -> None:
        self.crash(PeerId(name))

    def stop(self, name: str) -> None:
        """It hangs for good."""
        self.hang(PeerId(name), 1e6)

    def do(self, peer: SimPeer, effects: Sequence) -> None:
        peer.do(effects)

    def on_message(self, _peer: PeerId, message: Delivered | Refused, _now_s: float) -> None:
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

    def on_entry_lost(self, _peer: PeerId, _error: object) -> None:
        """These clients wait."""
