"""A peer's part of many sessions: reserve, merge what waits into batches, pass the outputs on.

The machine holds no tensors. It decides which rows run together and where each row's output goes;
`payload` is whatever the edge wants back when a row is run (bytes, a tensor view).

Always:
- a row runs only if it continues what its session's KV cache holds, in the current attempt: stale,
  duplicate and reordered frames have no effect;
- at most one step is out at a time; decode rows of all entry peers that wait are merged into it,
  and decode and prefill take turns when both wait, so neither starves (one prefill chunk, then one
  decode batch);
- prefill is served round robin by session and packed up to the chunk size;
- a session that ends, expires or loses its entry peer frees its KV reservation exactly once.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Generic, TypeVar

from helix_p2p.errors import HelixError, NotServing, PeerLost, ProtocolError
from helix_p2p.routing.admission import KvLedger
from helix_p2p.session.effects import (
    CloseCache,
    Effect,
    OpenCache,
    RunStep,
    Send,
    SendRows,
    StepRow,
)
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


@dataclass(frozen=True, slots=True)
class StageLimits:
    """How much runs at once and how long a silent session lives."""

    decode_batch: int = 64
    prefill_tokens: int = 256
    session_idle_s: float = 60.0


@dataclass(slots=True)
class _Session:
    """`filled` counts positions whose K and V are written or on their way through a step."""

    open: Open
    filled: int = 0
    history: list[int] = field(default_factory=list)

    @property
    def needs_history(self) -> bool:
        last = self.open.last
        return last is not None and last.sampling.repetition_penalty != 1.0


@dataclass(slots=True)
class _Waiting(Generic[P]):
    """One row in an inbox."""

    session: SessionId
    attempt: int
    position: int
    count: int
    sample: bool
    payload: P


class _Turn(Enum):
    DECODE = auto()
    PREFILL = auto()


@dataclass(slots=True)
class _Inbox(Generic[P]):
    decode: deque[_Waiting[P]] = field(default_factory=deque)
    prefill: dict[SessionId, deque[_Waiting[P]]] = field(default_factory=dict)

    def put(self, phase: Phase, row: _Waiting[P]) -> None:
        if phase is Phase.DECODE:
            self.decode.append(row)
        else:
            self.prefill.setdefault(row.session, deque()).append(row)

    def forget(self, session: SessionId) -> None:
        self.prefill.pop(session, None)
        self.decode = deque(row for row in self.decode if row.session != session)

    @property
    def rows(self) -> int:
        return len(self.decode) + sum(len(chunks) for chunks in self.prefill.values())


class StageMachine(Generic[P]):
    """All sessions in which this peer is a stage.

    Args:
        me: This peer.
        ledger: KV room; the machine reserves and releases in it.
        limits: Batch sizes and idle time.
    """

    def __init__(self, me: PeerId, ledger: KvLedger, limits: StageLimits | None = None) -> None:
        self._me = me
        self._ledger = ledger
        self._limits = limits or StageLimits()
        self._serving: LayerRange | None = None
        self._draining = False
        self._sessions: dict[SessionId, _Session] = {}
        self._inbox: _Inbox[P] = _Inbox()
        self._turn = _Turn.DECODE
        self._running: RunStep[P] | None = None

    @property
    def sessions(self) -> int:
        """Open sessions."""
        return len(self._sessions)

    @property
    def waiting_rows(self) -> int:
        """Rows that wait for a step."""
        return self._inbox.rows

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
        if known is not None and message.attempt < known.open.attempt:
            return []
        try:
            self._check_open(sender, message, known)
            self._ledger.reserve(
                message.session,
                message.kv_tokens * len(message.layers),
                now_s + self._limits.session_idle_s,
            )
        except HelixError as error:
            effects = self._end(message.session) if known is not None else []
            answer = Opened(message.session, message.attempt, failure_of(error))
            return [*effects, Send(message.entry, answer)]
        self._inbox.forget(message.session)
        effects = []
        if known is not None and known.open.layers != message.layers:
            effects.append(CloseCache(message.session))
        self._sessions[message.session] = fresh = _Session(message)
        if fresh.needs_history and message.last is not None:
            fresh.history.extend(message.last.history)
        effects.append(OpenCache(message.session, message.layers, message.kv_tokens))
        effects.append(Send(message.entry, Opened(message.session, message.attempt)))
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
        for index, session in enumerate(message.sessions):
            known = self._sessions.get(session)
            if known is None or known.open.attempt != message.attempts[index]:
                continue
            if known.open.previous != sender or message.positions[index] != known.filled:
                continue
            if message.positions[index] + message.counts[index] > known.open.kv_tokens:
                continue
            known.filled += message.counts[index]
            self._ledger.touch(session, now_s + self._limits.session_idle_s)
            row = _Waiting(
                session,
                message.attempts[index],
                message.positions[index],
                message.counts[index],
                message.sample[index],
                payloads[index],
            )
            self._inbox.put(message.phase, row)
        return self._next_step()

    def on_poisoned(self, sender: PeerId, message: Forward, error: HelixError) -> list[Effect[P]]:
        """A frame's activations are unusable: its sender is at fault, its sessions move on."""
        effects: list[Effect[P]] = []
        for session, attempt in zip(message.sessions, message.attempts, strict=True):
            known = self._sessions.get(session)
            if known is None or known.open.attempt != attempt or known.open.previous != sender:
                continue
            failed = StageFailed(session, attempt, sender, failure_of(error))
            entry = known.open.entry
            effects += [*self._end(session), Send(entry, failed)]
        return effects

    def on_peer_lost(self, peer: PeerId) -> list[Effect[P]]:
        """A neighbour is gone: free what its sessions held, tell who can repair the others."""
        effects: list[Effect[P]] = []
        for session, known in list(self._sessions.items()):
            if known.open.entry == peer:
                effects += self._end(session)
            elif known.open.next == peer:
                lost = PeerLost(f"the next stage {peer} is gone")
                effects.append(
                    Send(
                        known.open.entry,
                        StageFailed(session, known.open.attempt, peer, failure_of(lost)),
                    )
                )
        return effects

    def tick(self, now_s: float) -> list[Effect[P]]:
        """Free sessions that heard nothing for too long."""
        effects: list[Effect[P]] = []
        for session in self._ledger.expired(now_s):
            effects += self._end(session)
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
        """The engine refused the step; each of its sessions is told, none is left waiting."""
        step = self._finish_step()
        effects: list[Effect[P]] = []
        for row in step.rows:
            known = self._sessions.get(row.session)
            if known is not None and known.open.attempt == row.attempt:
                entry, attempt = known.open.entry, known.open.attempt
                failed = StageFailed(row.session, attempt, self._me, failure_of(error))
                effects += [*self._end(row.session), Send(entry, failed)]
        return effects + self._next_step()

    def on_cache_failed(self, session: SessionId, error: HelixError) -> list[Effect[P]]:
        """The engine could not open a cache that the ledger had admitted."""
        known = self._sessions.get(session)
        if known is None:
            return []
        entry, attempt = known.open.entry, known.open.attempt
        failed = StageFailed(session, attempt, self._me, failure_of(error))
        return [*self._end(session), Send(entry, failed)]

    # ── inside ───────────────────────────────────────────────────────────────────────────────

    def _check_open(self, sender: PeerId, message: Open, known: _Session | None) -> None:
        if message.entry != sender or (known is not None and known.open.entry != sender):
            raise ProtocolError("only a session's entry peer opens its stages")
        if message.kv_tokens < 1:
            raise ProtocolError("a session needs room for at least one token")
        if (message.last is None) != (message.next is not None):
            raise ProtocolError("exactly the last stage samples")
        if self._serving is None or not self._serving.contains(message.layers):
            held = self._serving or "none"
            raise NotServing(f"layers {message.layers} are not served here (served: {held})")
        if self._draining and known is None:
            raise NotServing("this peer is leaving")

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
        turns = (self._turn, _Turn.PREFILL if self._turn is _Turn.DECODE else _Turn.DECODE)
        for turn in turns:
            rows = self._take_decode() if turn is _Turn.DECODE else self._take_prefill()
            if not rows:
                continue
            self._turn = _Turn.PREFILL if turn is _Turn.DECODE else _Turn.DECODE
            phase = Phase.DECODE if turn is _Turn.DECODE else Phase.PREFILL
            first = self._sessions[rows[0].session].open
            self._running = RunStep(
                phase, first.layers, tuple(self._row(row) for row in rows), first.layers.start == 0
            )
            return [self._running]
        return []

    def _take_decode(self) -> list[_Waiting[P]]:
        """All waiting decode rows that share the first one's layers, one per session."""
        taken: list[_Waiting[P]] = []
        left: deque[_Waiting[P]] = deque()
        layers: LayerRange | None = None
        for row in self._inbox.decode:
            open_ = self._sessions[row.session].open
            layers = layers or open_.layers
            if open_.layers == layers and len(taken) < self._limits.decode_batch:
                taken.append(row)
            else:
                left.append(row)
        self._inbox.decode = left
        return taken

    def _take_prefill(self) -> list[_Waiting[P]]:
        """Chunks of different sessions that share layers, up to the chunk size together."""
        taken: list[_Waiting[P]] = []
        layers: LayerRange | None = None
        room = self._limits.prefill_tokens
        for session in list(self._inbox.prefill):
            chunks = self._inbox.prefill[session]
            open_ = self._sessions[session].open
            layers = layers or open_.layers
            if open_.layers != layers or (taken and chunks[0].count > room):
                continue
            taken.append(chunks.popleft())
            room -= taken[-1].count
            del self._inbox.prefill[session]
            if chunks:  # its next chunk waits behind the other sessions'
                self._inbox.prefill[session] = chunks
            if room <= 0:
                break
        return taken

    def _row(self, waiting: _Waiting[P]) -> StepRow[P]:
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
    return Failure(error.code, error.message, error.retry_after_s)


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
