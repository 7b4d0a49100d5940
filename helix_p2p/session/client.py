"""A generation as its client sees it: one entry peer after another, and each token once.

Events go in as method calls with the time they happened, effects come out as values; the caller
sends, dials and waits. What an entry peer delivers is numbered, so a duplicate is dropped, and a
gap, a changed token or a token too many ends that peer's part: the client goes on elsewhere under
a new session id and hands over the tokens that it has (design: `Generate.generated`).

    waiting ──attempt──▶ asking ──finished──▶ ended
       ▲                   │  loss, silence, refusal, violation
       └───────────────────┘  (straight to the next peer while one is untried, else after a pause)

Always: tokens go out each once, in order, and never change; the client itself decides the end (an
end token, or max_new_tokens), and a peer that says otherwise is wrong; every wait has a deadline
and retries are finite; after `Ended` nothing more comes out.
"""

import math
from enum import Enum
from random import Random

from helix_p2p import errors
from helix_p2p.errors import HelixError, ProtocolError
from helix_p2p.session.client_values import (
    Effect,
    Ended,
    GenerationRequest,
    Limits,
    Pipeline,
    RefreshView,
    Send,
    Tokens,
)
from helix_p2p.session.entry_choice import EntryChoice
from helix_p2p.session.messages import Cancel, Delivered, FinishReason, Generate, Refused
from helix_p2p.types import SESSION_ID_BYTES, PeerId, SessionId

PAUSE_GROWTH = 1.5
"""From one pause to the next. A swarm that lost a layer's only holder needs 3 to 5 s to load it
elsewhere; doubling let the next look come up to 3 s after that."""


class _State(Enum):
    NEW = "new"
    WAITING = "waiting"
    ASKING = "asking"
    ENDED = "ended"


