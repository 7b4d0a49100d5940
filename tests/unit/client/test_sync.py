import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helix_p2p import SyncSwarm
from helix_p2p.errors import Cancelled, PromptTooLong
from helix_p2p.identity import Identity
from tests.unit.client.fake_swarm import FakeSwarm, HomeTransport, answer_to

ME = Identity(bytes([77] * 32))
FIRST = Identity(bytes([1] * 32))


@pytest.fixture
def home(tmp_path: Path) -> HomeTransport:
    return HomeTransport(FakeSwarm(tmp_path / "model"), ME.peer_id)


@pytest.fixture
def swarm(home: HomeTransport, tmp_path: Path) -> Iterator[SyncSwarm]:
    connected = SyncSwarm.connect(
        f"/memory/0/p2p/{FIRST.peer_id}", transport=home, identity=ME, cache=tmp_path / "cache"
    )
    with connected:
        yield connected
        connected._thread.run(home.close())


def test_calls_answer_without_await(swarm: SyncSwarm):
    prompt = swarm.swarm.text.encode("hello")
    assert swarm.generate("hello", max_tokens=5).tokens == answer_to(prompt, 5)
    assert len(swarm.chat([{"role": "user", "content": "hi"}], max_tokens=3).tokens) == 3


def test_stream_is_an_ordinary_iterator(swarm: SyncSwarm):
    with swarm.stream("hello", max_tokens=6) as stream:
        text = "".join(str(piece) for piece in stream)
        assert text == stream.completion.text == stream.text
        assert list(stream) == []
    assert swarm.chat_stream([{"role": "user", "content": "hi"}], max_tokens=2).collect().tokens


def test_errors_are_those_of_the_library(swarm: SyncSwarm):
    with pytest.raises(PromptTooLong):
        swarm.generate([5] * 300)


def test_many_threads_may_use_one_connection(swarm: SyncSwarm):
    answers: dict[int, tuple[int, ...]] = {}

    def ask(number: int) -> None:
        answers[number] = swarm.generate([number], max_tokens=10).tokens

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(5, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert answers == {number: answer_to([number], 10) for number in range(5, 13)}


async def test_it_works_where_a_loop_already_runs(swarm: SyncSwarm):
    assert len(swarm.generate("hello", max_tokens=2).tokens) == 2


def test_ctrl_c_cancels_what_the_call_was_waiting_for(swarm: SyncSwarm, home: HomeTransport):
    peer = home.fake.peers[0]
    peer.pause_s = 0.02

    def interrupt() -> None:
        while not peer.asked:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        swarm.generate("hello", max_tokens=200)
    thread.join(5)
    assert len(swarm.generate("hello", max_tokens=1).tokens) == 1
    assert peer.cancelled == [peer.asked[0].session]


def test_closed_swarm_says_so_and_its_thread_is_gone(home: HomeTransport, tmp_path: Path):
    connected = SyncSwarm.connect(
        f"/memory/0/p2p/{FIRST.peer_id}", transport=home, identity=ME, cache=tmp_path / "cache"
    )
    home.fake.peers[0].pause_s = 0.02
    stream = connected.stream("hello", max_tokens=100)
    next(stream)
    connected._thread.run(home.close())
    connected.close()
    connected.close()
    assert "helix-client" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(RuntimeError, match="closed"):
        connected.generate("hello")


def test_use_from_its_own_loop_is_refused_instead_of_hanging(swarm: SyncSwarm):
    async def inside() -> None:
        swarm.generate("hello")

    with pytest.raises(RuntimeError, match="own event loop"):
        swarm._thread.run(inside())


def test_work_that_is_cancelled_from_inside_is_cancelled_here(swarm: SyncSwarm):
    async def ends_itself() -> None:
        raise asyncio.CancelledError

    with pytest.raises(Cancelled):
        swarm._thread.run(ends_itself())
