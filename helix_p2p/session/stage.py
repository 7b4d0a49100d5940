"""A peer's part of many sessions: reserve, merge what waits into batches, pass the outputs on.

The machine holds no tensors. It decides which rows run together and where each row's output goes;
`payload` is whatever the edge wants back when a row is run (bytes, a tensor view).

Always:
- a row runs only if it continues what its session's KV cache holds, in the current attempt: stale
  and duplicate frames have no effect;
- a row that cannot run, though its session waits for it, is never dropped in silence: who can
  repair the session is told at once;
- at most one step is out at a time, and one session's trouble is its own (`steps.py`);
- what a session takes over from others, and what is kept of it, never costs room (`reuse.py`);
- a session that ends, expires or loses its entry peer frees its KV reservation exactly once, and
  an entry peer that did not end it itself is told.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from helix_p2p.errors import Busy, HelixError, NotServing, PeerLost, ProtocolError
from helix_p2p.routing.admission import KvLedger, token_layers_of
from helix_p2p.routing.shares import FairShares
from helix_p2p.session import stage_frames
from helix_p2p.session.decode_rows import DecodeRows, batches_of
from helix_p2p.session.effects import (
    CloseCache,
    Effect,
    OpenCache,
    RunStep,
    Send,
    SendRows,
    StepRow,
)
from helix_p2p.session.limits import ModelLimits, check_open
from helix_p2p.session.messages import (
    Close,
    Forward,
    Open,
    Opened,
    Phase,
    StageFailed,
    failure_of,
)
from helix_p2p.session.open_sessions import StageSessions
from helix_p2p.session.reuse import Reuse, cache_of
from helix_p2p.session.stage_session import StageSession
from helix_p2p.session.steps import Steps
from helix_p2p.types import LayerRange, PeerId, SessionId

P = TypeVar("P")


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
        self._sessions = StageSessions()
        self._reuse = Reuse(ledger)
        self._steps: Steps[P] = Steps(
            self._sessions, self._limits.decode_batch, self._limits.prefill_tokens
        )
        self._inbox = self._steps.inbox

    @property
    def idle(self) -> bool:
        """Whether it holds nothing for anyone."""
        return not len(self._sessions) and not len(self._reuse)

    @property
    def sessions(self) -> int:
        """Open sessions."""
        return len(self._sessions)

    @property
    def kept(self) -> int:
        """Caches of ended sessions that are kept in case a prompt begins alike."""
        return len(self._reuse)

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
        return tuple({session.open.layers for session in self._sessions.all.values()})

    def serve(self, layers: LayerRange | None, *, draining: bool = False) -> list[Effect[P]]:
        """Which layers new sessions may use; running ones are not touched."""
        self._serving = layers
        self._draining = draining
        return [*self._reuse.fit_layers(layers)]

    def forget_kept(self) -> list[Effect[P]]:
        """Close what is kept in case it comes back: its memory is needed for something else."""
        return [*self._reuse.forget_all()]

    # ── messages ─────────────────────────────────────────────────────────────────────────────

    def on_open(self, sender: PeerId, message: Open, now_s: float) -> list[Effect[P]]:
        """Reserve room for a session, or say why not."""
        known = self._sessions.all.get(message.session)
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
        begin, gone = self._reuse.begin(message, self._sessions.all, self._written)
        effects: list[Effect[P]] = [*gone]
        if known is not None and known.open.layers != message.layers:
            effects.append(CloseCache(message.session))
        reused = begin.positions if begin else 0
        self._sessions.add(message, now_s, reused)
        effects.append(OpenCache(message.session, message.layers, message.kv_tokens, begin))
        opened = Opened(message.session, message.attempt, reused=reused)
        return [*effects, Send(sender, opened)]

    def on_close(self, sender: PeerId, message: Close) -> list[Effect[P]]:
        """The entry peer is done with a session."""
        known = self._sessions.all.get(message.session)
        if known is None or known.open.entry != sender or message.attempt < known.open.attempt:
            return []
        serves = self._serving is not None and self._serving.contains(known.open.layers)
        cache = cache_of(known.open, message.prefix, self._written(known)) if serves else None
        if cache is None:
            return self._end(message.session)
        self._forget(message.session)
        return [*self._reuse.keep(message.session, cache)]

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
        room = self._limits.waiting_positions - self._inbox.positions
        if message.phase is Phase.DECODE and len(message.sessions) <= room:
            rows = self._sessions.go_on(sender, message, payloads, now_s)
            if rows is not None:
                self._inbox.put_decode(rows)
                return self._steps.next()
        return self._take_rows(sender, message, payloads, now_s) + self._steps.next()

    def _take_rows(
        self, sender: PeerId, message: Forward, payloads: Sequence[P], now_s: float
    ) -> list[Effect[P]]:
        """A frame of which some session begins, ends or errs: each row is looked at."""
        effects: list[Effect[P]] = []
        accepted: list[tuple[StageSession, StepRow[P]]] = []
        sessions = self._sessions.all
        takes_tokens = bool(message.tokens)
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
                known.begin_at(position)
            try:
                waits = self._inbox.prefills(session)
                self._sessions.check_row(
                    known, message.phase, takes_tokens, position, count, prefill_waits=waits
                )
                self._check_room(count, room)
            except HelixError as error:
                self._put(message.phase, accepted)
                accepted = []
                at_fault = self._me if isinstance(error, Busy) else sender
                effects += self._fail(open_, at_fault, error)
                continue
            known.fill(known.filled + count, now_s)
            room -= count
            accepted.append((known, StepRow(open_, position, count, wanted, payload)))
        self._put(message.phase, accepted)
        return effects

    def _put(self, phase: Phase, accepted: Sequence[tuple[StageSession, StepRow[P]]]) -> None:
        rows = [row for _, row in accepted]
        if phase is Phase.PREFILL:
            self._inbox.put_prefill(rows)
            return
        for batch in batches_of([known for known, _ in accepted], rows):
            self._inbox.put_decode(batch)

    def on_stage_failed(self, sender: PeerId, message: StageFailed) -> list[Effect[P]]:
        """The next stage does not go on with a session: whoever can repair it is told."""
        known = self._sessions.all.get(message.session)
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
            known = self._sessions.all.get(session)
            if known is None or known.open.attempt != attempt or known.open.previous != sender:
                continue
            effects += self._fail(known.open, sender, error)
        return effects

    def on_congested(self, peer: PeerId) -> None:
        """The way to a next stage is full; prefill for it waits here until `on_drained`."""
        self._inbox.congested.add(peer)

    def on_drained(self, peer: PeerId) -> list[Effect[P]]:
        """There is room again on the way to a next stage."""
        self._inbox.congested.discard(peer)
        return self._steps.next()

    def on_peer_lost(self, peer: PeerId) -> list[Effect[P]]:
        """A neighbour is gone: free what its sessions held, tell who can repair the others."""
        effects: list[Effect[P]] = []
        self._inbox.congested.discard(peer)
        for session, known in list(self._sessions.all.items()):
            if known.open.entry == peer:
                effects += self._end(session)
            elif known.open.next == peer:
                lost = PeerLost(f"the next stage {peer} is gone")
                effects.append(stage_frames.failed(known.open, peer, lost))
        return effects

    def tick(self, now_s: float) -> list[Effect[P]]:
        """Free sessions that heard nothing for too long, or whose room is another's by now."""
        effects: list[Effect[P]] = [*self._reuse.tick(now_s)]
        idle_s = self._limits.session_idle_s
        for session in self._ledger.expired(now_s):
            known = self._sessions.all[session]
            if known.heard_s + idle_s > now_s:
                self._ledger.touch(session, known.heard_s + idle_s)
                continue
            silent = Busy(f"it heard nothing for {idle_s:g} s")
            effects += self._fail(known.open, self._me, silent)
        if (session_to_end := self._shares.to_end(now_s)) is not None:
            unfair = Busy("others have waited for their share of this peer", retry_after_s=5.0)
            ended = self._sessions.all[session_to_end].open
            effects += self._fail(ended, self._me, unfair)
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
        step, unchanged = self._steps.done(took_s)
        rows = step.rows
        if isinstance(rows, DecodeRows):
            unchanged = unchanged or self._sessions.all_current(rows)
            ways = {way.next for way in rows.ways}
        else:
            ways = {row.open.next for row in rows}
        way = ways.pop()
        if unchanged and not ways and way is not None:
            forward = stage_frames.forward(step.phase, rows)
            return [SendRows(way, forward, tuple(range(len(rows)))), *self._steps.next()]
        return [*self._send_on(step, tokens, unchanged=unchanged), *self._steps.next()]

    def _send_on(
        self, step: RunStep[P], tokens: Sequence[int | None], *, unchanged: bool
    ) -> list[Effect[P]]:
        """A step whose rows part, or end here, or are not all wanted any more."""
        rows = step.rows
        onward: dict[PeerId, list[int]] = {}
        sampled: dict[PeerId, list[int]] = {}
        if isinstance(rows, DecodeRows):
            ways = [member.way.next for member in rows.members]
        else:
            ways = [row.open.next for row in rows]
        opens = [] if unchanged and None not in ways else [row.open for row in rows]
        for index, way in enumerate(ways):
            if not (unchanged or self._sessions.is_current(opens[index])):
                continue
            if way is not None:
                onward.setdefault(way, []).append(index)
            elif (token := tokens[index]) is not None:
                sampled.setdefault(opens[index].entry, []).append(index)
                self._sessions.sampled(opens[index].session, token)
        effects: list[Effect[P]] = []
        for peer, indices in sampled.items():
            theirs = [token for i in indices if (token := tokens[i]) is not None]
            chosen = stage_frames.chosen(rows, indices)
            effects.append(Send(peer, stage_frames.sampled(chosen, theirs)))
        for peer, indices in onward.items():
            forward = stage_frames.forward(step.phase, stage_frames.chosen(rows, indices))
            effects.append(SendRows(peer, forward, tuple(indices)))
        return effects

    def on_step_failed(self, error: HelixError) -> list[Effect[P]]:
        """The engine refused the step: find the row that it refuses, and end that session."""
        row = self._steps.failed()
        known = None if row is None else self._sessions.all.get(row.session)
        if row is None or known is None or known.open.attempt != row.attempt:
            return self._steps.next()
        return self._fail(known.open, self._me, error) + self._steps.next()

    def on_cache_failed(self, session: SessionId, error: HelixError) -> list[Effect[P]]:
        """The engine could not open a cache that the ledger had admitted."""
        known = self._sessions.all.get(session)
        if known is None:
            return []
        return self._fail(known.open, self._me, error)

    # ── inside ───────────────────────────────────────────────────────────────────────────────

    def _check_serving(self, message: Open, known: StageSession | None) -> None:
        if self._serving is None or not self._serving.contains(message.layers):
            held = self._serving or "none"
            raise NotServing(f"layers {message.layers} are not served here (served: {held})")
        if self._draining and known is None:
            raise NotServing("this peer is leaving")

    def _check_room(self, count: int, room: int) -> None:
        if count > room:
            raise Busy(f"{self._inbox.positions} positions wait here already", retry_after_s=5.0)

    def _fail(self, open_: Open, at_fault: PeerId, error: HelixError) -> list[Effect[P]]:
        return [*self._end(open_.session), stage_frames.failed(open_, at_fault, error)]

    def _end(self, session: SessionId) -> list[Effect[P]]:
        self._forget(session)
        return [CloseCache(session)]

    def _forget(self, session: SessionId) -> None:
        self._sessions.remove(session)
        self._ledger.release(session)
        self._inbox.forget(session)

    def _written(self, known: StageSession) -> int:
        """Positions of a session's cache that are written, from the first on without a gap."""
        first = self._steps.first_position(known.open)
        return known.filled or known.reused if first is None else first
