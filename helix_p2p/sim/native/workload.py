"""Clients in virtual time: the production client session, fed by the trace.

Offline, so many clients ask again as soon as they are answered; online, requests come at a rate.
Where the swarm has several cells, each request begins at one by chance, and goes on as a client of
real peers does (`client.view`).

Always: tokens reach the caller in order, each once, and right; whatever else is a broken invariant
and stops the run.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from helix_p2p.errors import CapacityError, HelixError
from helix_p2p.session.client import ClientSession
from helix_p2p.session.client_values import (
    Ended,
    GenerationRequest,
    Limits,
    RefreshView,
    Send,
    Tokens,
)
from helix_p2p.session.entry_choice import EntryChoice
from helix_p2p.session.messages import Cancel, Delivered, Generate, Refused
from helix_p2p.sim.collector import seldom_collected
from helix_p2p.sim.helix.figures import EdgeLoad, Figures, Sample
from helix_p2p.sim.helix.replay import HelixRun
from helix_p2p.sim.helix.setup import HelixSetup
from helix_p2p.sim.native.engine import VOCAB, BrokenInvariant, prompt_of, true_token
from helix_p2p.sim.native.swarm import ServingRules, ServingSwarm
from helix_p2p.sim.trace import Arrival, Length, draw_length, poisson_arrivals, trace_arrivals
from helix_p2p.types import PeerId

SAMPLES = 240
CELLS_TRIED = 4
TYPICAL_REQUEST_TOKENS = 1000


@dataclass(slots=True)
class Outcome:
    """How generations ended."""

    finished: int = 0
    refused: int = 0
    failed: int = 0
    restarts: int = 0


class _View:
    """The entry peers that a client knows: those of one cell.

    Args:
        swarm: What it looks at.
        first: Draws its first peer.
        cells: Draws the order in which it tries cells.
    """

    def __init__(self, swarm: ServingSwarm, first: Random, cells: Random) -> None:
        self.choice = EntryChoice(first, remembers=False)
        self._swarm = swarm
        self._cells = deque(cells.sample(range(swarm.cells), swarm.cells))
        self.refresh()

    def refresh(self, *, crowded: bool = False) -> None:
        """The client asks who serves layer 0 now; in the next cell where this one has no room."""
        if crowded:
            self._cells.rotate(-1)
        for tried in range(min(CELLS_TRIED, len(self._cells))):
            if tried:
                self._cells.rotate(-1)
            found = self._swarm.entries(self._cells[0])
            if found:
                break
        self.choice.update(found)


class _Generation:
    """One client's request, and the session machine that sees it through."""

    def __init__(self, work: "Workload", number: int, length: Length) -> None:
        self._work = work
        self.number = number
        self._length = length
        prompt = prompt_of(number, length.input_tokens)
        # The prompt pass gives the first token, every decode pass one more.
        request = GenerationRequest(prompt, length.output_tokens + 1, VOCAB, ignore_eos=True)
        self._view = work.view_for(number)
        self._session = ClientSession(request, self._view.choice, work.rng, work.limits)
        self._asked_s = work.swarm.time.now_s
        self._token_s = self._asked_s
        self._got = 0
        self._wake_s: float | None = None

    def start(self) -> None:
        now_s = self._asked_s
        self._do(self._session.start(now_s), now_s)

    def on_message(self, peer: PeerId, message: Delivered | Refused, now_s: float) -> None:
        self._do(self._session.on_message(peer, message, now_s), now_s)

    def on_entry_lost(self, peer: PeerId, error: HelixError) -> None:
        now_s = self._work.swarm.time.now_s
        self._do(self._session.on_lost(peer, error, now_s), now_s)

    def _tick(self, planned_s: float) -> None:
        if self._wake_s == planned_s and not self._session.ended:
            self._wake_s = None
            now_s = self._work.swarm.time.now_s
            self._do(self._session.on_tick(now_s), now_s)

    def _do(self, effects: list[Send | Tokens | RefreshView | Ended], now_s: float) -> None:
        work = self._work
        only_tokens = self._got > 0
        for effect in effects:
            if type(effect) is Tokens:  # nearly always
                self._take(effect.first_index, effect.tokens, now_s)
                continue
            match effect:
                case Send(peer, Generate() as request):
                    work.swarm.ask(peer, request, self)
                case Send(peer, Cancel(session)):
                    work.swarm.cancel(peer, session)
                case RefreshView(crowded):
                    self._view.refresh(crowded=crowded)
                case Ended(_, error):
                    work.ended(self, error, self._session.restarts)
            only_tokens = False
        # A further token only puts off what is due; that is seen when the time has come.
        if self._wake_s is None or not only_tokens:
            self._plan_wake()

    def _plan_wake(self) -> None:
        wake_s = self._session.wake_s
        if wake_s is not None and (self._wake_s is None or wake_s < self._wake_s - 1e-9):
            self._wake_s = wake_s
            self._work.swarm.time.at(wake_s + 1e-6, self._tick, wake_s)

    def _take(self, first: int, tokens: tuple[int, ...], now_s: float) -> None:
        if first != self._got:
            raise BrokenInvariant(f"generation {self.number}: token {first} after {self._got}")
        for token in tokens:
            position = self._length.input_tokens + self._got
            if token != true_token(self.number, position):
                raise BrokenInvariant(f"generation {self.number}: wrong token {self._got}")
            if self._got == 0:
                self._work.count_prompt(now_s - self._asked_s, now_s)
            else:
                self._work.count_token(now_s - self._token_s, now_s)
            self._token_s = now_s
            self._got += 1


