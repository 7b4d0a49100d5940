"""The entry peer's part of many generations: route, reserve, feed, deliver, repair.

A generation waits until a route has room, opens every stage of it, feeds prompt and answer so
far as prefill chunks, then one token at a time. When a stage dies, hangs or refuses, the
generation goes back to the front of the line and takes a new route: all tokens known so far are
fed again, from the first position, into caches that the new attempt opens (docs/adr/0005).

Always:
- a delivered token has the next number, comes once, and is never changed by a repair;
- what belongs to an earlier attempt has no effect (`pipelines.py`); a stage speaks for itself, and
  what it says against a neighbour costs the way between both (routing/blame.py), never this peer;
- nothing waits for ever: waiting, opening and every token have a deadline, repairs without progress
  are counted, and the client gets one typed `Refused` in the end;
- waiting is bounded, and fair between client identities (`line.py`);
- who failed, is full or has become slow is left out of routes (routing/standing.py);
- a peer that leaves, or was given other layers than the first, refuses what waits at once, so that
  clients go elsewhere.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from math import inf
from random import Random

from helix_p2p.errors import (
    Busy,
    CapacityError,
    DeadlineExceeded,
    HelixError,
    InvalidRequest,
    NetworkError,
    NoRoute,
    NotServing,
    PeerLost,
    ProtocolError,
    from_wire,
)
from helix_p2p.routing.route import Route, Router
from helix_p2p.routing.standing import Standing
from helix_p2p.session.effects import ClientKey, Deliver, Send
from helix_p2p.session.generation import (
    EntryLimits,
    EntryStats,
    Generation,
    Served,
    State,
    served,
)
from helix_p2p.session.limits import ModelLimits, check_request
from helix_p2p.session.line import Line, OpeningPace, StartRate
from helix_p2p.session.messages import (
    Delivered,
    Failure,
    Generate,
    Opened,
    Refused,
    Sampled,
    StageFailed,
    failure_of,
)
from helix_p2p.session.pipelines import Pipelines
from helix_p2p.types import LayerRange, PeerId, SessionId

EntryEffect = Send | Deliver
SERVED_KEPT = 64


class EntryMachine:
    """All generations that clients started at this peer.

    Args:
        me: This peer; it is the first stage of each of its generations.
        model: What the model takes.
        router: Follows the plan; its IWRR state is this entry peer's own.
        random: For sessions' names, which others should not be able to foresee.
        limits: Bounds.
    """

    def __init__(
        self,
        me: PeerId,
        model: ModelLimits,
        router: Router,
        random: Random,
        limits: EntryLimits | None = None,
    ) -> None:
        self._me = me
        self._model = model
        self._limits = limits or EntryLimits()
        self._standing = Standing(me, router)
        self._pipelines = Pipelines(me, random, self._limits)
        self._line = Line()
        self._starts = StartRate(self._limits.starts_per_s, self._limits.sessions_per_client)
        self._pace = OpeningPace()
        self._draining = False
        self._arrivals = 0
        self.stats = EntryStats()
        self.served: deque[Served] = deque(maxlen=SERVED_KEPT)
        """What finished lately, for whoever checks it (routing/recheck.py)."""

    @property
    def idle(self) -> bool:
        """Whether nobody's generation is here."""
        return not self._line.all

    @property
    def running(self) -> int:
        """Generations on a pipeline."""
        return len(self._line.all) - len(self._line.waiting)

    @property
    def waiting(self) -> int:
        """Generations that wait for one."""
        return len(self._line.waiting)

    def owes(self, client: ClientKey) -> bool:
        """Whether a generation of this client's stream runs or waits."""
        return any(g.client == client for g in self._line.all.values())

    def asked_by(self, name: SessionId) -> tuple[ClientKey, SessionId] | None:
        """Whose generation the stages call `name`, and what its client calls it."""
        generation = self._pipelines.named(name)
        return None if generation is None else (generation.client, generation.request.session)

    def neighbours(self) -> frozenset[PeerId]:
        """Peers that running pipelines use."""
        return frozenset(p for g in self._line.all.values() for p in g.peers)

    def see(
        self,
        serving: Mapping[PeerId, LayerRange],
        hosts: Mapping[PeerId, str],
        epoch: int,
        now_s: float,
        *,
        draining: bool = False,
    ) -> list[EntryEffect]:
        """The view changed: who serves what (ourselves included), on which host, by which plan."""
        moved = self._standing.see(serving, hosts, epoch)
        self._draining = draining
        self._pipelines.see(serving, self._standing.width if moved else None)
        closed = self._closed()
        if closed is None:
            return self._admit(now_s)
        effects: list[EntryEffect] = []
        for generation in list(self._line.waiting.values()):
            effects += self._refuse(generation, closed)
        return effects

    # ── the client ───────────────────────────────────────────────────────────────────────────

    def on_generate(
        self, client: ClientKey, identity: PeerId, request: Generate, now_s: float
    ) -> list[EntryEffect]:
        """A client wants an answer, or the rest of one."""
        try:
            yields = self._check(client, identity, request, now_s)
        except HelixError as error:
            self.stats.refused += 1
            return [Deliver(client, Refused(request.session, failure_of(error)))]
        effects: list[EntryEffect] = []
        if yields is not None:
            pushed_out = Busy("other clients' requests go before this one", retry_after_s=2.0)
            effects += self._refuse(yields, pushed_out)
        self.stats.accepted += 1
        self._arrivals += 1
        generation = Generation(
            client,
            identity,
            request,
            self._arrivals,
            now_s + self._limits.waiting_s,
            [*request.prompt, *request.generated],
            inf if request.budget_s is None else now_s + request.budget_s,
        )
        self._line.add(generation)
        return effects + self._admit(now_s)

    def on_cancel(self, client: ClientKey, session: SessionId, now_s: float) -> list[EntryEffect]:
        """The client wants no more."""
        generation = self._line.all.get((client, session))
        if generation is None:
            return []
        self.stats.cancelled += 1
        return [*self._drop(generation, keep=True), *self._admit(now_s)]

    def on_client_lost(self, client: ClientKey, now_s: float) -> list[EntryEffect]:
        """The client's stream ended; all it had here is freed."""
        effects: list[EntryEffect] = []
        for generation in [g for g in self._line.all.values() if g.client == client]:
            self.stats.cancelled += 1
            effects += self._drop(generation)
        return effects + self._admit(now_s)

    # ── the stages ───────────────────────────────────────────────────────────────────────────

    def on_opened(self, sender: PeerId, message: Opened, now_s: float) -> list[EntryEffect]:
        """A stage reserved its room, or refused."""
        generation = self._pipelines.current(message.session, message.attempt)
        if generation is None or generation.state is not State.OPENING:
            return []
        if sender not in generation.peers:
            return []
        if message.failure is not None:
            error = self._said(sender, message.failure)
            return self._trouble(generation, sender, error, now_s)
        if not self._pipelines.opened(generation, sender, message.reused):
            return []
        self._pace.opened()
        return [*self._feed_all(generation, now_s), *self._admit(now_s)]

    def on_sampled(self, sender: PeerId, message: Sampled, now_s: float) -> list[EntryEffect]:
        """New tokens from a last stage."""
        effects: list[EntryEffect] = []
        rows = zip(
            message.sessions, message.attempts, message.positions, message.tokens, strict=True
        )
        for session, attempt, position, token in rows:
            generation = self._pipelines.current(session, attempt)
            if generation is None or generation.state is not State.RUNNING:
                continue
            if sender != generation.route[-1].peer or position != len(generation.tokens):
                continue
            if 0 <= token < self._model.vocab_size:
                effects += self._on_token(generation, token, now_s)
            else:
                error = PeerLost(f"{sender} gave token {token}, which does not exist")
                effects += self._trouble(generation, sender, error, now_s)
        # The pipelines first, then the clients, then those that wait.
        return [*self._pipelines.decode(now_s), *effects, *self._admit(now_s)]

    def on_stage_failed(
        self, sender: PeerId, message: StageFailed, now_s: float
    ) -> list[EntryEffect]:
        """A stage cannot go on, or lost its next one."""
        generation = self._pipelines.current(message.session, message.attempt)
        if generation is None or sender not in generation.peers:
            return []
        error = self._said(sender, message.failure)
        if self._standing.accuse(generation.peers, sender, message.peer, now_s):
            return self._trouble(generation, message.peer, error, now_s, accusation=True)
        return self._trouble(generation, sender, error, now_s)

    def dispute(self, way: tuple[PeerId, PeerId], now_s: float) -> None:
        """One of two neighbours does not say truly what went between them; routes avoid the way."""
        self._standing.dispute(way, now_s)

    def on_peer_lost(self, peer: PeerId, now_s: float) -> list[EntryEffect]:
        """A stage's link broke or fell silent: every generation on it is repaired."""
        self._standing.failed(peer, now_s)
        effects: list[EntryEffect] = []
        for generation in [g for g in self._line.all.values() if peer in g.peers]:
            if generation.state is not State.WAITING:
                error = PeerLost(f"{peer} was lost")
                effects += self._trouble(generation, peer, error, now_s, masked=True)
        return [*effects, *self._pipelines.decode(now_s)]

    def tick(self, now_s: float) -> list[EntryEffect]:
        """Look at every deadline, and try what waits again."""
        effects: list[EntryEffect] = []
        for generation in list(self._line.all.values()):
            if now_s >= generation.expires_s:
                late = DeadlineExceeded("the time that the client gave is over")
                effects += self._refuse(generation, late)
                continue
            waits = generation.state is State.WAITING
            if now_s < (generation.patience_s if waits else generation.deadline_s):
                continue
            match generation.state:
                case State.WAITING:
                    effects += self._refuse(
                        generation, generation.trouble or self._in_the_way(now_s)
                    )
                case State.OPENING:
                    silent = [p for p in generation.peers if p not in generation.opened]
                    effects += self._late(generation, silent, now_s)
                case State.RUNNING:
                    others = [p for p in generation.peers if p != self._me]
                    effects += self._late(generation, others, now_s)
        return [*effects, *self._admit(now_s), *self._pipelines.decode(now_s)]

    def _in_the_way(self, now_s: float) -> HelixError:
        """Why what waits was never tried: no room for it, or no way at all."""
        if not self._pipelines.has_room or self._standing.any_full(now_s):
            return Busy("other requests went before this one", retry_after_s=2.0)
        return NoRoute("no pipeline of live peers covers the model's layers", retry_after_s=5.0)

    def _closed(self) -> NotServing | None:
        """Why no pipeline can begin here; what runs goes on."""
        if self._draining:
            return NotServing("this peer is leaving")
        if not self._standing.begins_here:
            return NotServing("this peer does not hold the model's first layers now")
        return None

    # ── inside: admission ────────────────────────────────────────────────────────────────────

    def _check(
        self, client: ClientKey, identity: PeerId, request: Generate, now_s: float
    ) -> Generation | None:
        """Refuse a request, or say which other one gives way to it."""
        closed = self._closed()
        if closed is not None:
            raise closed
        if (client, request.session) in self._line.all:
            raise InvalidRequest("this session id is in use")
        check_request(request, self._model)
        yields = self._line.check_share(identity, self._limits)
        self._starts.take(identity, now_s)
        return yields

    def _admit(self, now_s: float) -> list[EntryEffect]:
        """Open routes for what waits, as many at once as the stages' answers suggest."""
        effects: list[EntryEffect] = []
        line = self._line
        while line.waiting and line.opening < self._pace.most and self._pipelines.has_room:
            generation = line.next()
            avoid = frozenset(generation.request.avoid)
            familiar = self._pipelines.familiar(generation)
            route = self._standing.route(avoid, generation.kv_tokens, now_s, familiar)
            if route is None:
                break
            effects += self._open(generation, route, now_s)
        return effects

    def _open(self, generation: Generation, route: Route, now_s: float) -> list[EntryEffect]:
        self._line.move(generation, State.OPENING)
        generation.deadline_s = now_s + self._limits.open_deadline_s
        width = self._standing.width(route)
        return [*self._pipelines.open(generation, route, width, self._standing.epoch)]

    # ── inside: tokens ───────────────────────────────────────────────────────────────────────

    def _feed_all(self, generation: Generation, now_s: float) -> list[EntryEffect]:
        """Prefill everything that is known; the last chunk's last position gives the next token."""
        self._line.move(generation, State.RUNNING)
        generation.deadline_s = (
            now_s
            + self._limits.token_deadline_s
            + len(generation.tokens) * self._limits.prefill_s_per_token * max(1, self.running)
        )
        return [*self._pipelines.feed(generation, now_s)]

    def _on_token(self, generation: Generation, token: int, now_s: float) -> list[EntryEffect]:
        request = generation.request
        index = generation.answered
        generation.tokens.append(token)
        generation.repairs = 0
        generation.interrupted = False
        generation.trouble = None
        generation.deadline_s = now_s + self._limits.token_deadline_s
        self.stats.tokens += 1
        self._pipelines.returned(generation, now_s)
        self._standing.token(generation.name, generation.peers, now_s)
        finished = generation.finish_reason
        pipeline: tuple[tuple[PeerId, LayerRange], ...] = ()
        if generation.announce:
            pipeline = tuple((hop.peer, hop.layers) for hop in generation.route)
            generation.announce = False
        effects: list[EntryEffect] = [
            Deliver(
                generation.client, Delivered(request.session, index, (token,), finished, pipeline)
            )
        ]
        if finished is not None:
            self.stats.finished += 1
            self._standing.worked(generation.route)
            self.served.append(served(generation))
            return [*effects, *self._drop(generation, keep=True), *self._admit(now_s)]
        self._pipelines.ready(generation)
        return effects

    # ── inside: trouble ──────────────────────────────────────────────────────────────────────

    def _late(
        self, generation: Generation, silent: Sequence[PeerId], now_s: float
    ) -> list[EntryEffect]:
        error = DeadlineExceeded("the pipeline gave no answer in time")
        for peer in silent:
            self._standing.failed(peer, now_s)
        at = silent[0] if silent else self._me
        return self._trouble(generation, at, error, now_s, masked=True)

    def _trouble(
        self,
        generation: Generation,
        peer: PeerId,
        error: HelixError,
        now_s: float,
        *,
        masked: bool = False,
        accusation: bool = False,
    ) -> list[EntryEffect]:
        """Leave `peer` out for a while and take another route.

        Args:
            generation: Which.
            peer: Who failed, or is said to have.
            error: How.
            now_s: Now.
            masked: It was seen to be gone, and is left out already.
            accusation: Another stage says so; what that costs whom is `Standing`'s.
        """
        if peer == self._me and not isinstance(error, (CapacityError, NetworkError)):
            return self._refuse(generation, error)
        ran = generation.state is State.RUNNING
        if ran or not isinstance(error, Busy):
            generation.repairs += 1
            self.stats.repairs += 1
        if ran:
            generation.interrupted = True
            generation.patience_s = now_s + self._limits.waiting_s
        generation.trouble = error
        closed = self._closed()
        if closed is not None:
            return self._refuse(generation, closed)
        if generation.repairs > self._limits.repairs:
            return self._refuse(generation, error)
        effects = self._release(generation, lost=peer if masked else None)
        if accusation:
            pass
        elif isinstance(error, CapacityError):
            self._pace.full()
            self._standing.full(peer, now_s)
        elif not masked:
            self._standing.failed(peer, now_s)
        self._line.move(generation, State.WAITING)
        return effects + self._admit(now_s)

    def _refuse(self, generation: Generation, error: HelixError) -> list[EntryEffect]:
        self.stats.refused += 1
        refused = Refused(generation.request.session, failure_of(error))
        return [*self._drop(generation), Deliver(generation.client, refused)]

    def _drop(self, generation: Generation, *, keep: bool = False) -> list[EntryEffect]:
        self._line.remove(generation)
        return self._release(generation, keep=keep)

    def _release(
        self, generation: Generation, lost: PeerId | None = None, *, keep: bool = False
    ) -> list[EntryEffect]:
        """Free what the generation holds on its stages; there may be room for others now."""
        self._standing.over(generation.name)
        for peer in generation.peers:
            if peer in generation.opened:
                self._standing.had_room(peer)
        return [*self._pipelines.end(generation, lost, keep=keep)]

    def _said(self, sender: PeerId, failure: Failure) -> HelixError:
        """A stage's error; another peer cannot tell that a client's request is wrong."""
        error = from_wire(failure.code, failure.message, failure.retry_after_s)
        known = isinstance(error, (CapacityError, NetworkError, ProtocolError))
        if known or sender == self._me:
            return error
        return ProtocolError(f"{sender} failed: {failure.message}")
