"""A peer's part of many sessions: reserve, merge what waits into batches, pass the outputs on.

The machine holds no tensors. It decides which rows run together and where each row's output goes;
`payload` is whatever the edge wants back when a row is run (bytes, a tensor view).

Always:
- a row runs only if it continues what its session's KV cache holds, in the current attempt: stale
  and duplicate frames have no effect;
- a row that cannot run, though its session waits for it, is never dropped in silence: who can
  repair the session is told at once;
- at most one step is out at a time; what it contains is chosen in `inbox.py`;
- one session's trouble is its own: a step of several rows that fails is run again in halves, until
  what fails alone is alone (writes to the KV cache are idempotent, so nothing is done twice);
- a session that ends, expires or loses its entry peer frees its KV reservation exactly once, and
  an entry peer that did not end it itself is told.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from helix_p2p.errors import Busy, HelixError, NotServing, PeerLost, ProtocolError
from helix_p2p.routing.admission import KvLedger, token_layers_of
from helix_p2p.routing.shares import FairShares
from helix_p2p.session.effects import (
    CloseCache,
    Effect,
    OpenCache,
    RunStep,
    Send,
    SendRows,
    StepRow,
)
from helix_p2p.session.inbox import Inbox, Waiting
from helix_p2p.session.limits import ModelLimits, check_open
from helix_p2p.session.messages import (
    Close,
    Failure,
    Forward,
    Open,
    Opened,
    Phase,
    Sampled,
    StageFailed,
)
from helix_p2p.types import LayerRange, PeerId, SessionId

P = TypeVar("P")

MESSAGE_CHARACTERS = 1000
"""Of an error, on the wire."""


@dataclass(frozen=True, slots=True)
class StageLimits:
    """How much runs at once, how much may wait, and how long a silent session lives.

    Attributes:
        waiting_positions: Most positions whose activations wait here; a stage so far behind gives
            sessions back instead of filling its memory.
    """

    decode_batch: int = 64
    prefill_tokens: int = 256
    session_idle_s: float = 60.0
    waiting_positions: int = 65_536


@dataclass(slots=True)
class _Session:
    """`filled` counts positions whose K and V are written or on their way through a step."""

    open: Open
    filled: int = 0
    decoding: bool = False
    history: list[int] = field(default_factory=list)

    @property
    def needs_history(self) -> bool:
        last = self.open.last
        return last is not None and last.sampling.repetition_penalty != 1.0


class StageMachine(Generic[P]):
    """All sessions in which this peer is a stage.

    Args:
        me: This peer.
        model: What the model takes.
        ledger: KV room; the machine reserves and releases in it.
        limits: Batch sizes and idle time.
    """

    def __init__(
        self,
        me: PeerId,
        model: ModelLimits,
        ledger: KvLedger,
        limits: StageLimits | None = None,
    ) -> None:
        self._me = me
        self._model = model
        self._ledger = ledger
        self._shares = FairShares(ledger)
        self._limits = limits or StageLimits()
        self._serving: LayerRange | None = None
        self._draining = False
        self._sessions: dict[SessionId, _Session] = {}
        self._inbox: Inbox[P] = Inbox(self._limits.decode_batch, self._limits.prefill_tokens)
        self._running: RunStep[P] | None = None
        self._again: deque[RunStep[P]] = deque()

    @property
    def sessions(self) -> int:
        """Open sessions."""
        return len(self._sessions)

    @property
    def waiting_rows(self) -> int:
        """Rows that wait for a step."""
        return self._inbox.rows

    @property
    def waiting_positions(self) -> int:
        """Positions of those rows."""
        return self._inbox.positions

    def layers_in_use(self) -> tuple[LayerRange, ...]:
        """Ranges that open sessions run on; those layers must not be dropped."""
        return tuple({session.open.layers for session in self._sessions.values()})

    def serve(self, layers: LayerRange | None, *, draining: bool = False) -> None:
        """Which layers new sessions may use; running ones are not touched."""
        self._serving = layers
        self._draining = draining

    # ── messages ─────────────────────────────────────────────────────────────────────────────

    def on_open(self, sender: PeerId, message: Open, now_s: float) -> list[Effect[P]]:
        """Reserve room for a session, or say why not."""
        known = self._sessions.get(message.session)
        mine = known is not None and known.open.entry == sender
        if mine and known is not None and message.attempt < known.open.attempt:
            return []
        try:
            if known is not None and not mine:
                raise ProtocolError("this session is another entry peer's")
            check_open(message, sender, self._me, self._model)
            self._check_serving(message, known)
            self._shares.reserve(
                message.session,
                sender,
                token_layers_of(message.kv_tokens, message.layers),
                now_s,
                now_s + self._limits.session_idle_s,
            )
        except HelixError as error:
            effects = self._end(message.session) if mine else []
            answer = Opened(message.session, message.attempt, failure_of(error))
            return [*effects, Send(sender, answer)]
        self._inbox.forget(message.session)
        effects = []
        if known is not None and known.open.layers != message.layers:
            effects.append(CloseCache(message.session))
        self._sessions[message.session] = fresh = _Session(message)
        if fresh.needs_history and message.last is not None:
            fresh.history.extend(message.last.history)
        effects.append(OpenCache(message.session, message.layers, message.kv_tokens))
        effects.append(Send(sender, Opened(message.session, message.attempt)))
        return effects

    def on_close(self, sender: PeerId, message: Close) -> list[Effect[P]]:
        """The entry peer is done with a session."""
        known = self._sessions.get(message.session)
        if known is None or known.open.entry != sender or message.attempt < known.open.attempt:
            return []
        return self._end(message.session)

    def on_forward(
        self, sender: PeerId, message: Forward, payloads: Sequence[P], now_s: float
    ) -> list[Effect[P]]:
        """Rows from the previous stage (or the entry peer itself).

        Args:
            sender: Who sent the frame.
            message: Checked with `check_forward`.
            payloads: One per row.
            now_s: Now.
        """
        effects: list[Effect[P]] = []
        for index, session in enumerate(message.sessions):
            known = self._sessions.get(session)
            attempt = message.attempts[index]
            if known is None or known.open.attempt < attempt:
                unknown = PeerLost("this session is not known here any more")
                failed = StageFailed(session, attempt, self._me, failure_of(unknown))
                effects.append(Send(sender, failed))
                continue
            stale = known.open.attempt > attempt or message.positions[index] < known.filled
            if stale or known.open.previous != sender:
                continue
            try:
                self._check_row(message, known, index)
            except HelixError as error:
                at_fault = self._me if isinstance(error, Busy) else sender
                effects += self._fail(session, known.open, at_fault, error)
                continue
            known.filled += message.counts[index]
            self._ledger.touch(session, now_s + self._limits.session_idle_s)
            row = Waiting(
                session,
                attempt,
                message.positions[index],
                message.counts[index],
                message.sample[index],
                payloads[index],
                known.open.layers,
                known.open.next,
            )
            self._inbox.put(message.phase, row)
        return effects + self._next_step()

    def on_stage_failed(self, sender: PeerId, message: StageFailed) -> list[Effect[P]]:
        """The next stage does not go on with a session: whoever can repair it is told."""
        known = self._sessions.get(message.session)
        if known is None or known.open.attempt != message.attempt or known.open.next != sender:
            return []
        if known.open.entry == self._me:
            return []  # the entry machine of this peer hears it too
        failed = StageFailed(message.session, message.attempt, sender, message.failure)
        return [*self._end(message.session), Send(known.open.entry, failed)]

    def on_poisoned(self, sender: PeerId, message: Forward, error: HelixError) -> list[Effect[P]]:
        """A frame's activations are unusable: its sender is at fault, its sessions move on."""
        effects: list[Effect[P]] = []
        for session, attempt in zip(message.sessions, message.attempts, strict=True):
            known = self._sessions.get(session)
            if known is None or known.open.attempt != attempt or known.open.previous != sender:
                continue
            effects += self._fail(session, known.open, sender, error)
        return effects

    def on_congested(self, peer: PeerId) -> None:
        """The way to a next stage is full; prefill for it waits here until `on_drained`."""
        self._inbox.congested.add(peer)

    def on_drained(self, peer: PeerId) -> list[Effect[P]]:
        """There is room again on the way to a next stage."""
        self._inbox.congested.discard(peer)
        return self._next_step()

    def on_peer_lost(self, peer: PeerId) -> list[Effect[P]]:
        """A neighbour is gone: free what its sessions held, tell who can repair the others."""
        effects: list[Effect[P]] = []
        self._inbox.congested.discard(peer)
        for session, known in list(self._sessions.items()):
            if known.open.entry == peer:
                effects += self._end(session)
            elif known.open.next == peer:
                lost = PeerLost(f"the next stage {peer} is gone")
                effects.append(_failed(session, known.open, peer, lost))
        return effects

    def tick(self, now_s: float) -> list[Effect[P]]:
        """Free sessions that heard nothing for too long, or whose room is another's by now."""
        effects: list[Effect[P]] = []
        for session in self._ledger.expired(now_s):
            silent = Busy(f"it heard nothing for {self._limits.session_idle_s:g} s")
            effects += self._fail(session, self._sessions[session].open, self._me, silent)
        if (session_to_end := self._shares.to_end(now_s)) is not None:
            unfair = Busy("others have waited for their share of this peer", retry_after_s=5.0)
            ended = self._sessions[session_to_end].open
            effects += self._fail(session_to_end, ended, self._me, unfair)
        return effects

    # ── steps ────────────────────────────────────────────────────────────────────────────────

    def on_step_done(self, tokens: Sequence[int | None]) -> list[Effect[P]]:
        """The step ran; `tokens[i]` is what row i sampled. Outputs go on, the next step starts."""
        step = self._finish_step()
        onward: dict[PeerId, list[int]] = {}
        sampled: dict[PeerId, list[int]] = {}
        for index, row in enumerate(step.rows):
            known = self._sessions.get(row.session)
            if known is None or known.open.attempt != row.attempt:
                continue
            if known.open.next is not None:
                onward.setdefault(known.open.next, []).append(index)
            elif (token := tokens[index]) is not None:
                sampled.setdefault(known.open.entry, []).append(index)
                if known.needs_history:
                    known.history.append(token)
        effects: list[Effect[P]] = []
        for peer, rows in sampled.items():
            effects.append(Send(peer, _sampled(step.rows, tokens, rows)))
        for peer, rows in onward.items():
            effects.append(SendRows(peer, _forward(step, rows), tuple(rows)))
        return effects + self._next_step()

    def on_step_failed(self, error: HelixError) -> list[Effect[P]]:
        """The engine refused the step: find the row that it refuses, and end that session."""
        step = self._finish_step()
        middle = len(step.rows) // 2
        if middle:
            halves = (step.rows[:middle], step.rows[middle:])
            self._again.extend(replace(step, rows=rows) for rows in halves)
            return self._next_step()
        (row,) = step.rows
        effects: list[Effect[P]] = []
        known = self._sessions.get(row.session)
        if known is not None and known.open.attempt == row.attempt:
            effects += self._fail(row.session, known.open, self._me, error)
        return effects + self._next_step()

    def on_cache_failed(self, session: SessionId, error: HelixError) -> list[Effect[P]]:
        """The engine could not open a cache that the ledger had admitted."""
        known = self._sessions.get(session)
        if known is None:
            return []
        return self._fail(session, known.open, self._me, error)

    # ── inside ───────────────────────────────────────────────────────────────────────────────

    def _check_serving(self, message: Open, known: _Session | None) -> None:
        if self._serving is None or not self._serving.contains(message.layers):
            held = self._serving or "none"
            raise NotServing(f"layers {message.layers} are not served here (served: {held})")
        if self._draining and known is None:
            raise NotServing("this peer is leaving")

    def _check_row(self, message: Forward, known: _Session, index: int) -> None:
        """What no honest sender sends, or what there is no room for."""
        count = message.counts[index]
        if message.positions[index] > known.filled:
            raise ProtocolError(f"positions from {known.filled} on are missing")
        if known.filled + count > known.open.kv_tokens:
            raise ProtocolError(f"{known.open.kv_tokens} positions are reserved, and no more")
        if bool(message.tokens) != (known.open.layers.start == 0):
            raise ProtocolError("a first stage takes tokens, every other one activations")
        if message.phase is Phase.DECODE and self._inbox.prefills(known.open.session):
            raise ProtocolError("a decode step came before its prefill was done")
        if message.phase is Phase.PREFILL and known.decoding:
            raise ProtocolError("prefill came after a decode step")
        known.decoding = message.phase is Phase.DECODE
        if self._inbox.positions + count > self._limits.waiting_positions:
            raise Busy(f"{self._inbox.positions} positions wait here already", retry_after_s=5.0)

    def _fail(
        self, session: SessionId, open_: Open, at_fault: PeerId, error: HelixError
    ) -> list[Effect[P]]:
        return [*self._end(session), _failed(session, open_, at_fault, error)]

    def _end(self, session: SessionId) -> list[Effect[P]]:
        self._sessions.pop(session, None)
        self._ledger.release(session)
        self._inbox.forget(session)
        return [CloseCache(session)]

    def _finish_step(self) -> RunStep[P]:
        if self._running is None:
            raise AssertionError("no step is running")
        step, self._running = self._running, None
        return step

    def _next_step(self) -> list[Effect[P]]:
        if self._running is not None:
            return []
        self._running = self._repeated() or self._fresh()
        return [] if self._running is None else [self._running]

    def _repeated(self) -> RunStep[P] | None:
        """A part of a step that failed, less the sessions that ended since."""
        while self._again:
            step = self._again.popleft()
            rows = tuple(row for row in step.rows if self._is_current(row))
            if rows:
                return replace(step, rows=rows)
        return None

    def _fresh(self) -> RunStep[P] | None:
        found = self._inbox.take()
        if found is None:
            return None
        phase, rows = found
        layers = rows[0].layers
        return RunStep(phase, layers, tuple(self._row(row) for row in rows), layers.start == 0)

    def _is_current(self, row: StepRow[P]) -> bool:
        known = self._sessions.get(row.session)
        return known is not None and known.open.attempt == row.attempt

    def _row(self, waiting: Waiting[P]) -> StepRow[P]:
        known = self._sessions[waiting.session]
        return StepRow(
            waiting.session,
            waiting.attempt,
            waiting.position,
            waiting.count,
            known.open.last if waiting.sample else None,
            waiting.sample,
            waiting.payload,
            tuple(known.history) if waiting.sample else (),
        )


def failure_of(error: HelixError) -> Failure:
    """An error as it goes over the wire."""
    return Failure(error.code, error.message[:MESSAGE_CHARACTERS], error.retry_after_s)


def _failed(session: SessionId, open_: Open, at_fault: PeerId, error: HelixError) -> Send:
    return Send(open_.entry, StageFailed(session, open_.attempt, at_fault, failure_of(error)))


def _forward(step: RunStep[P], indices: Iterable[int]) -> Forward:
    rows = [step.rows[index] for index in indices]
    return Forward(
        step.phase,
        tuple(row.session for row in rows),
        tuple(row.attempt for row in rows),
        tuple(row.position for row in rows),
        tuple(row.count for row in rows),
        tuple(row.wanted for row in rows),
    )


def _sampled(
    rows: Sequence[StepRow[P]], tokens: Sequence[int | None], indices: Iterable[int]
) -> Sampled:
    chosen = [(rows[index], token) for index in indices if (token := tokens[index]) is not None]
    return Sampled(
        tuple(row.session for row, _ in chosen),
        tuple(row.attempt for row, _ in chosen),
        tuple(row.position + row.count for row, _ in chosen),
        tuple(token for _, token in chosen),
    )