class Workload:
    """All clients of a run.

    Args:
        swarm: What they ask.
        run: Offline or online, feed, window and seed, as in Helix mode.
        limits: How patient clients are.
    """

    def __init__(self, swarm: ServingSwarm, run: HelixRun, limits: Limits | None = None) -> None:
        self.swarm = swarm
        self.rng = Random(run.seed)
        self.limits = limits or Limits(patience_s=600.0, refusals=64)
        self.outcome = Outcome()
        self.running = 0
        self._run = run
        self._lengths = Random(run.seed)
        self._window = (run.warm_up_s, run.warm_up_s + run.duration_s)
        self._numbers = 0
        self._figures = Figures(run.duration_s)
        self._arrivals: Iterator[Arrival] = iter(())
        self._began_s = swarm.time.now_s
        self._cells = Random(f"cells {run.seed}")
        self._shared = _View(swarm, Random(run.seed), self._cells)

    def start(self) -> None:
        """Let the first requests come."""
        if self._run.online:
            end_s = self._window[1]
            arrivals = poisson_arrivals if self._run.poisson else trace_arrivals
            self._arrivals = arrivals(
                self._lengths, self._run.arrival_tokens_per_s, self._began_s, end_s
            )
            self._next_arrival()
        else:
            for number in range(self._run.feed):
                self.swarm.time.after(0.1 * number, self._ask)
        self._sample()

    def view_for(self, number: int) -> _View:
        """What a request's client knows; all know the same where there is one cell."""
        if self.swarm.cells == 1:
            return self._shared
        return _View(self.swarm, Random(f"{self._run.seed} {number}"), self._cells)

    def ended(self, generation: _Generation, error: HelixError | None, restarts: int) -> None:
        """A generation is over."""
        self.running -= 1
        self.outcome.restarts += restarts
        time = self.swarm.time
        time.note(f"{generation.number} {error.code if error else 'done'}".encode())
        if error is None:
            self.outcome.finished += 1
        elif isinstance(error, CapacityError):
            self.outcome.refused += 1
        else:
            self.outcome.failed += 1
        if not self._run.online and time.now_s < self._began_s + self._window[1]:
            time.after(0.1, self._ask)

    def count_prompt(self, seconds: float, now_s: float) -> None:
        """A first token came."""
        if self._counts(now_s):
            self._figures.prompt_s.append(seconds)

    def count_token(self, seconds: float, now_s: float) -> None:
        """A further token came."""
        if self._counts(now_s):
            self._figures.decode_s.append(seconds)

    def figures(self) -> Figures:
        """What was measured; call it after the window."""
        figures, swarm = self._figures, self.swarm
        spent_s = max(swarm.time.now_s - self._began_s, 1e-9)
        flows = {(f.source, f.target): f.mtokens_per_s / 1000 for f in swarm.planned()}
        figures.edges = tuple(
            EdgeLoad(a, b, flows.get((a, b), 0.0), tokens / spent_s)
            for a, peer in sorted(swarm.peers.items())
            for b, tokens in sorted(peer.tokens_to.items())
        )
        figures.finished, figures.refused = self.outcome.finished, self.outcome.refused
        figures.events, figures.end_s = swarm.time.events, swarm.time.now_s
        return figures

    def _counts(self, now_s: float) -> bool:
        start_s, end_s = self._window
        return start_s <= now_s - self._began_s <= end_s

    def _ask(self, length: Length | None = None) -> None:
        context = self.swarm.rules.context_tokens
        while length is None or length.input_tokens + length.output_tokens + 1 > context:
            length = draw_length(self._lengths)
        self._numbers += 1
        self.running += 1
        _Generation(self, self._numbers, length).start()

    def _next_arrival(self) -> None:
        arrival = next(self._arrivals, None)
        if arrival is not None:
            self.swarm.time.at(arrival.at_s, self._arrive, arrival.length)

    def _arrive(self, length: Length) -> None:
        self._next_arrival()
        self._ask(length)

    def _sample(self) -> None:
        peers = [p for p in self.swarm.peers.values() if p.alive]
        shares = [
            p.ledger.used_token_layers / max(1, p.ledger.capacity_token_layers) for p in peers
        ]
        for peer, share in zip(peers, shares, strict=True):
            before = self._figures.kv_peak_share.get(peer.me, 0.0)
            self._figures.kv_peak_share[peer.me] = max(before, share)
        waiting = sum(p.entry.waiting for p in peers)
        at_s = self.swarm.time.now_s - self._began_s
        if shares:
            self._figures.samples.append(
                Sample(
                    at_s,
                    self.running - waiting,
                    waiting,
                    max(shares),
                    sum(shares) / len(shares),
                )
            )
        self._figures.longest_queue = max(self._figures.longest_queue, waiting)
        self._figures.finished = self.outcome.finished
        if self._run.watch is not None:
            self._run.watch(at_s, self._window[1], self._figures)
        if at_s < self._window[1]:
            self.swarm.time.after(self._window[1] / SAMPLES, self._sample)


def serve(setup: HelixSetup, run: HelixRun, rules: ServingRules | None = None) -> Figures:
    """Native mode: run the window and return its figures.

    Args:
        setup: Cluster and placement, as Helix mode takes them.
        run: Feed, window and seed; scheduler and admission are our own whatever it says.
        rules: Limits of the machines.

    Raises:
        BrokenInvariant: The machines delivered a wrong token or overfilled a stage.
    """
    swarm = ServingSwarm(setup, rules, run.seed)
    work = Workload(swarm, run)
    work.start()
    with seldom_collected():
        swarm.time.run(run.warm_up_s + run.duration_s)
    return work.figures()


def room_for(setup: HelixSetup, share: float = 0.85) -> int:
    """How many typical requests the scarcest layer's KV holds at once."""
    room = [0.0] * setup.layers
    for stage in setup.stages:
        for layer in stage.layers:
            room[layer] += stage.kv_layer_tokens / len(stage.layers)
    return max(1, int(share * min(room) / TYPICAL_REQUEST_TOKENS))


__all__ = ["Outcome", "Workload", "room_for", "serve"]
