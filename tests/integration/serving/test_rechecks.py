"""Real engines: a peer that adds noise to what it computes is found and routed around.

Honest peers among it, of other dtypes too, are never found wrong, whatever one of them says.
"""

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random

import pytest
import torch

from helix_p2p.net.requests import Requests, serve_requests
from helix_p2p.node.rechecking import Outcome, Rechecker, TraceService
from helix_p2p.routing.recheck import RecheckLimits, Rechecks, Verdict
from helix_p2p.session.recheck_messages import GetTrace, Rerun
from helix_p2p.types import LayerRange, PeerId
from tests.integration.serving.test_fixed_ranges import LAYERS, Pipeline
from tests.unit.engine.tiny import make_model
from tests.unit.net.members import member_of

ALWAYS = RecheckLimits(share=10.0, burst_token_layers=1e9)
Bend = Callable[[torch.Tensor], torch.Tensor]


def noisy(hidden: torch.Tensor) -> torch.Tensor:
    return hidden + 0.3 * hidden.norm(dim=-1, keepdim=True) * torch.randn_like(hidden) / 4


class Checked(Pipeline):
    """Peers that answer each other's checks, and an entry peer `a` that checks."""

    outcomes: list[Outcome]

    def bend(self, name: str, how: Bend) -> None:
        """This peer computes something else than the model, on every step."""
        engine = self.members[PeerId(name)].engine
        step = engine.step

        def bent(layers, rows, *, tokens=None, hidden=None):
            if hidden is not None:
                hidden = how(hidden)
            return step(layers, rows, tokens=tokens, hidden=hidden)

        engine.step = bent  # type: ignore[method-assign]

    async def answer_checks(self) -> None:
        self.outcomes = []
        for me, member in self.members.items():
            service = TraceService(member.serving, time.monotonic)

            async def answer(channel, message, payload, service=service):
                assert isinstance(message, GetTrace | Rerun)
                return await service.answer(channel.remote, message, payload)

            await serve_requests(self.network._transports[me], member_of("swarm"), answer)
        self.requests = Requests(self.network._transports[PeerId("a")], member_of("swarm"))
        self.checker = Rechecker(
            self.entry,
            self.requests,
            Rechecks(PeerId("a"), Random(3), ALWAYS),
            self.holders,
            time.monotonic,
            self.on_outcome,
        )

    def holders(self, layers: LayerRange) -> list[PeerId]:
        return [peer for peer, held in self.held.items() if held.contains(layers)]

    def on_outcome(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        now_s = time.monotonic()
        self.see(*(peer for peer in self.held if self.checker.rechecks.shunned(peer, now_s)))

    async def ask(self, times: int, tokens: int = 12) -> None:
        for number in range(times):
            session = self.generate([5 + number % 40, 6, 7, 8], tokens, ignore_eos=True)
            await self.client.until_ended(session)
            while self.entry.entry.served:
                await self.checker.check(self.entry.entry.served.popleft())

    def wrong(self) -> set[PeerId]:
        return {o.peer for o in self.outcomes if o.verdict is Verdict.WRONG}

    def last_used(self, count: int) -> set[PeerId]:
        return {peer for route in self.client.pipelines[-count:] for peer, _ in route}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    made = tmp_path_factory.mktemp("tiny")
    make_model("Llama", made, num_hidden_layers=LAYERS)
    return made


@contextlib.asynccontextmanager
async def checked(folder: Path, **held: tuple[int, int]) -> AsyncIterator[Checked]:
    made = Checked(folder, held)
    await made.start()
    try:
        await made.answer_checks()
        yield made
    finally:
        if hasattr(made, "requests"):
            await made.requests.close()
        await made.stop()


async def test_honest_peers_are_sound_and_none_is_found_wrong(folder: Path) -> None:
    async with checked(folder, a=(0, 2), b=(2, 4), c=(2, 4), y=(4, 6), z=(4, 6)) as swarm:
        await swarm.ask(12)
        assert len(swarm.outcomes) == 12
        assert {o.verdict for o in swarm.outcomes} == {Verdict.SOUND}
        assert {o.peer for o in swarm.outcomes} == {PeerId(name) for name in "bcyz"}


@pytest.mark.parametrize("cheater", ["b", "z"], ids=["middle-stage", "last-stage"])
async def test_peer_that_adds_noise_is_found_and_routed_around(folder: Path, cheater: str) -> None:
    torch.manual_seed(1)
    held = {"a": (0, 2)} | dict.fromkeys("bcd", (2, 4)) | dict.fromkeys("xyz", (4, 6))
    async with checked(folder, **held) as swarm:
        swarm.bend(cheater, noisy)
        await swarm.ask(30)
        assert swarm.wrong() == {PeerId(cheater)}
        routes_before = len(swarm.client.pipelines)
        await swarm.ask(6)
        assert PeerId(cheater) not in swarm.last_used(len(swarm.client.pipelines) - routes_before)


async def test_entry_peer_that_holds_the_layers_needs_no_other_holder(folder: Path) -> None:
    async with checked(folder, a=(0, 4), b=(2, 6)) as swarm:
        swarm.held[PeerId("a")] = LayerRange(0, 6)
        member = swarm.members[PeerId("a")]
        member.engine.install(member.engine.prepare(LayerRange(0, 6)))
        swarm.held[PeerId("a")] = LayerRange(0, 4)  # routed over for these alone
        swarm.checker._holders = lambda _layers: [PeerId("a"), PeerId("b")]
        swarm.bend("b", torch.randn_like)
        await swarm.ask(1)
        assert swarm.wrong() == {PeerId("b")}, swarm.outcomes


async def test_auditor_that_answers_wrongly_convicts_nobody_but_itself(folder: Path) -> None:
    held = {"a": (0, 2)} | dict.fromkeys("bcd", (2, 6))
    async with checked(folder, **held) as swarm:
        liar = swarm.members[PeerId("d")].serving
        rerun = liar.rerun

        async def lies(session, layers, trace, sampling):
            hidden, tokens = await rerun(session, layers, trace, sampling)
            return hidden, tuple((token + 1) % 97 for token in tokens)

        liar.rerun = lies  # type: ignore[method-assign]
        await swarm.ask(24)
        assert not swarm.wrong()
        assert swarm.checker.rechecks.records[PeerId("d")].wrong >= 1
        for honest in ("b", "c"):
            assert swarm.checker.rechecks.records[PeerId(honest)].wrong == 0


async def test_stage_that_keeps_false_records_loses_its_ways_and_convicts_nobody(
    folder: Path,
) -> None:
    torch.manual_seed(2)
    held = {"a": (0, 2)} | dict.fromkeys("bcd", (2, 4)) | dict.fromkeys("yz", (4, 6))
    async with checked(folder, **held) as swarm:
        swarm.bend("b", noisy)
        tape = swarm.members[PeerId("b")].serving.tape
        keep = tape.keep

        def forged(step, result, now_s):
            false = None if result.hidden is None else result.hidden * 0 + 1
            keep(step, type(result)(false), now_s)

        tape.keep = forged  # type: ignore[method-assign]
        await swarm.ask(40)
        disputes = [o for o in swarm.outcomes if o.verdict is Verdict.DISPUTED_AFTER]
        assert {o.peer for o in disputes} == {PeerId("b")}
        assert not swarm.wrong()
        assert PeerId("b") not in swarm.last_used(10), "no way leads through it any more"


async def test_traces_are_shown_to_the_sessions_entry_peer_alone(folder: Path) -> None:
    async with checked(folder, a=(0, 2), b=(2, 6)) as swarm:
        session = swarm.generate([5, 6, 7], 2, ignore_eos=True)
        await swarm.client.until_ended(session)
        done = swarm.entry.entry.served[-1]
        tape = swarm.members[PeerId("b")].serving.tape
        assert tape.read(done.session, done.attempt, PeerId("a"), output=False) is not None
        assert tape.read(done.session, done.attempt, PeerId("c"), output=False) is None
