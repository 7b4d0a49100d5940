"""One generation as its caller sees it: an async iterator of text, then what it took.

Drives the pure `ClientSession` with real time and streams, and turns its tokens into text. All of
it happens inside the caller's own `async for`, so there is no task to outlive it: closing the
iterator (or cancelling whoever iterates) cancels the generation at its entry peer.

Always: text already given never changes; after an error or the end nothing more comes; what an
entry peer may pile up while the caller is busy is bounded.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from helix_p2p.client.detokenizer import IncrementalText, StopStrings
from helix_p2p.client.links import EntryLinks, Said
from helix_p2p.client.results import Completion, Piece, Usage
from helix_p2p.client.view import SwarmView
from helix_p2p.errors import DeadlineExceeded, HelixError, NoRoute
from helix_p2p.session.client import ClientSession
from helix_p2p.session.client_values import Effect, Ended, Pipeline, RefreshView, Send, Tokens
from helix_p2p.session.messages import (
    Delivered,
    FinishReason,
    Generate,
    Refused,
    TokenTrace,
)
from helix_p2p.types import PeerId, SessionId

INBOX_SPARE = 256
"""Messages beyond one per token: repeats, refusals, signs of a new view."""


@dataclass(frozen=True, slots=True)
class _Heard:
    peer: PeerId
    said: Said
    at_s: float


@dataclass(frozen=True, slots=True)
class _ViewChanged:
    at_s: float


class _Inbox:
    """Events for one generation, each with the time it came."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._events: asyncio.Queue[_Heard | _ViewChanged] = asyncio.Queue()
        self._clock = asyncio.get_running_loop().time
        self._view_waits = False

    def put(self, peer: PeerId, said: Said) -> None:
        """A peer said something; of tokens, more than an answer has are dropped (a gap follows)."""
        if not isinstance(said, Delivered) or self._events.qsize() < self._limit:
            self._events.put_nowait(_Heard(peer, said, self._clock()))

    def view_changed(self) -> None:
        """There may be new entry peers."""
        if not self._view_waits:
            self._view_waits = True
            self._events.put_nowait(_ViewChanged(self._clock()))

    async def get(self, until_s: float) -> _Heard | _ViewChanged | None:
        """The next event; None when there is none until then."""
        if self._events.empty():
            try:
                async with asyncio.timeout_at(until_s):
                    event = await self._events.get()
            except TimeoutError:
                return None
        else:
            event = self._events.get_nowait()
        if isinstance(event, _ViewChanged):
            self._view_waits = False
        return event


