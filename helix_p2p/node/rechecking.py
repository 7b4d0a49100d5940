"""Lets others run again what a stage computed, compares, and draws the consequences.

The machine that decides is `routing/recheck.py`; docs/adr/0019 says why it is made so.

Always: one case at a time, beside serving, within the machine's budget; whoever cannot answer
proves nothing; what another peer sends is checked like any activations.
"""

import contextlib
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from helix_p2p.engine import wireformat
from helix_p2p.errors import Busy, HelixError, InvalidRequest, NotServing, PoisonedActivation
from helix_p2p.net.event_loop import next_tick
from helix_p2p.net.transport import Buffer
from helix_p2p.node.serving import Serving
from helix_p2p.node.tape import KeptRows
from helix_p2p.routing.recheck import (
    LEAST_TOKENS,
    Ask,
    Case,
    Rechecks,
    StageRun,
    Verdict,
    next_step,
    tokens_agree,
    tolerance,
)
from helix_p2p.session.generation import Served
from helix_p2p.session.messages import Sampling
from helix_p2p.session.recheck_messages import GetTrace, Rerun, RerunReply, TraceReply
from helix_p2p.types import LayerRange, PeerId
from helix_p2p.wire.registry import Message

log = logging.getLogger(__name__)

LOOK_S = 0.25
ANSWER_S = 15.0
RERUN_POSITIONS = 256
RERUNS_AT_ONCE = 1
LAYERS_PER_S = 2_000.0
"""Token-layers per second that one peer runs again for all others together, with a burst of ten
seconds; a CPU of two cores does about 5000 of a 135M model's."""
BURST_S = 10.0
STRICTEST = "f32"
"""A difference is looked into with this tolerance first, and judged with the true one."""


class Asking(Protocol):
    """Puts a question to a peer; see `net.requests.Requests.ask`."""

    async def ask(
        self, peer: PeerId, message: Message, payload: Buffer = b"", *, timeout_s: float = 10.0
    ) -> tuple[Message, bytearray]:
        """The answer and its payload."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a case ended, for events and logs."""

    peer: PeerId
    layers: LayerRange
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class _Answer:
    """Activations, or a last stage's tokens."""

    hidden: torch.Tensor | None = None
    tokens: tuple[int, ...] = ()
    held_in: str = ""


class TraceService:
    """Answers what others ask for their checks.

    Args:
        serving: This peer's stages.
        clock: Monotonic seconds.
    """

    def __init__(self, serving: Serving, clock: Callable[[], float]) -> None:
        self._serving = serving
        self._clock = clock
        self._running = 0
        self._credit = LAYERS_PER_S * BURST_S
        self._filled_s = clock()

    async def answer(
        self, peer: PeerId, message: GetTrace | Rerun, payload: Buffer
    ) -> tuple[Message, Buffer]:
        """Answer one question.

        Raises:
            NotServing: Nothing is kept of that session, or these layers are not held.
            Busy: Enough is run for others already.
            InvalidRequest, PoisonedActivation: It makes no sense.
        """
        if isinstance(message, GetTrace):
            return self._trace(peer, message)
        return await self._rerun(message, payload)

    def _trace(self, peer: PeerId, wanted: GetTrace) -> tuple[Message, Buffer]:
        kept = self._serving.tape.read(wanted.session, wanted.attempt, peer, output=wanted.output)
        kept = kept.first(wanted.positions) if kept and wanted.positions > 0 else None
        if kept is None:
            raise NotServing("nothing is kept of this session")
        dtype = wireformat.dtype_name(kept.hidden.dtype)
        reply = TraceReply(kept.counts, kept.wanted, dtype, self._serving.held_in)
        return reply, wireformat.to_bytes(kept.hidden)

    async def _rerun(self, asked: Rerun, payload: Buffer) -> tuple[Message, Buffer]:
        total = sum(asked.counts)
        sane = asked.counts and min(asked.counts) > 0 and len(asked.counts) == len(asked.wanted)
        if not sane or total > RERUN_POSITIONS:
            raise InvalidRequest(f"1 to {RERUN_POSITIONS} positions are run again")
        width = self._serving.spec.d_model
        hidden = wireformat.from_bytes(payload, asked.dtype, total, width)
        self._take_credit(total * len(asked.layers))
        self._running += 1
        try:
            trace = KeptRows(asked.counts, asked.wanted, hidden)
            answer = await rerun_here(self._serving, asked.layers, trace, asked.sampling)
        finally:
            self._running -= 1
        held_in = self._serving.held_in
        if answer.hidden is None:
            return RerunReply(answer.tokens, "", held_in), b""
        dtype = wireformat.dtype_name(answer.hidden.dtype)
        return RerunReply((), dtype, held_in), wireformat.to_bytes(answer.hidden)

    def _take_credit(self, token_layers: int) -> None:
        now_s = self._clock()
        most = LAYERS_PER_S * BURST_S
        self._credit = min(most, self._credit + (now_s - self._filled_s) * LAYERS_PER_S)
        self._filled_s = now_s
        if self._running >= RERUNS_AT_ONCE or token_layers > self._credit:
            raise Busy("enough is run again for others already", retry_after_s=1.0)
        self._credit -= token_layers


