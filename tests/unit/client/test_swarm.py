import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from helix_p2p.client.swarm import Swarm
from helix_p2p.errors import (
    Busy,
    Cancelled,
    DeadlineExceeded,
    DecodeError,
    HandshakeRefused,
    HelixError,
    InvalidRequest,
    InviteError,
    ModelError,
    NoRoute,
    PeerUnreachable,
    PromptTooLong,
)
from helix_p2p.identity import Identity
from helix_p2p.membership.invite import Invite, create_invite
from helix_p2p.session.client_values import Limits
from helix_p2p.session.messages import FinishReason
from helix_p2p.types import LayerRange
from tests.unit.client.fake_swarm import FakePeer, FakeSwarm, answer_to

HI = [{"role": "user", "content": "hello"}]
ME = Identity(bytes([77] * 32))
ROOT = Identity(bytes([88] * 32))


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeSwarm]:
    made = FakeSwarm(tmp_path / "model")
    yield made
    await close(made)


async def close(fake: FakeSwarm) -> None:
    for peer in fake.peers:
        fake.network.kill(peer.peer_id)
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def connect(fake: FakeSwarm, *peers: FakePeer, **options: object) -> Swarm:
    way_in = [peer.address for peer in peers or fake.peers[:1]]
    return Swarm.connect(
        options.pop("way_in", way_in),  # type: ignore[arg-type]
        transport=fake.transport_of(ME.peer_id),
        identity=ME,
        cache=options.pop("cache", fake.folder.parent / "cache"),  # type: ignore[arg-type]
        **options,  # type: ignore[arg-type]
    )