class TextStream:
    """An answer in the making: `async for piece in stream`, then `stream.completion`.

    Use it as `async with` (or call `aclose`) where the iteration may end early.
    """

    def __init__(
        self,
        session: ClientSession,
        links: EntryLinks,
        view: SwarmView,
        text: IncrementalText,
        stops: StopStrings,
    ) -> None:
        self._session = session
        self._links = links
        self._view = view
        self._text = text
        self._stops = stops
        self._clock = asyncio.get_running_loop().time
        self._started_s = self._clock()
        self._times_s: list[float] = []  # of the first and the latest token
        self._first_count = 0
        self._given: list[str] = []
        self._traces: list[tuple[float, TokenTrace]] = []
        self._completion: Completion | None = None
        self._pieces = self._run()

    @property
    def completion(self) -> Completion:
        """The finished answer.

        Raises:
            RuntimeError: It is not finished.
        """
        if self._completion is None:
            raise RuntimeError("the answer is not finished; iterate to the end first")
        return self._completion

    @property
    def text(self) -> str:
        """All text so far."""
        return "".join(self._given)

    @property
    def pipeline(self) -> Pipeline:
        """Peers that made the latest tokens, with their layers; empty before the first."""
        return self._session.pipeline

    @property
    def traces(self) -> Sequence[tuple[float, TokenTrace]]:
        """If asked for: when each decoded token came (loop time, s), and where its time went."""
        return self._traces

    @property
    def session(self) -> ClientSession:
        """The state machine behind it, for those who want to look."""
        return self._session

    async def collect(self) -> Completion:
        """Iterate to the end and give the whole answer.

        Raises:
            HelixError: There is no whole answer; see `errors.py` for which one says what.
        """
        async with self:
            async for _ in self:
                pass
        return self.completion

    async def aclose(self) -> None:
        """Cancel what is left of the generation; safe to call twice."""
        await self._pieces.aclose()

    def __aiter__(self) -> AsyncIterator[Piece]:
        return self

    async def __anext__(self) -> Piece:
        return await self._pieces.__anext__()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    # ── inside ─────────────────────────────────────────────────────────────────────────────────

    async def _run(self) -> AsyncGenerator[Piece, None]:
        inbox = _Inbox(self._session.request.max_new_tokens + INBOX_SPARE)
        opened: list[tuple[SessionId, PeerId]] = []
        session = self._session
        try:
            with self._view.listening(inbox.view_changed):
                effects = session.start(self._clock())
                while True:
                    ended = self._carry_out(effects, inbox, opened)
                    for tokens in [e.tokens for e in effects if isinstance(e, Tokens)]:
                        yield self._piece(tokens)
                    if self._stops.found is not None:
                        ended = Ended(FinishReason.STOP)
                    if ended is not None:
                        break
                    effects = await self._next(inbox)
            if ended.error is not None:
                raise self._explained(ended.error)
            assert ended.finished is not None
            rest = self._rest()
            if rest:
                yield Piece(rest)
            self._completion = self._complete(ended.finished)
        finally:
            for effect in session.cancel():
                if isinstance(effect, Send):
                    self._links.post(effect.peer, effect.message, inbox.put)
            for session_id, peer in opened:
                self._links.release(session_id, peer)

    def _explained(self, error: HelixError) -> HelixError:
        """A swarm that cannot serve at all says who is there."""
        if not isinstance(error, NoRoute | DeadlineExceeded) or self._view.covered:
            return error
        return type(error)(f"{error.message}; {self._view.describe()}", hint=error.hint)

    def _carry_out(
        self, effects: list[Effect], inbox: "_Inbox", opened: list[tuple[SessionId, PeerId]]
    ) -> Ended | None:
        ended = None
        for effect in effects:
            match effect:
                case Send(peer=peer, message=message):
                    if isinstance(message, Generate):
                        opened.append((message.session, peer))
                    self._links.post(peer, message, inbox.put)
                case RefreshView(crowded):
                    self._view.refresh_soon(crowded=crowded)
                case Ended():
                    ended = effect
                case Tokens():
                    pass
        return ended

    async def _next(self, inbox: "_Inbox") -> list[Effect]:
        """Wait for the next event, or until the session wants to be woken."""
        session, wake_s = self._session, self._session.wake_s
        assert wake_s is not None
        event = await inbox.get(wake_s)
        at_s = self._clock() if event is None else event.at_s
        # An event that waited for a slow caller counts as of when it came; a deadline before it
        # has passed all the same.
        effects = session.on_tick(at_s) if at_s >= wake_s else []
        match event:
            case _Heard(peer=peer, said=HelixError() as error):
                effects += session.on_lost(peer, error, at_s)
            case _Heard(peer=peer, said=Delivered() | Refused() as said):
                if isinstance(said, Delivered) and said.trace is not None:
                    self._traces.append((at_s, said.trace))
                effects += session.on_message(peer, said, at_s)
            case _ViewChanged():
                effects += session.on_view(at_s)
        return effects

    def _piece(self, tokens: tuple[int, ...]) -> Piece:
        now_s = self._clock()
        if not self._times_s:
            self._times_s = [now_s, now_s]
            self._first_count = len(tokens)
        self._times_s[1] = now_s
        request = self._session.request
        ends = () if request.ignore_eos else request.eos
        text = ""
        for token in tokens:
            if token not in ends:
                text += self._stops.push(self._text.push(token))
            if self._stops.found is not None:
                break
        self._given.append(text)
        return Piece(text, tokens)

    def _rest(self) -> str:
        if self._stops.found is not None:
            return ""
        rest = self._stops.push(self._text.finish())
        rest += self._stops.finish()
        self._given.append(rest)
        return rest

    def _complete(self, finished: FinishReason) -> Completion:
        session = self._session
        first_s, last_s = self._times_s
        later = len(session.tokens) - self._first_count
        rate = later / (last_s - first_s) if later > 0 and last_s > first_s else None
        usage = Usage(
            prompt_tokens=len(session.request.prompt),
            completion_tokens=len(session.tokens),
            first_token_s=first_s - self._started_s,
            total_s=self._clock() - self._started_s,
            tokens_per_s=rate,
            restarts=session.restarts,
        )
        return Completion(
            text=self.text,
            tokens=session.tokens,
            finish_reason=FinishReason.STOP if self._stops.found is not None else finished,
            stop=self._stops.found,
            usage=usage,
            pipeline=session.pipeline,
        )