class Rechecker:
    """Checks the stages of generations that this entry peer has served.

    Args:
        serving: This peer's serving.
        asking: Puts questions to others.
        rechecks: Chooses, and keeps the records.
        holders: Who serves a range of layers now, this peer included.
        clock: Monotonic seconds.
        tell: Told how each case ended.
    """

    def __init__(
        self,
        serving: Serving,
        asking: Asking,
        rechecks: Rechecks,
        holders: Callable[[LayerRange], Sequence[PeerId]],
        clock: Callable[[], float],
        tell: Callable[[Outcome], None],
    ) -> None:
        self._serving = serving
        self._asking = asking
        self.rechecks = rechecks
        self._holders = holders
        self._clock = clock
        self._tell = tell

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await next_tick(LOOK_S)
            while self._serving.entry.served:
                await self.check(self._serving.entry.served.popleft())

    async def check(self, done: Served) -> Outcome | None:
        """Check a stage of a finished generation, if it is chosen."""
        runs = stage_runs(done)
        case = self.rechecks.choose(runs, len(done.tokens) - 1, self._holders, self._clock())
        if case is None:
            return None
        verdict, auditor = await _Hearing(self, case, done).hold()
        self.rechecks.close(case, verdict, auditor, self._clock())
        run = case.run
        if verdict is Verdict.DISPUTED_BEFORE:
            self._serving.entry.dispute((run.before, run.stage), self._clock())
        elif verdict is Verdict.DISPUTED_AFTER and run.after is not None:
            self._serving.entry.dispute((run.stage, run.after), self._clock())
        outcome = Outcome(run.stage, run.layers, verdict)
        self._tell(outcome)
        return outcome