class ClientSession:
    """One generation, over as many entry peers as it takes.

    Args:
        request: What is wanted.
        choice: Shared by the client's sessions; picks and masks entry peers.
        random: For session ids and pauses.
        limits: Deadlines and retries.
    """

    def __init__(
        self,
        request: GenerationRequest,
        choice: EntryChoice,
        random: Random,
        limits: Limits | None = None,
    ) -> None:
        self.request = request
        self._choice = choice
        self._random = random
        self._limits = limits or Limits()
        self._state = _State.NEW
        self._tokens: list[int] = []
        self._pipeline: Pipeline = ()
        self._restarts = 0
        # the current attempt
        self._peer: PeerId | None = None
        self._session = SessionId(b"")
        self._heard_s = 0.0
        self._spoke = False
        # the answer
        self._started_s = 0.0
        self._token_s: float | None = None
        # trouble since the last new token
        self._tried: set[PeerId] = set()
        self._shut_out_by: set[PeerId] = set()
        self._trouble_since_s: float | None = None
        self._refusals = 0
        self._attempts = 0
        self._pauses = 0
        self._resume_s = 0.0
        self._error: HelixError | None = None

    # ── what the caller may look at ────────────────────────────────────────────────────────────

    @property
    def _known(self) -> tuple[int, ...]:
        return (*self.request.prompt, *self._tokens)

    @property
    def tokens(self) -> tuple[int, ...]:
        """The answer so far."""
        return tuple(self._tokens)

    @property
    def pipeline(self) -> Pipeline:
        """Peers that made the latest tokens, as the entry peer named them."""
        return self._pipeline

    @property
    def entry(self) -> PeerId | None:
        """Who is asked now."""
        return self._peer

    @property
    def restarts(self) -> int:
        """How often the generation had to go on elsewhere."""
        return self._restarts

    @property
    def ended(self) -> bool:
        """Whether `Ended` has come out."""
        return self._state is _State.ENDED

    @property
    def wake_s(self) -> float | None:
        """When `on_tick` is due next; None once ended."""
        if self.ended:
            return None
        times = [at_s for at_s in self._deadlines() if at_s is not None]
        if self._state is _State.WAITING:
            times.append(self._resume_s)
        if self._state is _State.ASKING:
            times.append(self._silent_at_s())
        return min(times, default=None)

    # ── events ─────────────────────────────────────────────────────────────────────────────────

    def start(self, now_s: float) -> list[Effect]:
        """Ask the first peer."""
        assert self._state is _State.NEW, "a session starts once"
        self._started_s = now_s
        return self._next_peer(now_s)

    def on_message(self, peer: PeerId, message: Delivered | Refused, now_s: float) -> list[Effect]:
        """An entry peer said something; what belongs to an attempt that is over has no effect."""
        if self._state is not _State.ASKING or message.session != self._session:
            return []
        if peer != self._peer:
            return []
        self._heard_s = now_s
        match message:
            case Delivered():
                return self._take(message, now_s)
            case Refused(failure=failure):
                error = errors.from_wire(
                    failure.code, failure.message, _clean(failure.retry_after_s)
                )
                return self._refused(error, now_s)

    def on_lost(self, peer: PeerId, error: HelixError, now_s: float) -> list[Effect]:
        """The peer could not be dialled, or its stream broke or fell silent."""
        if self._state is not _State.ASKING or peer != self._peer:
            return []
        if not error.retryable and not isinstance(error, ProtocolError):
            return self._end(error=error)
        self._choice.mask(peer, now_s)
        if isinstance(error, errors.HandshakeRefused):
            self._shut_out_by.add(peer)
            if self._shut_out_by.issuperset(known.peer for known in self._choice.candidates):
                return self._end(error=error)  # no pause makes us a member: revoked, or expired
        return self._elsewhere(error, now_s)

    def on_view(self, now_s: float) -> list[Effect]:
        """The shared `EntryChoice` has a new view; a waiting session may find someone new in it."""
        if self._state is not _State.WAITING:
            return []
        fresh = self._choice.pick(now_s, self._tried, self._known)
        return [] if fresh is None else self._ask(fresh, now_s)

    def on_tick(self, now_s: float) -> list[Effect]:
        """Time has passed; due at `wake_s`."""
        if self._state in (_State.NEW, _State.ENDED):
            return []
        for name, at_s in zip(
            ("the first token", "the next token", "the answer"), self._deadlines(), strict=True
        ):
            if at_s is not None and now_s >= at_s:
                return self._abandon() + self._end(error=self._late(name))
        if self._state is _State.WAITING and now_s >= self._resume_s:
            self._tried.clear()
            return self._next_peer(now_s)
        if self._state is _State.ASKING and now_s >= self._silent_at_s():
            assert self._peer is not None
            self._choice.mask(self._peer, now_s)
            error = errors.PeerLost(f"entry peer {self._peer} fell silent")
            return self._abandon() + self._elsewhere(error, now_s)
        return []

    def cancel(self) -> list[Effect]:
        """The caller wants no more."""
        if self.ended:
            return []
        return self._abandon() + self._end(error=errors.Cancelled("cancelled by the caller"))

    # ── tokens ─────────────────────────────────────────────────────────────────────────────────

    def _take(self, said: Delivered, now_s: float) -> list[Effect]:
        wrong = self._violation(said)
        if wrong is not None:
            assert self._peer is not None
            self._choice.mask(self._peer, now_s)
            error = ProtocolError(f"entry peer {self._peer} {wrong}")
            return self._abandon() + self._elsewhere(error, now_s)
        if said.pipeline:
            self._pipeline = said.pipeline
        effects: list[Effect] = []
        first = len(self._tokens)
        fresh = said.tokens[first - said.first_index :]
        if self.request.eos and not self.request.ignore_eos:
            end = next((i for i, token in enumerate(fresh) if self._is_end(token)), None)
            if end is not None:
                fresh = fresh[: end + 1]
        if fresh:
            self._tokens.extend(fresh)
            self._progress(len(fresh), now_s)
            effects.append(Tokens(first, fresh))
        finished = self._finished()
        if finished is not None:
            if said.finished is None:
                effects.extend(self._abandon())
            effects.extend(self._end(finished=finished))
        elif said.finished is not None:
            assert self._peer is not None
            self._choice.mask(self._peer, now_s)
            error = ProtocolError(f"entry peer {self._peer} ended the answer too early")
            effects.extend(self._elsewhere(error, now_s))
        return effects

    def _violation(self, said: Delivered) -> str | None:
        have = len(self._tokens)
        if not 0 <= said.first_index <= have:
            return f"delivered token {said.first_index} after {have}"
        if said.first_index + len(said.tokens) > self.request.max_new_tokens:
            return f"delivered more than {self.request.max_new_tokens} tokens"
        if said.tokens and not 0 <= min(said.tokens) <= max(said.tokens) < self.request.vocab_size:
            return "delivered a token outside the vocabulary"
        if said.first_index < have:
            again = said.tokens[: have - said.first_index]
            if again != tuple(self._tokens[said.first_index : said.first_index + len(again)]):
                return "changed a token that it had delivered"
        return None

    def _is_end(self, token: int) -> bool:
        return not self.request.ignore_eos and token in self.request.eos

    def _finished(self) -> FinishReason | None:
        if self._tokens and self._is_end(self._tokens[-1]):
            return FinishReason.STOP
        if len(self._tokens) == self.request.max_new_tokens:
            return FinishReason.LENGTH
        return None

    def _progress(self, fresh: int, now_s: float) -> None:
        assert self._peer is not None
        self._choice.clear(self._peer)
        for _ in range(fresh):
            self._choice.token(self._session, self._peer, now_s)
        self._token_s = now_s
        self._spoke = True
        self._trouble_since_s = None
        self._refusals = self._attempts = self._pauses = 0
        self._tried.clear()
        self._shut_out_by.clear()

    # ── going on elsewhere ─────────────────────────────────────────────────────────────────────

    def _refused(self, error: HelixError, now_s: float) -> list[Effect]:
        assert self._peer is not None
        match error:
            case errors.Busy() | errors.SwarmTooSmall() | errors.OutOfMemory():
                self._refusals += 1
                if self._refusals >= self._limits.refusals:
                    return self._end(error=error)
            case errors.ProtocolError() | errors.NotServing():
                self._choice.mask(self._peer, now_s)
            case _ if not error.retryable:
                return self._end(error=error)
        return self._elsewhere(error, now_s)

    def _elsewhere(self, error: HelixError, now_s: float) -> list[Effect]:
        """Leave the current peer; `error` is what the caller hears if all hope is lost."""
        assert self._peer is not None
        self._choice.over(self._session)
        self._error = error
        self._trouble_since_s = _first(self._trouble_since_s, now_s)
        self._tried.add(self._peer)
        self._peer = None
        self._restarts += 1
        self._attempts += 1
        if self._attempts >= self._limits.attempts:
            return self._end(error=error)
        asked = self._next_peer(now_s)
        no_room = isinstance(error, errors.CapacityError)
        return [RefreshView(crowded=no_room and not asked), *asked]

    def _next_peer(self, now_s: float) -> list[Effect]:
        peer = self._choice.pick(now_s, self._tried, self._known)
        if peer is None and not self._tried:
            peer = self._choice.pick_last_resort()
        if peer is not None:
            return self._ask(peer, now_s)
        return self._pause(now_s)

    def _pause(self, now_s: float) -> list[Effect]:
        since_s = self._trouble_since_s = _first(self._trouble_since_s, now_s)
        if now_s - since_s >= self._limits.patience_s:
            return self._end(error=self._error or _no_entry())
        limits = self._limits
        pause_s = min(limits.pause_s * PAUSE_GROWTH ** min(self._pauses, 16), limits.pause_limit_s)
        self._pauses += 1
        pause_s *= self._random.uniform(0.5, 1.0)
        asked_s = (self._error.retry_after_s if self._error else None) or 0.0
        self._resume_s = now_s + max(pause_s, min(asked_s, limits.retry_after_limit_s))
        refresh: list[Effect] = [] if self._state is _State.ASKING else [RefreshView()]
        self._state = _State.WAITING
        return refresh

    def _ask(self, peer: PeerId, now_s: float) -> list[Effect]:
        self._state = _State.ASKING
        self._peer = peer
        self._session = SessionId(self._random.randbytes(SESSION_ID_BYTES))
        self._heard_s = now_s
        self._spoke = False
        request = self.request
        message = Generate(
            session=self._session,
            prompt=request.prompt,
            max_new_tokens=request.max_new_tokens,
            generated=tuple(self._tokens),
            eos=request.eos,
            sampling=request.sampling,
            avoid=tuple(sorted(self._choice.masked(now_s) - {peer})[:16]),
            ignore_eos=request.ignore_eos,
            budget_s=self._left_s(now_s),
            trace=request.trace,
        )
        return [Send(peer, message)]

    def _abandon(self) -> list[Effect]:
        """Tell the current peer to stop; it may not hear it."""
        if self._state is not _State.ASKING or self._peer is None:
            return []
        return [Send(self._peer, Cancel(self._session))]

    def _end(
        self, *, finished: FinishReason | None = None, error: HelixError | None = None
    ) -> list[Effect]:
        self._state = _State.ENDED
        self._choice.over(self._session)
        if finished is not None and self._peer is not None:
            self._choice.answered(self._known, self._peer)
        return [Ended(finished, error)]

    # ── time ───────────────────────────────────────────────────────────────────────────────────

    def _deadlines(self) -> tuple[float | None, float | None, float | None]:
        limits, first_s, next_s, total_s = self._limits, None, None, None
        if self._token_s is None and limits.first_token_s is not None:
            first_s = self._started_s + limits.first_token_s
        if self._token_s is not None and limits.between_tokens_s is not None:
            next_s = self._token_s + limits.between_tokens_s
        if limits.total_s is not None:
            total_s = self._started_s + limits.total_s
        return first_s, next_s, total_s

    def _left_s(self, now_s: float) -> float | None:
        """What is left of the whole answer's time."""
        total_s = self._limits.total_s
        return None if total_s is None else max(0.0, self._started_s + total_s - now_s)

    def _silent_at_s(self) -> float:
        limits = self._limits
        tokens = len(self.request.prompt) + len(self._tokens)
        patience_s = limits.silence_s if self._spoke else limits.first_silence_s
        return self._heard_s + patience_s + tokens * limits.prefill_s_per_token

    def _late(self, what: str) -> HelixError:
        why = f"; last trouble: {self._error.message}" if self._error else ""
        return errors.DeadlineExceeded(f"{what} did not come in time{why}")


def _no_entry() -> HelixError:
    return errors.NoRoute(
        "no peer of the swarm serves the model's first layers now",
        hint="peers may still be loading; see `helix-peer status`",
    )


def _first(since_s: float | None, now_s: float) -> float:
    return now_s if since_s is None else since_s


def _clean(seconds: float | None) -> float | None:
    """A peer's number, or None when it makes no sense."""
    return seconds if seconds is not None and math.isfinite(seconds) and seconds > 0 else None
