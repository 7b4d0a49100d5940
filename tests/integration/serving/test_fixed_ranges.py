"""Real engines, real links in memory, ranges fixed by the test: no planner decides what is tested.

Every stage after the first is entered mid-range, the widest case of partial inference.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from helix_p2p.engine.torch_engine import EngineConfig, TorchEngine
from helix_p2p.net.links import LinkPool
from helix_p2p.net.memory import MemoryNetwork
from helix_p2p.node.compute import ComputeThread
from helix_p2p.node.config import ServingLimits
from helix_p2p.node.serving import Serving
from helix_p2p.session.effects import ClientKey
from helix_p2p.session.messages import Cancel, Delivered, Generate, Refused, Sampling
from helix_p2p.types import LayerRange, PeerId, SessionId
from tests.unit.engine.tiny import make_model, manifest_of
from tests.unit.net.members import member_of

LAYERS = 6
MINE = ClientKey("client/0")


@dataclass
class Client:
    """Collects what one stream is told."""

    tokens: dict[SessionId, list[int]] = field(default_factory=dict)
    ended: dict[SessionId, object] = field(default_factory=dict)
    pipelines: list = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def send(self, message) -> None:
        match message:
            case Delivered(session, first, tokens, finished, pipeline):
                held = self.tokens.setdefault(session, [])
                assert first == len(held)
                held += tokens
                self.pipelines += [pipeline] if pipeline else []
                if finished:
                    self.ended[session] = finished
            case Refused(session, failure):
                self.ended[session] = failure
        self.changed.set()

    async def until_ended(self, *sessions: SessionId, timeout_s: float = 60.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not all(session in self.ended for session in sessions):
                self.changed.clear()
                await self.changed.wait()


@dataclass
class Member:
    serving: Serving
    links: LinkPool
    compute: ComputeThread
    engine: TorchEngine
    ticker: asyncio.Task


class Pipeline:
    """Peers with fixed ranges on one memory network."""

    def __init__(self, folder: Path, held: dict[str, tuple[int, int]]) -> None:
        self.folder = folder
        self.held = {PeerId(name): LayerRange(*layers) for name, layers in held.items()}
        self.network = MemoryNetwork()
        self.members: dict[PeerId, Member] = {}
        self.client = Client()

    async def start(self) -> None:
        manifest = manifest_of(self.folder)
        for me, layers in self.held.items():
            engine = TorchEngine(self.folder, manifest, EngineConfig(1 << 28))
            engine.install(engine.prepare(layers))
            compute = ComputeThread()
            links = LinkPool(
                self.network.join(me),
                member_of("swarm"),
                on_message=lambda p, m, data, me=me: self.members[me].serving.on_peer_message(
                    p, m, data
                ),
                on_lost=lambda p, _error, me=me: self.members[me].serving.on_peer_lost(p),
            )
            await links.start()
            limits = ServingLimits(prefill_chunk_tokens=8)
            serving = Serving(me, engine, compute, links, limits, time.monotonic)
            serving.serve(layers)
            ticker = asyncio.create_task(self._tick(serving))
            self.members[me] = Member(serving, links, compute, engine, ticker)
        self.see()
        self.entry.add_client(MINE, self.client)

    def see(self, *gone: str) -> None:
        serving = {peer: layers for peer, layers in self.held.items() if peer not in gone}
        for member in self.members.values():
            member.serving.see(serving, {}, 0)

    @property
    def entry(self) -> Serving:
        return self.members[PeerId("a")].serving

    @staticmethod
    async def _tick(serving: Serving) -> None:
        while True:
            await asyncio.sleep(0.05)
            serving.tick()

    def generate(self, prompt: list[int], tokens: int, **more) -> SessionId:
        session = SessionId(secrets.token_bytes(16))
        request = Generate(session, tuple(prompt), tokens, **more)
        self.entry.on_client_message(MINE, PeerId("client"), request)
        return session

    async def stop(self) -> None:
        for member in self.members.values():
            member.ticker.cancel()
            await member.links.close()
            await member.compute.close()


@contextlib.asynccontextmanager
async def pipeline(folder: Path, **held: tuple[int, int]) -> AsyncIterator[Pipeline]:
    made = Pipeline(folder, held)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny")
    return folder, make_model("Llama", folder, num_hidden_layers=LAYERS)


def greedy(model: torch.nn.Module, prompt: list[int], tokens: int) -> list[int]:
    """Whole model, whole sequence each time: nothing of ours, no cache, no end token."""
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(tokens):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def prompt_of(number: int) -> list[int]:
    generator = torch.Generator().manual_seed(number)
    return torch.randint(5, 60, (3 + 5 * number,), generator=generator).tolist()


async def test_stages_entered_mid_range_equal_generate(tiny):
    folder, model = tiny
    async with pipeline(folder, a=(0, 3), b=(1, 5), c=(2, 6)) as swarm:
        prompt = prompt_of(4)
        session = swarm.generate(prompt, 24)
        await swarm.client.until_ended(session)
        assert swarm.client.tokens[session] == greedy(model, prompt, 24)
        (stages,) = swarm.client.pipelines
        assert all(layers.start > swarm.held[peer].start for peer, layers in stages[1:])


async def test_sessions_of_different_lengths_at_once_equal_generate(tiny):
    folder, model = tiny
    async with pipeline(folder, a=(0, 3), b=(1, 5), c=(2, 6)) as swarm:
        asked = {swarm.generate(prompt_of(n), 8 + n): n for n in range(8)}
        await swarm.client.until_ended(*asked)
        for session, n in asked.items():
            assert swarm.client.tokens[session] == greedy(model, prompt_of(n), 8 + n)
        for member in swarm.members.values():
            assert member.serving.ledger.used_token_layers == 0
            assert await member.compute.run(lambda m=member: m.engine.kv_used_token_layers) == 0


async def test_lost_stage_is_replaced_and_no_token_changes(tiny):
    folder, model = tiny
    async with pipeline(folder, a=(0, 3), b=(1, 6), c=(2, 6)) as swarm:
        prompt = prompt_of(3)
        session = swarm.generate(prompt, 32)
        async with asyncio.timeout(30):
            while len(swarm.client.tokens.get(session, ())) < 6:
                swarm.client.changed.clear()
                await swarm.client.changed.wait()
        victim = swarm.client.pipelines[0][1][0]
        swarm.network.kill(victim)
        await swarm.client.until_ended(session)
        assert swarm.client.tokens[session] == greedy(model, prompt, 32)
        assert len(swarm.client.pipelines) == 2


async def test_seeded_sampling_with_repetition_penalty_is_the_same_on_any_pipeline(tiny):
    folder, _ = tiny
    sampling = Sampling(temperature=0.8, top_k=20, top_p=0.9, repetition_penalty=1.3, seed=11)
    answers = []
    for held in ({"a": (0, 6)}, {"a": (0, 2), "b": (1, 6)}):
        async with pipeline(folder, **held) as swarm:
            session = swarm.generate(prompt_of(2), 20, sampling=sampling)
            await swarm.client.until_ended(session)
            answers.append(swarm.client.tokens[session])
    assert answers[0] == answers[1]


async def test_cancelled_generation_frees_every_stage(tiny):
    folder, _ = tiny
    async with pipeline(folder, a=(0, 3), b=(1, 6)) as swarm:
        session = swarm.generate(prompt_of(1), 50)
        async with asyncio.timeout(30):
            while session not in swarm.client.tokens:
                swarm.client.changed.clear()
                await swarm.client.changed.wait()
            swarm.entry.on_client_message(MINE, PeerId("client"), Cancel(session))
            while any(m.serving.ledger.used_token_layers for m in swarm.members.values()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_turns_of_chats_go_back_to_the_stages_that_know_them(tiny):
    folder, _ = tiny
    async with pipeline(folder, a=(0, 3), b=(3, 6), c=(3, 6), d=(3, 6)) as swarm:
        chats = [prompt_of(20 + number) for number in range(3)]
        ends = [swarm.members[PeerId(name)].serving for name in "bcd"]
        for turn in range(3):
            before = sum(end.counters.prefill_tokens for end in ends)
            asked = [swarm.generate(prompt, 12) for prompt in chats]
            await swarm.client.until_ended(*asked)
            told = zip(chats, asked, strict=True)
            chats = [[*prompt, *swarm.client.tokens[session]] for prompt, session in told]
            chats = [*chats[1:], chats[0]]  # so that taking turns alone would mix them up
            computed = sum(end.counters.prefill_tokens for end in ends) - before
            whole = sum(len(chat) - 12 for chat in chats)
            kept = sum((len(chat) - 13) // 64 * 64 for chat in chats) if turn else 0
            assert computed == whole - kept


async def test_more_sessions_than_the_kv_cache_holds_wait_and_all_finish(tiny):
    folder, model = tiny
    async with pipeline(folder, a=(0, 3), b=(1, 6)) as swarm:
        last = swarm.members[PeerId("b")].serving
        last.ledger.resize(3 * 30 * 2)  # two sessions of thirty tokens over three layers
        asked = [swarm.generate(prompt_of(2), 17) for _ in range(5)]
        await swarm.client.until_ended(*asked)
        expected = greedy(model, prompt_of(2), 17)
        assert [swarm.client.tokens[session] for session in asked] == [expected] * 5


async def test_a_chat_reuses_its_turns_in_every_stage_and_equals_generate(tiny):
    folder, model = tiny
    async with pipeline(folder, a=(0, 3), b=(2, 5), c=(4, 6)) as swarm:
        prompt = prompt_of(20)
        computed = []
        for turn in range(3):
            before = [m.serving.counters.prefill_tokens for m in swarm.members.values()]
            session = swarm.generate(prompt, 12)
            await swarm.client.until_ended(session)
            answer = swarm.client.tokens[session]
            assert answer == greedy(model, prompt, 12)
            after = [m.serving.counters.prefill_tokens for m in swarm.members.values()]
            computed.append([b - a for a, b in zip(before, after, strict=True)])
            prompt = [*prompt, *answer, *prompt_of(turn + 2)]
        assert computed[0] == [103] * 3
        assert computed[1] == [103 + 12 + 13 - 64] * 3
        assert computed[2] == [103 + 2 * 12 + 13 + 18 - 128] * 3
