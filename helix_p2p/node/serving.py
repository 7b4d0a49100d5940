"""Drives the serving machines with real IO: links to peers, client streams, the engine's thread.

One request's way through this file: `on_client_message(Generate)` → entry machine → `Open` to the
stages (ourselves included) → `Forward` → stage machine → `RunStep` → engine thread → `SendRows` to
the next stage, or `Sampled` to the entry peer → `Delivered` to the client.

Always: the machines are touched on the event loop only; effects are carried out in order, those
that effects cause behind them; a message to ourselves never leaves the process.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import SystemRandom
from typing import Protocol

import torch
from msgspec.structs import replace

from helix_p2p.engine.contract import Engine, StepResult
from helix_p2p.errors import (
    Busy,
    CapacityError,
    HelixError,
    NetworkError,
    OutOfMemory,
    PeerLost,
    PoisonedActivation,
    ProtocolError,
    StaleEpoch,
)
from helix_p2p.node import steps
from helix_p2p.node.compute import ComputeThread
from helix_p2p.node.config import ServingLimits
from helix_p2p.node.steps import RowPayload
from helix_p2p.node.tape import KeptRows, Tape
from helix_p2p.node.tracing import MOST_TRACED, Tracer
from helix_p2p.planning.plan import Placement
from helix_p2p.routing.admission import KvLedger, token_layers_of
from helix_p2p.routing.route import Router
from helix_p2p.session.backpressure import Backpressure
from helix_p2p.session.effects import (
    ClientKey,
    CloseCache,
    Deliver,
    Effect,
    OpenCache,
    RunStep,
    Send,
    SendRows,
)
from helix_p2p.session.entry import EntryMachine
from helix_p2p.session.generation import EntryLimits
from helix_p2p.session.limits import ModelLimits
from helix_p2p.session.messages import (
    Cancel,
    Close,
    Delivered,
    Forward,
    Generate,
    Open,
    Opened,
    Phase,
    Refused,
    Sampled,
    Sampling,
    StageFailed,
    TokenTrace,
    Trace,
    check_forward,
    check_sampled,
    failure_of,
)
from helix_p2p.session.stage import StageLimits, StageMachine
from helix_p2p.types import LayerRange, PeerId, SessionId
from helix_p2p.wire.framing import Buffer
from helix_p2p.wire.registry import Message

log = logging.getLogger(__name__)

WAITING_ACTIVATION_BYTES = 1024 * 1024 * 1024
"""What may wait for the engine, in host memory."""


class PeerLinks(Protocol):
    """Sends to neighbours without waiting; see `net.links.LinkPool`."""

    def send(
        self, peer: PeerId, message: Message, payload: Buffer = b"", *, urgent: bool = False
    ) -> None:
        """Queue a message.

        Raises:
            Busy: The peer does not keep up.
            PeerLost: Nothing is sent any more, this peer is on its way out.
        """

    def queued_bytes(self, peer: PeerId) -> int:
        """How much waits for a peer."""


class ClientStream(Protocol):
    """Sends to one client without waiting."""

    def send(self, message: Message) -> None:
        """Queue a message; a client that does not read is cut off by the stream itself."""


@dataclass(slots=True)
class ServingCounters:
    """What this peer computed since it started."""

    steps: int = 0
    decode_rows: int = 0
    prefill_tokens: int = 0
    busy_s: float = 0.0


class Serving:
    """This peer's stages and the generations it is the entry peer of.

    Args:
        me: This peer.
        engine: Owned by `compute`'s thread.
        compute: The engine's thread.
        links: To other peers.
        limits: Queues and deadlines.
        clock: Monotonic seconds.
        held_in: What the weights are held in, for those who check what is computed here.
    """

    def __init__(
        self,
        me: PeerId,
        engine: Engine,
        compute: ComputeThread,
        links: PeerLinks,
        limits: ServingLimits,
        clock: Callable[[], float],
        held_in: str = "",
    ) -> None:
        self.spec = spec = engine.spec
        self.held_in = held_in
        self.tape = Tape()
        self._me = me
        self._engine = engine
        self._compute = compute
        self._links = links
        self._clock = clock
        self._ledger = KvLedger(0)
        model = ModelLimits(spec.layers, spec.context_tokens, spec.vocab_size)
        self._stage: StageMachine[RowPayload] = StageMachine(
            me,
            model,
            self._ledger,
            StageLimits(
                limits.decode_batch,
                limits.prefill_chunk_tokens,
                limits.session_idle_s,
                max(limits.prefill_chunk_tokens, WAITING_ACTIVATION_BYTES // spec.activation_bytes),
            ),
        )
        self._router = Router(spec.layers)
        self._entry = EntryMachine(
            me,
            model,
            self._router,
            SystemRandom(),
            EntryLimits(
                waiting_sessions=limits.waiting_sessions,
                waiting_s=limits.waiting_s,
                prefill_chunk_tokens=limits.prefill_chunk_tokens,
                decode_batch=limits.decode_batch,
                token_deadline_s=limits.token_deadline_s,
            ),
        )
        self._clients: dict[ClientKey, ClientStream] = {}
        self._effects: deque[Effect[RowPayload]] = deque()
        self._carrying_out = False
        self._outputs = steps.Outputs()
        self._tracer = Tracer()
        self._traced: dict[tuple[ClientKey, SessionId], TokenTrace] = {}
        self._pressure = Backpressure()
        self.counters = ServingCounters()
        self.oldest_epoch = 0
        """Routes of plans before this one are refused; the node raises it as plans are adopted."""

    # ── what the node knows ──────────────────────────────────────────────────────────────────

    @property
    def entry(self) -> EntryMachine:
        """For status and metrics; only this class gives it inputs."""
        return self._entry

    @property
    def stage(self) -> StageMachine[RowPayload]:
        """For status and metrics; only this class gives it inputs."""
        return self._stage

    @property
    def ledger(self) -> KvLedger:
        """For status and metrics."""
        return self._ledger

    @property
    def idle(self) -> bool:
        """No session runs or waits here."""
        return not (self._stage.sessions or self._entry.running or self._entry.waiting)

    def follow(self, placement: Placement) -> None:
        """A new plan: its flows become the weights of the walk."""
        self._router.follow(placement)

    def serve(self, layers: LayerRange | None, *, draining: bool = False) -> None:
        """Which layers new sessions may use here, and how much KV room there is."""
        self._ledger.resize(self._engine.kv_capacity_token_layers)
        self._do(self._stage.serve(layers, draining=draining))

    def make_room(self) -> None:
        """Layers are about to be loaded: what is kept in case it comes back gives way."""
        self._do(self._stage.forget_kept())

    def see(
        self,
        serving: Mapping[PeerId, LayerRange],
        hosts: Mapping[PeerId, str],
        epoch: int,
        *,
        draining: bool = False,
    ) -> None:
        """Who serves what now, ourselves included."""
        self._do(self._entry.see(serving, hosts, epoch, self._clock(), draining=draining))

    def tick(self) -> None:
        """Look at deadlines; call it several times a second."""
        now_s = self._clock()
        self.tape.tick(now_s)
        for peer in self._pressure.drained(self._links.queued_bytes):
            self._do(self._stage.on_drained(peer))
        self._do(self._stage.tick(now_s))
        self._do(self._entry.tick(now_s))

    # ── clients ──────────────────────────────────────────────────────────────────────────────

    def add_client(self, key: ClientKey, stream: ClientStream) -> None:
        """A client's stream was opened."""
        self._clients[key] = stream

    def remove_client(self, key: ClientKey) -> None:
        """A client's stream ended; what it had running is freed."""
        if self._clients.pop(key, None) is not None:
            self._do(self._entry.on_client_lost(key, self._clock()))

    def owes(self, key: ClientKey) -> bool:
        """Whether a client waits for anything."""
        return self._entry.owes(key)

    def on_client_message(self, key: ClientKey, identity: PeerId, message: Message) -> None:
        """A frame from a client.

        Raises:
            ProtocolError: Clients do not send this.
        """
        match message:
            case Generate():
                self._do(self._entry.on_generate(key, identity, message, self._clock()))
            case Cancel(session):
                self._do(self._entry.on_cancel(key, session, self._clock()))
            case _:
                raise ProtocolError(f"a client does not send {type(message).__name__}")

    # ── peers ────────────────────────────────────────────────────────────────────────────────

    def on_peer_message(self, sender: PeerId, message: Message, payload: Buffer) -> None:
        """A frame from another peer, or from ourselves.

        Raises:
            ProtocolError: Peers do not send this, or it is malformed.
        """
        now_s = self._clock()
        match message:
            case Forward():
                check_forward(message)
                if message.trace is not None:
                    self._tracer.arrived(message.trace)
                try:
                    rows = steps.rows_of(message, payload, self._engine.spec)
                except PoisonedActivation as error:
                    self._do(self._stage.on_poisoned(sender, message, error))
                else:
                    self._do(self._stage.on_forward(sender, message, rows, now_s))
            case Sampled():
                check_sampled(message)
                if message.trace is not None:
                    self._trace_returned(message.trace)
                self._do(self._entry.on_sampled(sender, message, now_s))
            case Open():
                self._open(sender, message, now_s)
            case Opened():
                self._do(self._entry.on_opened(sender, message, now_s))
            case Close():
                self._do(self._stage.on_close(sender, message))
            case StageFailed():
                self._do(self._stage.on_stage_failed(sender, message))
                self._do(self._entry.on_stage_failed(sender, message, now_s))
            case _:
                raise ProtocolError(f"a peer does not send {type(message).__name__}")

    def _open(self, sender: PeerId, message: Open, now_s: float) -> None:
        if message.epoch < self.oldest_epoch:
            stale = StaleEpoch(f"epoch {message.epoch} is over, {self.oldest_epoch} is the oldest")
            answer = Opened(message.session, message.attempt, failure_of(stale))
            self._do([Send(sender, answer)])
        else:
            self._do(self._stage.on_open(sender, message, now_s))

    async def rerun(
        self, session: bytes, layers: LayerRange, trace: KeptRows, sampling: Sampling | None
    ) -> tuple[torch.Tensor | None, tuple[int, ...]]:
        """Run rows for a check, in a cache of their own that takes only room nobody needs.

        Raises:
            Busy: There is little room left for sessions.
            NotServing: The layers are not held here.
        """
        needed = 2 * token_layers_of(sum(trace.counts), layers)
        if needed > self._ledger.free_token_layers:
            raise Busy("the room is for sessions now", retry_after_s=5.0)
        return await self._compute.run(
            lambda: steps.rerun(
                self._engine,
                SessionId(session),
                layers,
                trace.counts,
                trace.wanted,
                trace.hidden,
                sampling,
            )
        )

    def on_peer_lost(self, peer: PeerId) -> None:
        """A link broke, fell silent, or could not be opened."""
        self._do(self._stage.on_peer_lost(peer))
        self._do(self._entry.on_peer_lost(peer, self._clock()))

    # ── effects ──────────────────────────────────────────────────────────────────────────────

    def _do(self, effects: Iterable[Effect[RowPayload]]) -> None:
        self._effects.extend(effects)
        if self._carrying_out:
            return
        self._carrying_out = True
        try:
            while self._effects:
                self._carry_out(self._effects.popleft())
        finally:
            self._carrying_out = False

    def _carry_out(self, effect: Effect[RowPayload]) -> None:
        match effect:
            case Send(to, message):
                if self._tracer.active and isinstance(message, Sampled):
                    self._send(to, self._tracer.leaving(message))
                else:
                    self._send(to, message)
            case SendRows(to, message, rows):
                self._send_rows(to, message, rows)
            case Deliver(to, message):
                self._deliver(to, message)
            case RunStep():
                self._run_step(effect)
            case OpenCache():
                self._compute.submit(
                    lambda: self._engine.open(
                        effect.session, effect.layers, effect.kv_tokens, effect.begin
                    ),
                    lambda _: None,
                    lambda error: self._cache_failed(effect.session, error),
                )
            case CloseCache(session):
                self._compute.submit(
                    lambda: self._engine.close(session), lambda _: None, _log_failure
                )

    def _send(self, to: PeerId, message: Message, payload: Buffer = b"") -> None:
        if to == self._me:
            self.on_peer_message(self._me, message, payload)
            return
        urgent = not isinstance(message, Forward) or message.phase is Phase.DECODE
        try:
            self._links.send(to, message, payload, urgent=urgent)
        except CapacityError as error:
            log.warning("%s does not keep up: %s", to, error)
            self.on_peer_lost(to)
        except NetworkError as error:
            log.debug("nothing is sent to %s any more: %s", to, error)
        else:
            if not urgent and self._pressure.fills(to, self._links.queued_bytes(to)):
                self._stage.on_congested(to)

    def _send_rows(self, to: PeerId, message: Forward, rows: Sequence[int]) -> None:
        message, payload = self._outputs.frame(message, rows)
        if self._tracer.active:
            self._send(to, self._tracer.leaving(message), payload)
        else:
            self._send(to, message, payload)

    def _trace_returned(self, trace: Trace) -> None:
        found, asked = self._tracer.returned(trace), self._entry.asked_by(trace.session)
        if found is not None and asked is not None:
            if len(self._traced) >= MOST_TRACED:  # of tokens that came too late
                self._traced.clear()
            self._traced[asked] = found

    def _deliver(self, to: ClientKey, message: Delivered | Refused) -> None:
        if self._traced and isinstance(message, Delivered):
            trace = self._traced.pop((to, message.session), None)
            message = message if trace is None else replace(message, trace=trace)
        stream = self._clients.get(to)
        if stream is not None:
            stream.send(message)

    # ── steps ────────────────────────────────────────────────────────────────────────────────

    def _run_step(self, step: RunStep[RowPayload]) -> None:
        self._compute.submit(
            lambda: self._step(step),
            lambda done: self._step_done(step, *done),
            lambda error: self._step_failed(step, error),
        )

    def _step(self, step: RunStep[RowPayload]) -> tuple[StepResult, float, float]:
        """On the engine's thread: what came out, when it began, how long it took."""
        start_s = time.perf_counter()
        result = steps.run(self._engine, step)
        return result, start_s, time.perf_counter() - start_s

    def _step_done(
        self, step: RunStep[RowPayload], result: StepResult, start_s: float, took_s: float
    ) -> None:
        if self._tracer.active:
            self._tracer.ran(step, start_s, took_s)
        self.counters.steps += 1
        self.counters.busy_s += took_s
        if step.phase is Phase.DECODE:
            self.counters.decode_rows += len(step.rows)
        else:
            self.counters.prefill_tokens += sum(row.count for row in step.rows)
        self._outputs.keep(step, result)
        tokens = result.tokens or (None,) * len(step.rows)
        self._do(self._stage.on_step_done(tokens, took_s))
        self.tape.keep(step, result, self._clock())  # after what others wait for

    def _cache_failed(self, session: SessionId, error: BaseException) -> None:
        """The device may have less room than the engine thought; it knows better now."""
        log.warning("a KV cache could not be opened: %s", error)
        self._ledger.resize(self._engine.kv_capacity_token_layers)
        self._do(self._stage.on_cache_failed(session, _typed(error)))

    def _step_failed(self, step: RunStep[RowPayload], error: BaseException) -> None:
        log.warning("a step of %d sessions failed: %s", len(step.rows), error, exc_info=error)
        typed = _typed(error)
        if isinstance(typed, OutOfMemory):  # the engine keeps more room for steps from now on
            self._ledger.resize(self._engine.kv_capacity_token_layers)
            typed = Busy(typed.message, retry_after_s=1.0)
        self._do(self._stage.on_step_failed(typed))


def _typed(error: BaseException) -> HelixError:
    """The engine's own errors are typed; anything else is this peer's failure."""
    return error if isinstance(error, HelixError) else PeerLost(f"the engine failed: {error!r}")


def _log_failure(error: BaseException) -> None:
    log.warning("the engine failed to close a cache: %s", error, exc_info=error)