class _Hearing:
    """One case: asks what the machine wants to know, and compares."""

    def __init__(self, checker: Rechecker, case: Case, done: Served) -> None:
        self._serving, self._asking = checker._serving, checker._asking  # noqa: SLF001
        self._rechecks = checker.rechecks
        self._me = checker.rechecks.me
        self._case, self._done = case, done
        self._left = list(case.auditors)
        self._answers: dict[Ask, _Answer | None] = {}
        self._input: KeptRows | None = None
        self._auditor: PeerId | None = None
        self._held_in = STRICTEST  # until the stage was asked

    async def hold(self) -> tuple[Verdict, PeerId | None]:
        """The verdict, and who ran the stage again first."""
        while True:
            came = {ask: answer is not None for ask, answer in self._answers.items()}
            step = next_step(came, self._close, own_eyes=self._auditor == self._me)
            if isinstance(step, Verdict):
                return step, self._auditor
            try:
                self._answers[step] = await self._answer(step)
            except (HelixError, PoisonedActivation) as error:
                log.info("a check of %s got no %s: %s", self._case.run.stage, step.value, error)
                self._answers[step] = None

    async def _answer(self, ask: Ask) -> _Answer | None:
        run = self._case.run
        match ask:
            case Ask.SENT:
                self._input, held_in = await self._trace(run.before, output=True)
                return self._of(self._input, held_in)
            case Ask.GOT if run.after is None:
                return self._tokens_got()
            case Ask.GOT:
                assert run.after is not None
                return self._of(*await self._trace(run.after, output=False))
            case Ask.TOOK:
                return await self._took()
            case Ask.SAID if run.after is None:
                return self._answers[Ask.GOT]  # we got it ourselves
            case Ask.SAID:
                return self._of(*await self._trace(run.stage, output=True))
            case Ask.AGAIN | Ask.AGAIN_TOO:
                return await self._again(first=ask is Ask.AGAIN)

    async def _took(self) -> _Answer | None:
        """What the stage says it was given; and what its weights are held in."""
        run = self._case.run
        self._held_in = ""  # one that keeps silent is given every allowance
        took: KeptRows | None = None
        with contextlib.suppress(HelixError):
            took, self._held_in = await self._trace(run.stage, output=False)
        if run.before == self._me:
            return self._answers[Ask.SENT]  # the channel is authenticated: it got what we sent
        return self._of(took, self._held_in)

    async def _trace(self, peer: PeerId, *, output: bool) -> tuple[KeptRows | None, str]:
        done, positions = self._done, self._case.positions
        if peer == self._me:
            kept = self._serving.tape.read(done.session, done.attempt, peer, output=output)
            return (kept.first(positions) if kept else None), self._serving.held_in
        wanted = GetTrace(done.session, done.attempt, output, positions)
        reply, payload = await self._asking.ask(peer, wanted, timeout_s=ANSWER_S)
        if not isinstance(reply, TraceReply) or sum(reply.counts) != positions:
            return None, ""
        if len(reply.counts) != len(reply.wanted) or min(reply.counts) < 1:
            return None, ""
        width = self._serving.spec.d_model
        hidden = wireformat.from_bytes(payload, reply.dtype, positions, width)
        return KeptRows(reply.counts, reply.wanted, hidden), reply.held_in

    @staticmethod
    def _of(trace: KeptRows | None, held_in: str) -> _Answer | None:
        return None if trace is None else _Answer(trace.hidden, held_in=held_in)

    def _tokens_got(self) -> _Answer | None:
        """What the last stage sampled for the rows that are looked at."""
        wanted = sum(self._input.wanted) if self._input else 0
        tokens = self._done.tokens[self._done.fed :][:wanted]
        return _Answer(tokens=tokens, held_in=self._serving.held_in) if tokens else None

    async def _again(self, *, first: bool) -> _Answer | None:
        run, trace = self._case.run, self._input
        assert trace is not None
        sampling = self._done.sampling if run.after is None else None
        while self._left:
            auditor = self._left.pop(0)
            try:
                answer = await self._run_at(auditor, trace, sampling)
            except HelixError as error:
                log.info("%s does not run a check: %s", auditor, error)
                continue
            self._rechecks.spend(self._case)
            if first:
                self._auditor = auditor
            return answer
        return None

    async def _run_at(
        self, auditor: PeerId, trace: KeptRows, sampling: Sampling | None
    ) -> _Answer | None:
        layers = self._case.run.layers
        if auditor == self._me:
            return await rerun_here(self._serving, layers, trace, sampling)
        dtype = wireformat.dtype_name(trace.hidden.dtype)
        asked = Rerun(layers, trace.counts, trace.wanted, dtype, sampling)
        payload = wireformat.to_bytes(trace.hidden)
        reply, data = await self._asking.ask(auditor, asked, payload, timeout_s=ANSWER_S)
        if not isinstance(reply, RerunReply):
            return None
        if sampling is not None:
            fits = len(reply.tokens) == sum(trace.wanted)
            return _Answer(tokens=reply.tokens, held_in=reply.held_in) if fits else None
        width = self._serving.spec.d_model
        hidden = wireformat.from_bytes(data, reply.dtype, self._case.positions, width)
        return _Answer(hidden, held_in=reply.held_in)

    def _close(self, one: Ask, other: Ask) -> bool:
        first, second = self._answers[one], self._answers[other]
        assert first is not None
        assert second is not None
        if first.hidden is None or second.hidden is None:
            same = [a == b for a, b in zip(first.tokens, second.tokens, strict=True)]
            return sum(same) >= tokens_agree(self._all_held_in(one, other)) * len(same)
        if one is Ask.TOOK or one is Ask.SAID:  # the same bytes, told by two
            return bool(torch.equal(first.hidden, second.hidden))
        return difference(first.hidden, second.hidden) <= tolerance(self._all_held_in(one, other))

    def _all_held_in(self, one: Ask, other: Ask) -> list[str]:
        """Who computed these two; nobody but the stage computed what the next one got."""
        return [
            self._held_in if ask is Ask.GOT else answer.held_in
            for ask in (one, other)
            if (answer := self._answers[ask]) is not None
        ]


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Relative difference of two outputs: the median over positions of |a − b| / |b|.

    The median, since a single position may be an outlier in low precision (a mixture's router that
    chooses another expert), while a peer that computes wrongly does so from some position on.
    """
    a, b = one.to(torch.float32), other.to(torch.float32)
    norms = b.norm(dim=1).clamp_min(1e-12)
    return float(((a - b).norm(dim=1) / norms).median())


def stage_runs(done: Served) -> list[StageRun]:
    """The stages of a finished generation that can be checked: all but its entry peer's own."""
    route = done.route
    runs = []
    for at in range(1, len(route)):
        last = at + 1 == len(route)
        after = None if last else route[at + 1].peer
        if last and done.sampling.repetition_penalty != 1.0:
            continue  # its tokens depend on more than its input
        least = done.fed + LEAST_TOKENS - 1 if last else 1
        runs.append(StageRun(route[at - 1].peer, route[at].peer, after, route[at].layers, least))
    return runs


async def rerun_here(
    serving: Serving, layers: LayerRange, trace: KeptRows, sampling: Sampling | None
) -> _Answer:
    """Run a stage's rows in a cache of their own.

    Raises:
        Busy: There is no room.
        NotServing: The layers are not held here.
    """
    name = secrets.token_bytes(16)
    hidden, tokens = await serving.rerun(name, layers, trace, sampling)
    return _Answer(hidden, tokens, serving.held_in)
