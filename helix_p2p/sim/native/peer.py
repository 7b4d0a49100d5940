"""One simulated machine: production serving machines, a modelled engine, and what joins the two.

This is to virtual time what `node.serving` is to real IO, and the only driver of the machines that
runs without a clock: the simulator's swarms and the tests' toy swarm share it.

Always: effects are carried out in order, those that effects cause behind them; a message to the
peer itself never goes over the network; a peer that is down neither hears nor says anything, one
that hangs finds what it missed waiting; a KV reservation never exceeds its stage.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from helix_p2p.errors import PeerLost
from helix_p2p.net.link import LinkOptions
from helix_p2p.routing.admission import KvLedger
from helix_p2p.routing.route import Router
from helix_p2p.session.backpressure import LOOK_AGAIN_S, Backpressure
from helix_p2p.session.effects import CloseCache, Deliver, OpenCache, RunStep, Send, SendRows
from helix_p2p.session.entry import EntryMachine
from helix_p2p.session.messages import (
    Close,
    Delivered,
    Forward,
    Open,
    Opened,
    Phase,
    Refused,
    Sampled,
    StageFailed,
)
from helix_p2p.session.stage import StageMachine
from helix_p2p.sim.clock import VirtualTime
from helix_p2p.sim.helix.setup import StageSetup
from helix_p2p.sim.native.engine import BrokenInvariant, SimEngine
from helix_p2p.sim.network import Network
from helix_p2p.types import LayerRange, PeerId

MESSAGE_BYTES = 128.0
EOF_S = 0.05
"""Until the other end of a stream reads that a killed process is gone (measured, design §7)."""

QUEUE_BYTES = LinkOptions().queue_bytes
"""What waits for one peer at most."""

CLIENT = PeerId("client")


class Surroundings(Protocol):
    """What a peer finds around it."""

    time: VirtualTime
    network: Network
    peers: dict[PeerId, "SimPeer"]
    activation_bytes: int

    def answer(self, source: PeerId, messages: Sequence[Delivered | Refused]) -> None:
        """A peer says something to clients."""


class SimPeer:
    """See the module's description.

    Args:
        around: Time, network and the other peers.
        setup: Who it is, and how fast.
        ledger: Its KV room.
        router: Of its entry machine.
        stage: Its part of others' pipelines.
        entry: The generations that clients start here.
        engine: What steps take and give.
        layers: What it serves.
    """

    def __init__(
        self,
        around: Surroundings,
        setup: StageSetup,
        ledger: KvLedger,
        router: Router,
        stage: StageMachine[Any],
        entry: EntryMachine,
        engine: SimEngine,
        layers: LayerRange | None,
    ) -> None:
        self.me = setup.peer
        self.setup = setup
        self.ledger = ledger
        self.router = router
        self.stage = stage
        self.entry = entry
        self.engine = engine
        self.layers = layers
        self.clock_offset_s = 0.0
        self.clock_rate = 1.0
        self.alive = True
        self.hung = False
        self.life = 0
        self.steps = 0
        self.tokens_to: dict[PeerId, int] = {}
        self._around = around
        self._ran: RunStep[Any] | None = None
        self._held_back: list[tuple[Any, ...]] = []
        self._pressure = Backpressure()
        self._effects: deque[Any] = deque()
        self._carrying_out = False

    @property
    def now_s(self) -> float:
        """Its own clock, which nobody else's agrees with."""
        return self.clock_offset_s + self.clock_rate * self._around.time.now_s

    def away(self, *call: Any) -> bool:
        """Whether the peer cannot act now; what a hanging peer missed waits for it."""
        if not self.alive:
            return True
        if self.hung:
            self._held_back.append(call)
            return True
        return False

    def wake(self) -> None:
        """It hangs no more."""
        self.hung = False
        waiting, self._held_back = self._held_back, []
        for call in waiting:
            self._around.time.after(0.0, *call)

    def tick(self) -> None:
        """Time has passed."""
        now_s = self.now_s
        if not self.entry.idle:
            self.do(self.entry.tick(now_s))
        if not self.stage.idle:
            self.do(self.stage.tick(now_s))

    def lose(self, lost: PeerId) -> None:
        """A neighbour's stream broke or fell silent."""
        self.do(self.stage.on_peer_lost(lost))
        self.do(self.entry.on_peer_lost(lost, self.now_s))

    # ── effects ──────────────────────────────────────────────────────────────────────────────

    def do(self, effects: Iterable[Any]) -> None:
        """Carry out what the machines want."""
        queue = self._effects
        queue.extend(effects)
        if self._carrying_out:
            return
        self._carrying_out = True
        while queue:
            effect = queue.popleft()
            kind = type(effect)
            if kind is SendRows:
                assert self._ran is not None, "rows are sent after a step"
                payloads = self.engine.outputs(self._ran, effect.rows)
                self._send_forward(effect.to, effect.message, payloads)
            elif kind is RunStep:
                self._begin_step(effect)
            elif kind is Send:
                self._send(effect.to, effect.message)
            elif kind is Deliver:
                answers = [effect.message]
                while queue and type(queue[0]) is Deliver:
                    answers.append(queue.popleft().message)
                self._around.answer(self.me, answers)
            elif kind is OpenCache:
                self.engine.open(effect)
            elif kind is CloseCache:
                self.engine.close(effect.session)
            else:
                raise BrokenInvariant(f"an unknown effect {effect!r}")
        self._carrying_out = False

    def _begin_step(self, step: RunStep[Any]) -> None:
        # The engine's thread takes what it is given in order: what is asked of a cache while a step
        # runs waits behind it. So a step has its effect when it begins, its answer at its end.
        self.steps += 1
        tokens = self.engine.run(step)
        self._around.time.after(self.engine.seconds(step), self._end_step, step, tokens)

    def _end_step(self, step: RunStep[Any], tokens: Sequence[int | None] | None) -> None:
        if (not self.alive or self.hung) and self.away(self._end_step, step, tokens):
            return
        self._ran = step
        if tokens is None:
            self.do(self.stage.on_step_failed(PeerLost("a cache was closed meanwhile")))
        else:
            self.do(self.stage.on_step_done(tokens))

    def _send(self, to: PeerId, message: Any) -> None:
        if type(message) is Forward:
            self._send_forward(to, message, self.engine.inputs(message))
        elif to == self.me:
            self.receive(to, message, ())
        else:
            self._put_on(to, MESSAGE_BYTES, message, (), urgent=True)

    def _send_forward(self, to: PeerId, message: Forward, payloads: Sequence[Any]) -> None:
        if to == self.me:
            self.receive(to, message, payloads)
            return
        urgent = message.phase is Phase.DECODE
        tokens = len(payloads) if urgent else sum(message.counts)
        self.tokens_to[to] = self.tokens_to.get(to, 0) + tokens
        size = MESSAGE_BYTES + tokens * self._around.activation_bytes
        self._put_on(to, size, message, payloads, urgent=urgent)
        if not urgent:
            self._notice_pressure(to)

    def _put_on(
        self, to: PeerId, size: float, message: Any, payloads: Sequence[Any], *, urgent: bool
    ) -> None:
        around = self._around
        target = around.peers.get(to)
        if target is None:
            return
        if not target.alive:
            around.time.after(EOF_S, self._find_lost, to)
        elif around.network.queued_bytes(self.me, to) > QUEUE_BYTES:
            self.lose(to)  # as the real outbox, which takes no more
        else:
            around.network.send(
                self.me, to, size, target.receive, self.me, message, payloads, urgent=urgent
            )

    def _notice_pressure(self, to: PeerId) -> None:
        looking = self._pressure.any_full
        if self._pressure.fills(to, self._around.network.queued_bytes(self.me, to)):
            self.stage.on_congested(to)
            if not looking:
                self._around.time.after(LOOK_AGAIN_S, self._look_for_room)

    def _look_for_room(self) -> None:
        if not self.alive:
            return
        network = self._around.network
        if not self.hung:
            for peer in self._pressure.drained(lambda to: network.queued_bytes(self.me, to)):
                self.do(self.stage.on_drained(peer))
        if self._pressure.any_full:
            self._around.time.after(LOOK_AGAIN_S, self._look_for_room)

    def _find_lost(self, lost: PeerId) -> None:
        if self.alive and not self._around.peers[lost].alive:
            self.lose(lost)

    # ── messages ─────────────────────────────────────────────────────────────────────────────

    def receive(self, sender: PeerId, message: Any, payloads: Sequence[Any]) -> None:
        """A peer's message, or one of its own."""
        if (not self.alive or self.hung) and self.away(self.receive, sender, message, payloads):
            return
        now_s = self.now_s
        kind = type(message)
        if kind is Forward:
            self.do(self.stage.on_forward(sender, message, payloads, now_s))
        elif kind is Sampled:
            self.do(self.entry.on_sampled(sender, message, now_s))
        elif kind is Open:
            self.do(self.stage.on_open(sender, message, now_s))
            if self.ledger.used_token_layers > self.ledger.capacity_token_layers:
                raise BrokenInvariant(f"{self.me} reserved more KV than it has")
        elif kind is Opened:
            self.do(self.entry.on_opened(sender, message, now_s))
        elif kind is Close:
            self.do(self.stage.on_close(sender, message))
        elif kind is StageFailed:
            self.do(self.stage.on_stage_failed(sender, message))
            self.do(self.entry.on_stage_failed(sender, message, now_s))
        else:
            raise BrokenInvariant(f"an unknown message {message!r}")
