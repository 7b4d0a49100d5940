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
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from msgspec.structs import replace

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
from helix_p2p.session.inbox import Inbox
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
from helix_p2p.session.pace import PrefillPace
from helix_p2p.session.prefixes import (
    PREFIX_BLOCK_TOKENS,
    KeptCache,
    KeptCaches,
    KvCopy,
    shared_positions,
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


@dataclass(slots=True, eq=False)
class _Session:
    """`filled` counts positions whose K and V are written or on their way through a step.

    `heard_s` is when its last row came; the ledger is told when it asks (`tick`), not per row.
    `reused` counts positions that the cache began with; the first row may come anywhere in them.
    """

    open: Open
    heard_s: float
    takes_tokens: bool
    needs_history: bool
    filled: int = 0
    reused: int = 0
    decoding: bool = False
    history: list[int] = field(default_factory=list)


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
        self._kept = KeptCaches()
        self._inbox: Inbox[P] = Inbox(self._limits.decode_batch, self._limits.prefill_tokens)
        self._pace = PrefillPace(self._limits.prefill_tokens)
        self._running: RunStep[P] | None = None
        self._changes = 0  # to who is open here, and under which attempt
        self._changes_before_step = 0
        self._historians = 0  # sessions whose sampling needs what came before
        self._again: deque[RunStep[P]] = deque()

    @property
    def sessions(self) -> int:
        """Open sessions."""
        return len(self._sessions)

    @property
    def kept(self) -> int:
        """Caches of ended sessions that are kept in case a prompt begins alike."""
        return len(self._kept)

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

    def serve(self, layers: LayerRange | None, *, draining: bool = False) -> list[Effect[P]]:
        """Which layers new sessions may use; running ones are not touched."""
        self._serving = layers
        self._draining = draining
        return [CloseCache(session) for session in self._kept.fit_layers(layers)]

    def forget_kept(self) -> list[Effect[P]]:
        """Close what is kept in case it comes back: its memory is needed for something else."""
        return [CloseCache(session) for session in self._kept.fit(0)]

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
            ended = self._end(message.session) if mine else []
            answer = Opened(message.session, message.attempt, failure_of(error))
            return [*ended, Send(sender, answer)]
        self._inbox.forget(message.session)
        begin = self._reusable(message)
        effects: list[Effect[P]] = [CloseCache(s) for s in self._kept.forget(message.session)]
        effects += self._fit_kept()
        if begin is not None and not (begin.source in self._sessions or begin.source in self._kept):
            begin = None  # its room was needed
        if known is not None and known.open.layers != message.layers:
            effects.append(CloseCache(message.session))
        last = message.last
        needs_history = last is not None and last.sampling.repetition_penalty != 1.0
        self._sessions[message.session] = fresh = _Session(
            message,
            now_s,
            message.layers.start == 0,
            needs_history,
            reused=begin.positions if begin else 0,
        )
        self._changes += 1
        self._historians += needs_history - (known is not None and known.needs_history)
        if needs_history and last is not None:
            fresh.history.extend(last.history)
        effects.append(OpenCache(message.session, message.layers, message.kv_tokens, begin))
        opened = Opened(message.session, message.attempt, reused=fresh.reused)
        return [*effects, Send(sender, opened)]

    def on_close(self, sender: PeerId, message: Close) -> list[Effect[P]]:
        """The entry peer is done with a session."""
        known = self._sessions.get(message.session)
        if known is None or known.open.entry != sender or message.attempt < known.open.attempt:
            return []
        cache = KeptCache(
            sender,
            known.open.layers,
            message.prefix,
            self._written(known),
            token_layers_of(known.open.kv_tokens, known.open.layers),
        )
        serves = self._serving is not None and self._serving.contains(cache.layers)
        longest = 1 + known.open.kv_tokens // PREFIX_BLOCK_TOKENS
        if not serves or not cache.is_useful or len(message.prefix) > longest:
            return self._end(message.session)
        self._forget(message.session)
        gone = self._kept.keep(message.session, cache)
        return [*(CloseCache(session) for session in gone), *self._fit_kept()]

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
        accepted: list[StepRow[P]] = []
        sessions = self._sessions
        decode, takes_tokens = message.phase is Phase.DECODE, bool(message.tokens)
        room = self._limits.waiting_positions - self._inbox.positions
        columns = zip(
            message.sessions,
            message.attempts,
            message.positions,
            message.counts,
            message.sample,
            payloads,
            strict=True,
        )
        for session, attempt, position, count, wanted, payload in columns:
            known = sessions.get(session)
            if known is None or known.open.attempt < attempt:
                unknown = PeerLost("this session is not known here any more")
                failed = StageFailed(session, attempt, self._me, failure_of(unknown))
                effects.append(Send(sender, failed))
                continue
            open_ = known.open
            if open_.attempt > attempt or position < known.filled or open_.previous != sender:
                continue
            if known.filled == 0 and position <= known.reused:
                known.filled = position
            filled = known.filled + count
            continues = position == known.filled and filled <= open_.kv_tokens and count <= room
            steady = decode and known.decoding and takes_tokens is known.takes_tokens
            if not (continues and steady):
                try:
                    self._check_row(message.phase, known, takes_tokens, position, count, room)
                except HelixError as error:
                    self._inbox.put(message.phase, accepted)
                    accepted = []
                    at_fault = self._me if isinstance(error, Busy) else sender
                    effects += self._fail(session, open_, at_fault, error)
                    continue
            known.filled = filled
            known.heard_s = now_s
            room -= count
            accepted.append(StepRow(open_, position, count, wanted, payload))
        self._inbox.put(message.phase, accepted)
        if self._running is None:
            effects += self._next_step()
        return effects

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
        effects: list[Effect[P]] = [CloseCache(s) for s in self._kept.tick(now_s)]
        effects += self._fit_kept()
        idle_s = self._limits.session_idle_s
        for session in self._ledger.expired(now_s):
            known = self._sessions[session]
            if known.heard_s + idle_s > now_s:
                self._ledger.touch(session, known.heard_s + idle_s)
                continue
            silent = Busy(f"it heard nothing for {idle_s:g} s")
            effects += self._fail(session, known.open, self._me, silent)
        if (session_to_end := self._shares.to_end(now_s)) is not None:
            unfair = Busy("others have waited for their share of this peer", retry_after_s=5.0)
            ended = self._sessions[session_to_end].open
            effects += self._fail(session_to_end, ended, self._me, unfair)
        return effects

    # ── steps ────────────────────────────────────────────────────────────────────────────────

    def on_step_done(
        self, tokens: Sequence[int | None], took_s: float | None = None
    ) -> list[Effect[P]]:
        """The step ran; outputs go on, the next step starts.

        Args:
            tokens: What each row sampled.
            took_s: How long it ran; None where chunks are not to adapt to it.
        """
        step = self._finish_step()
        rows = step.rows
        if took_s is not None:
            self._pace.ran(step.phase, sum([row.count for row in rows]), took_s)
        opens = [row.open for row in rows]
        ways = {open_.next for open_ in opens}
        unchanged = self._changes == self._changes_before_step
        if unchanged and len(ways) == 1 and (way := ways.pop()) is not None:
            forward = _forward(step.phase, rows, opens)
            return [SendRows(way, forward, tuple(range(len(rows)))), *self._next_step()]
        onward: dict[PeerId, list[int]] = {}
        sampled: dict[PeerId, list[int]] = {}
        for index, open_ in enumerate(opens):
            if not (unchanged or self._is_current(rows[index])):
                continue
            if open_.next is not None:
                onward.setdefault(open_.next, []).append(index)
            elif (token := tokens[index]) is not None:
                sampled.setdefault(open_.entry, []).append(index)
                if self._historians and (known := self._sessions[open_.session]).needs_history:
                    known.history.append(token)
        effects: list[Effect[P]] = []
        for peer, chosen in sampled.items():
            effects.append(Send(peer, _sampled(rows, tokens, chosen)))
        for peer, chosen in onward.items():
            forward = _forward(step.phase, [rows[i] for i in chosen], [opens[i] for i in chosen])
            effects.append(SendRows(peer, forward, tuple(chosen)))
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

    def _check_row(
        self,
        phase: Phase,
        known: _Session,
        takes_tokens: bool,
        position: int,
        count: int,
        room: int,
    ) -> None:
        """What no honest sender sends, or what there is no room for."""
        if position > known.filled:
            raise ProtocolError(f"positions from {known.filled} on are missing")
        if position + count > known.open.kv_tokens:
            raise ProtocolError(f"{known.open.kv_tokens} positions are reserved, and no more")
        if takes_tokens != known.takes_tokens:
            raise ProtocolError("a first stage takes tokens, every other one activations")
        if phase is Phase.DECODE and self._inbox.prefills(known.open.session):
            raise ProtocolError("a decode step came before its prefill was done")
        if phase is Phase.PREFILL and known.decoding:
            raise ProtocolError("prefill came after a decode step")
        known.decoding = phase is Phase.DECODE
        if count > room:
            raise Busy(f"{self._inbox.positions} positions wait here already", retry_after_s=5.0)

    def _fail(
        self, session: SessionId, open_: Open, at_fault: PeerId, error: HelixError
    ) -> list[Effect[P]]:
        return [*self._end(session), _failed(session, open_, at_fault, error)]

    def _end(self, session: SessionId) -> list[Effect[P]]:
        self._forget(session)
        return [CloseCache(session)]

    def _forget(self, session: SessionId) -> None:
        ended = self._sessions.pop(session, None)
        if ended is not None:
            self._changes += 1
            self._historians -= ended.needs_history
        self._ledger.release(session)
        self._inbox.forget(session)

    def _fit_kept(self) -> list[Effect[P]]:
        """What is reserved goes before what is kept."""
        return [CloseCache(s) for s in self._kept.fit(self._ledger.free_token_layers)]

    def _reusable(self, message: Open) -> KvCopy | None:
        """The cache, of a running session or a kept one, that begins most like a new session's."""
        if not message.prefix:
            return None
        best = self._kept.find(message.entry, message.layers, message.prefix)
        for session, known in self._sessions.items():
            if (known.open.entry, known.open.layers) != (message.entry, message.layers):
                continue
            if known.open.prefix[:1] != message.prefix[:1] or session == message.session:
                continue
            shared = shared_positions(known.open.prefix, message.prefix, self._written(known))
            if shared > (best.positions if best else 0):
                best = KvCopy(session, shared)
        return best

    def _written(self, known: _Session) -> int:
        """Positions of a session's cache that are written, from the first on without a gap."""
        steps = (*self._again, *(() if self._running is None else (self._running,)))
        under_way = [row.position for step in steps for row in step.rows if row.open is known.open]
        waiting = self._inbox.first_position(known.open.session)
        if waiting is not None:
            under_way.append(waiting)
        return min(under_way, default=known.filled or known.reused)

    def _finish_step(self) -> RunStep[P]:
        if self._running is None:
            raise AssertionError("no step is running")
        step, self._running = self._running, None
        return step

    def _next_step(self) -> list[Effect[P]]:
        if self._running is not None:
            return []
        self._running = (self._repeated() if self._again else None) or self._fresh()
        self._changes_before_step = self._changes
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
        if self._inbox.prefill_waits:
            decoding = any(known.decoding for known in self._sessions.values())
            self._inbox.prefill_tokens = self._pace.positions(decoding=decoding)
        found = self._inbox.take()
        if found is None:
            return None
        phase, rows = found
        if self._historians:
            rows = [self._with_history(row) for row in rows]
        layers = rows[0].open.layers
        return RunStep(phase, layers, tuple(rows), layers.start == 0)

    def _is_current(self, row: StepRow[P]) -> bool:
        known = self._sessions.get(row.session)
        return known is not None and known.open.attempt == row.attempt

    def _with_history(self, row: StepRow[P]) -> StepRow[P]:
        known = self._sessions[row.open.session]
        if not (row.wanted and known.needs_history):
            return row
        return replace(row, history=tuple(known.history))


def failure_of(error: HelixError) -> Failure:
    """An error as it goes over the wire."""
    return Failure(error.code, error.message[:MESSAGE_CHARACTERS], error.retry_after_s)


def _failed(session: SessionId, open_: Open, at_fault: PeerId, error: HelixError) -> Send:
    return Send(open_.entry, StageFailed(session, open_.attempt, at_fault, failure_of(error)))


def _forward(phase: Phase, rows: Sequence[StepRow[P]], opens: Sequence[Open]) -> Forward:
    decode = phase is Phase.DECODE
    return Forward(
        phase,
        tuple([open_.session for open_ in opens]),
        tuple([open_.attempt for open_ in opens]),
        tuple([row.position for row in rows]),
        (1,) * len(rows) if decode else tuple([row.count for row in rows]),
        tuple([row.wanted for row in rows]),
    )


def _sampled(
    rows: Sequence[StepRow[P]], tokens: Sequence[int | None], indices: Sequence[int]
) -> Sampled:
    chosen = [rows[index] for index in indices]
    return Sampled(
        tuple([row.open.session for row in chosen]),
        tuple([row.open.attempt for row in chosen]),
        tuple([row.position + row.count for row in chosen]),
        tuple([token for index in indices if (token := tokens[index]) is not None]),
    )