async def eventually(condition: Callable[[], object], timeout_s: float = 5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - a fake's state
            await asyncio.sleep(0.005)


async def test_answer_is_the_models_and_tells_what_it_took(fake: FakeSwarm):
    peer = await fake.add()
    async with connect(fake) as swarm:
        answer = await swarm.generate("hello world", max_tokens=20)
        prompt = swarm.text.encode("hello world")
        assert answer.tokens == answer_to(prompt, 20)
        assert answer.text == swarm.text.decode(answer.tokens)
        assert str(answer) == answer.text
    assert answer.finish_reason is FinishReason.LENGTH
    assert answer.usage.prompt_tokens == len(prompt)
    assert answer.usage.completion_tokens == 20
    assert answer.usage.first_token_s is not None
    assert answer.usage.total_s >= answer.usage.first_token_s
    assert answer.usage.restarts == 0
    assert answer.pipeline == ((peer.peer_id, LayerRange(0, 4)),)
    assert peer.asked[0].eos == (2,)


async def test_chat_goes_through_the_models_template(fake: FakeSwarm):
    peer = await fake.add()
    async with connect(fake) as swarm:
        answer = await swarm.chat(HI, max_tokens=5)
        assert peer.asked[0].prompt == swarm.text.encode_chat(HI)
        assert answer.tokens == answer_to(peer.asked[0].prompt, 5)


async def test_end_token_ends_the_answer_and_is_not_shown(fake: FakeSwarm):
    peer = await fake.add()
    peer.ends_with = 2
    async with connect(fake) as swarm:
        answer = await swarm.generate("hello", max_tokens=20)
        assert answer.finish_reason is FinishReason.STOP
        assert answer.tokens[-1] == 2
        assert answer.text == swarm.text.decode(answer.tokens[:-1])


async def test_pieces_come_as_they_are_made(fake: FakeSwarm):
    await fake.add()
    async with connect(fake) as swarm, swarm.stream("hello", max_tokens=10) as stream:
        with pytest.raises(RuntimeError, match="not finished"):
            _ = stream.completion
        pieces = [piece async for piece in stream]
        assert "".join(map(str, pieces)) == stream.completion.text == stream.text
        assert [t for piece in pieces for t in piece.tokens] == list(stream.completion.tokens)


async def test_stop_string_cuts_the_text_and_cancels_upstream(fake: FakeSwarm):
    peer = await fake.add()
    peer.pause_s = 0.001
    async with connect(fake) as swarm:
        whole = await swarm.generate("hello", max_tokens=100)
        stop = whole.text[10:13]
        answer = await swarm.generate("hello", max_tokens=100, stop=[stop])
        assert answer.text == whole.text[: whole.text.index(stop)]
        assert answer.stop == stop
        assert answer.finish_reason is FinishReason.STOP
        assert len(answer.tokens) < 100
        await eventually(lambda: peer.cancelled == [peer.asked[1].session])


async def test_entry_peer_that_dies_is_replaced_and_no_token_is_seen_twice(fake: FakeSwarm):
    one, two = await fake.add(), await fake.add()
    one.die_after = two.die_after = 7
    async with connect(fake) as swarm:
        stream = swarm.stream("hello", max_tokens=12)
        tokens: list[int] = []
        async for piece in stream:
            tokens += piece.tokens
            if len(tokens) == 1:
                (two if one.asked else one).die_after = None
        assert tuple(tokens) == answer_to(swarm.text.encode("hello"), 12)
        assert stream.completion.usage.restarts == 1
    later = two if len(two.asked[0].generated) else one
    assert later.asked[0].generated == tuple(tokens[:7])


async def test_stopped_entry_peer_is_found_by_its_silence(fake: FakeSwarm, monkeypatch):
    monkeypatch.setattr("helix_p2p.client.links.HEARTBEAT_S", 0.02)
    monkeypatch.setattr("helix_p2p.client.links.SILENCE_S", 0.1)
    one, two = await fake.add(), await fake.add()
    one.pause_s = two.pause_s = 0.01
    async with connect(fake) as swarm:
        stream = swarm.stream("hello", max_tokens=12)
        tokens: list[int] = []
        async for piece in stream:
            tokens += piece.tokens
            if len(tokens) == 3:
                fake.network.freeze((one if one.asked else two).peer_id)
        assert tuple(tokens) == answer_to(swarm.text.encode("hello"), 12)
        assert stream.completion.usage.restarts == 1


async def test_slow_entry_peer_that_lives_is_kept(fake: FakeSwarm, monkeypatch):
    monkeypatch.setattr("helix_p2p.client.links.HEARTBEAT_S", 0.02)
    monkeypatch.setattr("helix_p2p.client.links.SILENCE_S", 0.1)
    peer = await fake.add()
    peer.pause_s = 0.3
    async with connect(fake) as swarm:
        answer = await swarm.generate("hello", max_tokens=4)
    assert answer.usage.restarts == 0


async def test_busy_swarm_is_told_with_its_delay(fake: FakeSwarm):
    peer = await fake.add()
    peer.refusal = Busy("the queue is full", retry_after_s=0.01)
    async with connect(fake) as swarm:
        with pytest.raises(Busy) as caught:
            await swarm.generate("hello")
    assert caught.value.retry_after_s == 0.01
    assert len(peer.asked) == 4


async def test_peer_that_joins_later_serves_what_waits(fake: FakeSwarm):
    bootstrap = await fake.add(None)
    async with connect(fake, bootstrap) as swarm:
        waiting = asyncio.create_task(swarm.generate("hello", max_tokens=3))
        await asyncio.sleep(0.05)
        await fake.add()
        answer = await waiting
    assert len(answer.tokens) == 3


async def test_swarm_that_cannot_serve_says_who_is_there(fake: FakeSwarm, monkeypatch):
    monkeypatch.setattr("helix_p2p.client.results.Limits", lambda **_: Limits(patience_s=0.2))
    bootstrap = await fake.add(None)
    async with connect(fake, bootstrap) as swarm:
        with pytest.raises(NoRoute, match="1 peer: 1 standby"):
            await swarm.generate("hello")


async def test_client_survives_the_loss_of_the_address_it_came_by(fake: FakeSwarm):
    bootstrap, peer = await fake.add(None), await fake.add()
    async with connect(fake, bootstrap) as swarm:
        fake.kill(bootstrap)
        other = await fake.add()
        await swarm.refresh()
        fake.kill(peer)
        answer = await swarm.generate("hello", max_tokens=3)
    assert answer.pipeline[0][0] == other.peer_id


async def test_many_generations_share_one_stream(fake: FakeSwarm):
    peer = await fake.add()
    peer.pause_s = 0.001
    async with connect(fake) as swarm:
        prompts = [f"hello {i}" for i in range(20)]
        answers = await asyncio.gather(*(swarm.generate(p, max_tokens=30) for p in prompts))
        for prompt, answer in zip(prompts, answers, strict=True):
            assert answer.tokens == answer_to(swarm.text.encode(prompt), 30)
    assert peer.streams == 1


async def test_generations_spread_over_entry_peers(fake: FakeSwarm):
    peers = [await fake.add() for _ in range(3)]
    async with connect(fake) as swarm:
        for _ in range(12):
            await swarm.generate("hello", max_tokens=1)
    assert [len(peer.asked) for peer in peers] == [4, 4, 4]


async def test_closing_the_iterator_cancels_the_generation(fake: FakeSwarm):
    peer = await fake.add()
    peer.pause_s = 0.01
    async with connect(fake) as swarm:
        async with swarm.stream("hello", max_tokens=200) as stream:
            async for _ in stream:
                break
        await eventually(lambda: peer.cancelled == [peer.asked[0].session])
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_cancelling_the_task_cancels_the_generation(fake: FakeSwarm):
    peer = await fake.add()
    peer.pause_s = 0.01
    async with connect(fake) as swarm:
        task = asyncio.create_task(swarm.generate("hello", max_tokens=200))
        await eventually(lambda: peer.asked)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(lambda: peer.cancelled == [peer.asked[0].session])


async def test_closing_the_swarm_ends_what_runs(fake: FakeSwarm):
    peer = await fake.add()
    peer.pause_s = 0.01
    async with connect(fake) as swarm:
        task = asyncio.create_task(swarm.generate("hello", max_tokens=200))
        await eventually(lambda: peer.asked)
    with pytest.raises(Cancelled):
        await task


@pytest.mark.parametrize(
    ("options", "stop_after", "words"),
    [
        ({"first_token_timeout_s": 0.05}, 0, "first token"),
        ({"between_tokens_timeout_s": 0.05}, 3, "next token"),
        ({"timeout_s": 0.05}, 3, "the answer"),
    ],
)
async def test_timeouts_are_typed_and_cancel_upstream(
    fake: FakeSwarm, options: dict, stop_after: int, words: str
):
    peer = await fake.add()
    peer.stop_after = stop_after
    async with connect(fake) as swarm:
        with pytest.raises(DeadlineExceeded, match=words):
            await swarm.generate("hello", **options)
        await eventually(lambda: peer.cancelled == [peer.asked[0].session])


async def test_slow_reader_is_no_silence_of_the_peer(fake: FakeSwarm):
    await fake.add()
    async with connect(fake) as swarm:
        stream = swarm.stream("hello", max_tokens=10, between_tokens_timeout_s=0.1)
        async for _ in stream:
            await asyncio.sleep(0.03)
        assert len(stream.completion.tokens) == 10


async def test_seed_is_drawn_once_and_kept_over_restarts(fake: FakeSwarm):
    one, two = await fake.add(), await fake.add()
    async with connect(fake) as swarm:
        one.die_after = two.die_after = 2
        stream = swarm.stream("hello", max_tokens=5, temperature=0.7)
        async for _ in stream:
            (two if one.asked else one).die_after = None
    assert one.asked[0].sampling == two.asked[0].sampling
    assert one.asked[0].sampling.seed > 0


@pytest.mark.parametrize(
    ("prompt", "options", "error", "words"),
    [
        ("", {}, InvalidRequest, "empty"),
        ([1, 2, 400], {}, InvalidRequest, "400 is no token id"),
        ([1, True], {}, InvalidRequest, "no token id"),
        ("hi", {"temperature": -1.0}, InvalidRequest, "temperature"),
        ("hi", {"temperature": float("nan")}, InvalidRequest, "temperature"),
        ("hi", {"top_p": 0.0}, InvalidRequest, "top_p"),
        ("hi", {"max_tokens": 0}, InvalidRequest, "max_tokens"),
        ("hi", {"seed": -1}, InvalidRequest, "seed"),
        ("hi", {"stop": [""]}, InvalidRequest, "stop"),
        ("hi", {"temprature": 1.0}, InvalidRequest, "temprature"),
        ([5] * 256, {}, PromptTooLong, "256 tokens, the model's context holds 256"),
        ([5] * 200, {"max_tokens": 57}, PromptTooLong, "at most 56"),
    ],
)
async def test_bad_request_is_refused_before_anything_is_sent(
    fake: FakeSwarm, prompt: object, options: dict, error: type[HelixError], words: str
):
    peer = await fake.add()
    async with connect(fake) as swarm:
        with pytest.raises(error, match=words):
            swarm.stream(prompt, **options)  # type: ignore[arg-type]
    assert peer.asked == []


async def test_answer_fills_what_the_context_leaves_by_default(fake: FakeSwarm):
    peer = await fake.add()
    async with connect(fake) as swarm:
        await swarm.generate([5] * 250)
    assert peer.asked[0].max_new_tokens == 6


# ── connecting ─────────────────────────────────────────────────────────────────────────────────


async def test_nobody_answers_is_one_clear_error(fake: FakeSwarm):
    await fake.add()
    fake.kill(fake.peers[0])
    with pytest.raises(PeerUnreachable, match="nobody in the swarm answers, 1 asked"):
        async with connect(fake):
            pass


async def test_one_dead_address_of_several_does_no_harm(fake: FakeSwarm):
    dead, alive = await fake.add(), await fake.add()
    fake.kill(dead)
    async with connect(fake, dead, alive) as swarm:
        assert len((await swarm.generate("hello", max_tokens=2)).tokens) == 2


async def test_frozen_address_costs_a_head_start_only(fake: FakeSwarm, monkeypatch):
    monkeypatch.setattr("helix_p2p.client.view.HEAD_START_S", 0.02)
    frozen, alive = await fake.add(None), await fake.add()
    fake.network.freeze(frozen.peer_id)
    async with asyncio.timeout(3), connect(fake, frozen, alive) as swarm:
        await swarm.generate("hello", max_tokens=2)


async def test_connecting_takes_no_longer_than_it_may(fake: FakeSwarm):
    frozen = await fake.add()
    fake.network.freeze(frozen.peer_id)
    with pytest.raises(DeadlineExceeded, match="connecting"):
        async with connect(fake, timeout_s=0.1):
            pass


async def test_swarm_without_peers_is_said_to_have_none(fake: FakeSwarm):
    bootstrap = await fake.add(None)
    bootstrap.files.clear()
    with pytest.raises((NoRoute, ModelError)):
        async with connect(fake, timeout_s=0.1):
            pass


async def test_model_files_are_fetched_once_and_then_come_from_the_cache(fake: FakeSwarm):
    peer = await fake.add()
    async with connect(fake):
        pass
    peer.files.clear()
    async with connect(fake) as swarm:
        assert swarm.manifest == fake.manifest


async def test_altered_cache_is_fetched_again(fake: FakeSwarm):
    await fake.add()
    async with connect(fake):
        pass
    kept = fake.folder.parent / "cache" / fake.manifest.manifest_hash
    (kept / "tokenizer.json").write_bytes(b"{}")
    async with connect(fake) as swarm:
        assert swarm.text.encode("hello")
    assert (kept / "tokenizer.json").read_bytes() != b"{}"


@pytest.mark.parametrize("name", ["manifest.json", "tokenizer.json"])
async def test_file_with_another_hash_is_taken_from_someone_else(fake: FakeSwarm, name: str):
    liar, honest = await fake.add(), await fake.add()
    liar.files[name] = liar.files[name].replace(b"a", b"b", 1)
    async with connect(fake, liar, honest) as swarm:
        assert swarm.manifest.manifest_hash == fake.manifest.manifest_hash
    honest.files.clear()
    with pytest.raises((DecodeError, ModelError)):
        async with connect(fake, liar, honest, cache=fake.folder.parent / "new", timeout_s=0.1):
            pass


async def test_callers_own_folder_spares_the_transfer(fake: FakeSwarm):
    peer = await fake.add()
    for name in list(peer.files):
        if name != "manifest.json":
            del peer.files[name]
    async with connect(fake, model=fake.folder) as swarm:
        assert swarm.text.encode("hello")


async def test_folder_of_another_model_is_refused(fake: FakeSwarm):
    await fake.add()
    (fake.folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer_config.json is not the one"):
        async with connect(fake, model=fake.folder):
            pass
    with pytest.raises(ModelError, match="no model folder"):
        async with connect(fake, model=fake.folder / "nothing"):
            pass


async def test_plan_of_another_swarm_is_not_believed(fake: FakeSwarm, caplog):
    await fake.add()
    fake.planner, honest = Identity(bytes(32)), fake.plan()
    fake.plan = lambda _cell: type(honest)(  # type: ignore[method-assign]
        honest.kind, honest.swarm, honest.body, honest.public_key, bytes(64)
    )
    async with connect(fake) as swarm:
        assert swarm.view.plan is None
        await swarm.generate("hello", max_tokens=1)
    assert "not believed" in caplog.text


async def test_plan_from_the_future_is_not_believed(fake: FakeSwarm):
    await fake.add()
    async with connect(fake) as swarm:
        assert swarm.view.plan is not None
        fake.epoch = 2**50
        await swarm.refresh()
        assert swarm.view.plan.plan.epoch == 64
        fake.epoch = 63
        await swarm.refresh()
        assert swarm.view.plan.plan.epoch == 64


# ── invites ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def closed(tmp_path: Path) -> AsyncIterator[tuple[FakeSwarm, Invite]]:
    draft = FakeSwarm(tmp_path / "model")
    invite = create_invite(
        root=ROOT,
        invite_seed=bytes([5] * 32),
        addresses=[f"/memory/0/p2p/{Identity(bytes([1] * 32)).peer_id}"],
        model_name="tiny",
        manifest_hash=draft.manifest.manifest_hash,
        expires_unix_s=4e9,
    )
    made = FakeSwarm(tmp_path / "model", invite)
    yield made, invite
    await close(made)


async def test_invite_is_enough(closed: tuple[FakeSwarm, Invite]):
    fake, invite = closed
    await fake.add()
    async with connect(fake, way_in=invite.to_text()) as swarm:
        assert len((await swarm.generate("hello", max_tokens=2)).tokens) == 2


async def test_members_only_swarm_refuses_a_bare_address(closed: tuple[FakeSwarm, Invite]):
    fake, _ = closed
    await fake.add()
    with pytest.raises(HandshakeRefused):
        async with connect(fake):
            pass


async def test_uncertified_announcement_is_not_believed(closed: tuple[FakeSwarm, Invite]):
    fake, invite = closed
    fake.certified = False
    await fake.add()
    async with connect(fake, way_in=invite.to_text()) as swarm:
        assert swarm.view.members == {}


@pytest.mark.parametrize(
    "way_in",
    ["", "hello", "helix1abc", "/ip4/127.0.0.1/tcp/1", "/ip4/1.2.3.4/tcp/1/p2p/xyz", "12D3KooW"],
)
def test_text_that_is_no_way_in_says_what_one_looks_like(way_in: str):
    with pytest.raises(InviteError):
        Swarm.connect(way_in)


def test_expired_invite_is_refused_at_once():
    invite = create_invite(
        root=ROOT,
        invite_seed=bytes([5] * 32),
        addresses=["/ip4/127.0.0.1/tcp/1/p2p/" + ME.peer_id],
        model_name="tiny",
        manifest_hash="",
        expires_unix_s=1000.0,
    )
    with pytest.raises(InviteError, match="expired"):
        Swarm.connect(invite.to_text())
