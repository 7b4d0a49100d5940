"""The paper's simulator, replayed: the same rules, a few events where the artifact has many.

A stage runs layer by layer, round robin over its layers; a batch is first come first served within
the stage's limits. A link carries one request at a time. A query is one prompt pass, then one pass
per token along the same route, each from the client side and back to it.

Source: the Helix artifact's simulator (semantics in `reference_data/README.md` and docs). A link
that serves in order needs no event for the end of sending: the next start is known.

Always: deterministic by seed; time never goes back; nothing here looks at a clock.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from random import Random

from helix_p2p.errors import ConfigError
from helix_p2p.sim.helix.admission import OFFLINE, ONLINE, RESERVING, ExpectedKv
from helix_p2p.sim.helix.figures import EdgeLoad, Figures, Sample
from helix_p2p.sim.helix.parts import Batch, Query, Stage, Way
from helix_p2p.sim.helix.routes import (
    SWARM_NEWEST,
    Scheduler,
    allot_by_flow,
    allot_evenly,
    by_turn,
    shortest,
    start_turns,
    whole_route,
)
from helix_p2p.sim.helix.setup import LONGEST_PROMPT_TOKENS, HelixSetup
from helix_p2p.sim.trace import (
    Arrival,
    draw_length,
    draw_running_length,
    poisson_arrivals,
    trace_arrivals,
)

TOKEN_BYTES = 2
CONTEXT_PER_REQUEST_TOKENS = 1000
CONCAT_BYTES_PER_S = 4e9
COPY_BYTES_PER_S = 5e9
FIRST_FEED_GAP_S = 0.1
MOST_WAITING = 1024
FILL_S = 2.0
SAMPLES = 240

_ARRIVE, _LAYER_DONE, _RECEIVE, _WAY_FREE, _RESUME = range(5)


@dataclass(frozen=True, slots=True)
class HelixRun:
    """How to replay a setup.

    Attributes:
        scheduler: Who chooses the ways.
        online: Arrivals at a rate; else a closed loop that starts queries as others end.
        feed: Offline: queries at the start; in the baselines also how many are kept in flight.
        arrival_tokens_per_s: Online: mean tokens asked for per second.
        seed: Of lengths and arrivals.
        choice_seed: Of the random scheduler's choices; None draws them with the lengths, as the
            artifact does.
        warm_up_s: Left out of the figures.
        duration_s: Of the window.
        least_finished: Offline: while fewer queries have finished in the window it goes on, half a
            `duration_s` at a time; what serves slowly is then known as well as what serves fast.
        longest_s: Of a window that goes on.
        equal_admission: Every scheduler chooses whole routes under the expected-KV rule, and the
            closed loop is fed by it; False leaves the baselines without admission, as in the paper.
        reserves: Our admission instead: room for the whole answer is reserved, and a query that
            finds none waits. Offline, `feed` clients ask again as soon as they are answered.
        begin_full: Offline: begin with the caches as full as the feed rule allows, each query
            somewhere in its answer, instead of with `feed` prompts; a short run then sees the
            steady state.
        poisson: Online: memoryless arrivals instead of the trace's bursts.
        watch: Told of virtual seconds done and in all, with the figures so far, now and then.
    """

    scheduler: Scheduler = Scheduler.MAX_FLOW
    online: bool = False
    feed: int = 20
    arrival_tokens_per_s: float = 0.0
    seed: int = 0
    choice_seed: int | None = None
    warm_up_s: float = 60.0
    duration_s: float = 600.0
    least_finished: int = 0
    longest_s: float = 0.0
    equal_admission: bool = False
    reserves: bool = False
    begin_full: bool = False
    poisson: bool = False
    watch: Callable[[float, float, Figures], None] | None = None

    def __post_init__(self) -> None:
        if self.online and not self.arrival_tokens_per_s > 0:
            raise ConfigError("an online run needs arrivals per second above zero")
        if not self.online and self.feed < 1:
            raise ConfigError("an offline run needs at least one query in flight")
        if not self.duration_s > 0 or self.warm_up_s < 0:
            raise ConfigError("a run needs a window, and no negative warm-up")
        if self.least_finished and (self.online or self.longest_s < self.duration_s):
            raise ConfigError("only an offline window goes on, and no longer than it may be")
        by_routes = self.equal_admission or self.scheduler is Scheduler.MAX_FLOW
        if self.reserves and (self.begin_full or not by_routes):
            raise ConfigError("only whole routes can be reserved, and none that began before")
        if self.begin_full and (self.online or not by_routes):
            raise ConfigError("only an offline run with admission can begin full")


def replay(setup: HelixSetup, run: HelixRun) -> Figures:
    """Replay a setup.

    Args:
        setup: Cluster and placement.
        run: Scheduler, feed, window.

    Returns:
        What was measured in the window.
    """
    return _Replay(setup, run).figures()


class _Replay:
    def __init__(self, setup: HelixSetup, run: HelixRun) -> None:
        self._run = run
        self._rng = Random(run.seed)
        self._choices = self._rng if run.choice_seed is None else Random(run.choice_seed)
        self._start_s = setup.start_s
        self._window = (
            setup.start_s + run.warm_up_s,
            setup.start_s + run.warm_up_s + run.duration_s,
        )
        self._stages = [
            Stage(i, stage, LONGEST_PROMPT_TOKENS, CONTEXT_PER_REQUEST_TOKENS)
            for i, stage in enumerate(setup.stages)
        ]
        self._overhead_s = setup.activation_bytes * (1 / CONCAT_BYTES_PER_S + 1 / COPY_BYTES_PER_S)
        self._ways, self._first_ways = self._connect(setup)
        rule = ONLINE if run.online else OFFLINE
        self._waits = run.online or run.reserves
        self._expected = ExpectedKv(self._stages, setup.layers, RESERVING if run.reserves else rule)
        max_flow = run.scheduler is Scheduler.MAX_FLOW
        self._whole_routes = max_flow or run.equal_admission
        self._client_outbox: list[Query] = []
        self._send: Callable[[Stage | None, list[Query], float], None]
        if self._whole_routes:
            self._send = self._send_on_route
        elif run.scheduler is Scheduler.SWARM:
            self._send = self._send_by_turn
        else:
            self._send = self._send_when_free
        self._heap: list[tuple[float, int, int, object, object]] = []
        self._order = 0
        self._arrivals: Iterator[Arrival] = iter(())
        self._waiting: deque[Query] = deque()
        self._running = 0
        self._finished_within = 0
        self._figures = Figures(run.duration_s)

    def _connect(self, setup: HelixSetup) -> tuple[list[Way], list[Way]]:
        by_peer = {stage.peer: stage for stage in self._stages}
        ways: list[Way] = []
        first: list[Way] = []
        for index, link in enumerate(setup.links):
            way = Way(index, link, setup.activation_bytes, TOKEN_BYTES)
            way.source = None if link.source is None else by_peer[link.source]
            way.target = None if link.target is None else by_peer[link.target]
            (first if way.source is None else way.source.ways).append(way)
            ways.append(way)
        out = [first, *(stage.ways for stage in self._stages)]
        if self._run.scheduler is Scheduler.MAX_FLOW:
            allot_by_flow(out)
        else:
            allot_evenly(out)
            start_turns(out)
        return ways, first

    # ── the loop ─────────────────────────────────────────────────────────────────────────────

    def figures(self) -> Figures:
        """Run to the end of the window."""
        run, heap, end_s = self._run, self._heap, self._window[1]
        if run.online:
            arrivals = poisson_arrivals if run.poisson else trace_arrivals
            self._arrivals = arrivals(
                self._rng, run.arrival_tokens_per_s, self._start_s, run.warm_up_s + run.duration_s
            )
            # Drawn at once: the artifact's schedulers draw from the same chance only afterwards.
            self._arrivals = iter(list(self._arrivals))
            self._next_arrival()
        elif run.begin_full:
            self._fill()
        else:
            for number in range(run.feed):
                self._feed(self._start_s + number * FIRST_FEED_GAP_S)
        every_s = (end_s - self._start_s) / SAMPLES
        sample_s, events, now_s = self._start_s, 0, self._start_s
        for end_s in self._ends():
            while heap and heap[0][0] < end_s:
                now_s, _, kind, what, whom = heappop(heap)
                if now_s >= sample_s:
                    self._sample(now_s)
                    sample_s += every_s
                events += 1
                if kind == _LAYER_DONE:
                    self._layer_done(what, now_s)  # type: ignore[arg-type]
                elif kind == _RECEIVE:
                    self._receive(what, whom, now_s)  # type: ignore[arg-type]
                elif kind == _ARRIVE:
                    self._arrive(what, now_s)  # type: ignore[arg-type]
                elif kind == _RESUME:
                    self._send(None, [what], now_s)  # type: ignore[list-item]
                else:
                    self._pump(what, now_s)  # type: ignore[arg-type]
        return self._close(events, min(now_s, end_s))

    def _ends(self) -> Iterator[float]:
        """The end of the window, and a later one as long as too few queries finished in it."""
        run, figures = self._run, self._figures
        start_s = self._window[0]
        yield self._window[1]
        while self._finished_within < run.least_finished and figures.window_s < run.longest_s:
            figures.window_s = min(run.longest_s, figures.window_s + run.duration_s / 2)
            self._window = (start_s, start_s + figures.window_s)
            yield self._window[1]

    def _push(self, at_s: float, kind: int, what: object, whom: object = None) -> None:
        self._order += 1
        heappush(self._heap, (at_s, self._order, kind, what, whom))

    def _layer_done(self, stage: Stage, now_s: float) -> None:
        batch = stage.batch
        assert batch is not None, "a layer that ends had begun"
        stage.batch = None
        stage.kv_used += batch.prompt_tokens + batch.decodes
        following = stage.at + 1
        if following == stage.layers:
            if stage.kv_used > stage.kv_peak:
                stage.kv_peak = stage.kv_used
            self._send(stage, batch.queries, now_s)
        else:
            waiting = stage.queues[following]
            if waiting is None:
                stage.queues[following] = batch
            else:
                waiting.join(batch)
        stage.march()
        self._begin(stage, now_s)

    def _begin(self, stage: Stage, now_s: float) -> None:
        batch = stage.take()
        if batch is None:
            return
        stage.batch = batch
        seconds = stage.prefill_s[batch.prompt_tokens] + stage.decode_s[batch.decodes]
        if stage.at == 0:
            seconds += stage.buffered_tokens * self._overhead_s
            stage.buffered_tokens = 0
        self._order += 1
        heappush(self._heap, (now_s + seconds, self._order, _LAYER_DONE, stage, None))

    def _receive(self, query: Query, way: Way, now_s: float) -> None:
        stage = way.target
        if stage is None:
            self._gather(query, now_s)
            return
        stage.buffered_tokens += query.tokens
        before = way.source
        position = 0 if before is None else before.end - stage.start
        waiting = stage.queues[position]
        if waiting is None:
            waiting = stage.queues[position] = Batch()
        waiting.add(query)
        if stage.batch is None:
            self._begin(stage, now_s)

    # ── the client side ──────────────────────────────────────────────────────────────────────

    def _gather(self, query: Query, now_s: float) -> None:
        start_s, end_s = self._window
        within = start_s <= now_s <= end_s
        if within:
            latencies = self._figures.prompt_s if query.prompt else self._figures.decode_s
            latencies.append(now_s - query.began_s)
        was_prompt = query.prompt
        if was_prompt:
            query.context = query.input_tokens
            query.prompt = False
            query.tokens = 1
        else:
            query.context += 1
            query.done += 1
        finished = query.done == query.output_tokens
        if finished:
            self._finish(query)
            self._finished_within += within
        else:
            query.began_s = now_s
            query.hop = 0
            if self._run.scheduler is Scheduler.MAX_FLOW:
                for way in query.route:
                    way.load += 1 / way.flow
            self._send(None, [query], now_s)
        if self._waits and (self._run.online or finished):
            self._admit_waiting(now_s)
        if not self._run.online and (was_prompt or finished) and self._feeds(finished=finished):
            self._feed(now_s + FIRST_FEED_GAP_S)

    def _finish(self, query: Query) -> None:
        self._figures.finished += 1
        self._running -= 1
        done = 0
        for way in query.route[:-1]:
            stage = way.target
            assert stage is not None, "only the last way leads to the client"
            stage.kv_used -= query.context * (stage.end - done)
            done = stage.end
        if self._whole_routes:
            self._expected.add(query, -1)

    def _feeds(self, *, finished: bool) -> bool:
        """Offline: whether another query starts now."""
        by_rule = self._whole_routes and not self._run.reserves
        return self._expected.feeds if by_rule else finished

    def _feed(self, at_s: float) -> None:
        length = draw_length(self._rng)
        self._push(at_s, _ARRIVE, Query(length.input_tokens, length.output_tokens, at_s))

    def _fill(self) -> None:
        """Admit as many queries as the feed rule allows, each at some point of its answer."""
        while self._expected.feeds:
            length = draw_running_length(self._rng)
            at_s = self._start_s + self._rng.uniform(0, FILL_S)
            query = Query(length.input_tokens, length.output_tokens, at_s)
            if not self._route(query):
                break
            query.prompt, query.tokens = False, 1
            query.done = self._rng.randrange(length.output_tokens)
            query.context = length.input_tokens + query.done
            done = 0
            for way in query.route[:-1]:
                stage = way.target
                assert stage is not None, "only the last way leads to the client"
                stage.kv_used += query.context * (stage.end - done)
                done = stage.end
            self._push(at_s, _RESUME, query)

    def _next_arrival(self) -> None:
        arrival = next(self._arrivals, None)
        if arrival is not None:
            length = arrival.length
            query = Query(length.input_tokens, length.output_tokens, arrival.at_s)
            self._push(arrival.at_s, _ARRIVE, query)

    def _arrive(self, query: Query, now_s: float) -> None:
        if self._run.online:
            self._next_arrival()
        if self._waiting or not self._admit(query, now_s):
            if not self._waits:
                self._figures.dropped += 1
            elif len(self._waiting) >= MOST_WAITING:
                self._figures.refused += 1
            else:
                self._waiting.append(query)
                self._figures.longest_queue = max(self._figures.longest_queue, len(self._waiting))

    def _admit(self, query: Query, now_s: float) -> bool:
        if not self._route(query):
            return False
        self._send(None, [query], now_s)
        return True

    def _route(self, query: Query) -> bool:
        if self._whole_routes:
            route = whole_route(
                self._run.scheduler, self._first_ways, query, self._expected.fits, self._choices
            )
            if route is None:
                return False
            query.route = route
            self._expected.add(query)
        self._running += 1
        return True

    def _admit_waiting(self, now_s: float) -> None:
        while self._waiting and self._admit(self._waiting[0], now_s):
            self._waiting.popleft()

    # ── over the links ───────────────────────────────────────────────────────────────────────

    def _send_on_route(self, stage: Stage | None, queries: list[Query], now_s: float) -> None:
        heap = self._heap
        if stage is not None and self._run.scheduler is Scheduler.SWARM:
            _observe(queries, now_s)
        for query in queries:
            way = query.route[query.hop]
            query.hop += 1
            start_s = way.free_at_s
            if start_s < now_s:
                start_s = now_s
            way.free_at_s = start_s = start_s + query.tokens * way.per_token_s
            way.tokens += query.tokens
            self._order += 1
            heappush(heap, (start_s + way.latency_s, self._order, _RECEIVE, query, way))

    def _send_by_turn(self, stage: Stage | None, queries: list[Query], now_s: float) -> None:
        if stage is not None:
            _observe(queries, now_s)
        ways = self._first_ways if stage is None else stage.ways
        for query in queries:
            if query.prompt:
                chosen = by_turn(ways)
                assert chosen is not None, "every stage leads on"
                query.route.append(chosen)
            way = query.route[query.hop]
            query.hop += 1
            query.way = way
            query.sent_s = max(way.free_at_s, now_s)
            way.free_at_s = query.sent_s + query.tokens * way.per_token_s
            way.tokens += query.tokens
            self._push(way.free_at_s + way.latency_s, _RECEIVE, query, way)

    def _send_when_free(self, stage: Stage | None, queries: list[Query], now_s: float) -> None:
        (self._client_outbox if stage is None else stage.outbox).extend(queries)
        self._pump(stage, now_s)

    def _pump(self, stage: Stage | None, now_s: float) -> None:
        """Random and shortest queue choose among the links that are free right now."""
        outbox = self._client_outbox if stage is None else stage.outbox
        if not outbox:
            return
        ways = self._first_ways if stage is None else stage.ways
        free = [way for way in ways if way.free_at_s <= now_s]
        wanted = set(free)
        if self._run.scheduler is Scheduler.SHORTEST_QUEUE:
            wanted &= set(shortest(ways))
        taken: dict[Way, Query] = {}
        left: list[Query] = []
        for query in outbox:
            if query.prompt:
                shuffled = list(free)
                self._choices.shuffle(shuffled)
                way = next((w for w in shuffled if w in wanted and w not in taken), None)
                if way is not None:
                    query.route.append(way)
            else:
                way = query.route[query.hop]
                if way.free_at_s > now_s or way in taken:
                    way = None
            if way is None:
                left.append(query)
            else:
                taken[way] = query
        outbox[:] = left
        for way in free:
            query_now = taken.get(way)
            if query_now is not None:
                query_now.hop += 1
                way.free_at_s = now_s + query_now.tokens * way.per_token_s
                way.tokens += query_now.tokens
                self._push(way.free_at_s, _WAY_FREE, stage)
                self._push(way.free_at_s + way.latency_s, _RECEIVE, query_now, way)

    # ── figures ──────────────────────────────────────────────────────────────────────────────

    def _sample(self, now_s: float) -> None:
        shares = [s.kv_used / max(1, s.setup.kv_layer_tokens) for s in self._stages]
        self._figures.samples.append(
            Sample(
                now_s - self._start_s,
                self._running,
                len(self._waiting),
                max(shares),
                sum(shares) / len(shares),
            )
        )
        if self._run.watch is not None:
            done_s, in_all_s = now_s - self._start_s, self._window[1] - self._start_s
            self._run.watch(done_s, in_all_s, self._figures)

    def _close(self, events: int, now_s: float) -> Figures:
        figures = self._figures
        spent_s = max(self._window[1] - self._start_s, 1e-9)
        figures.events, figures.end_s = events, now_s
        figures.kv_peak_share = {
            s.peer: s.kv_peak / max(1, s.setup.kv_layer_tokens) for s in self._stages
        }
        figures.edges = tuple(
            EdgeLoad(w.setup.source, w.setup.target, w.flow, w.tokens / spent_s) for w in self._ways
        )
        return figures


def _observe(queries: list[Query], now_s: float) -> None:
    """Swarm: each request tells the way it came over how long it took."""
    for query in queries:
        way = query.way
        if way is not None:
            took_s = now_s - query.sent_s
            way.ema_s = SWARM_NEWEST * took_s + (1 - SWARM_NEWEST) * way.ema_s
