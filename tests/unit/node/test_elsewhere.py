"""Members of other cells: looked up once for all who ask, and never told as nobody by mistake."""

import asyncio

import pytest

from helix_p2p.errors import DeadlineExceeded
from helix_p2p.node import elsewhere
from helix_p2p.node.elsewhere import CELLS_AT_ONCE, Elsewhere, Records


class Dht:
    """Answers when told to."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.running = self.most = 0
        self.free = asyncio.Event()
        self.free.set()
        self.down = False

    async def read(self, cell: int) -> Records:
        self.asked.append(cell)
        self.running += 1
        self.most = max(self.most, self.running)
        await self.free.wait()
        self.running -= 1
        if self.down:
            raise DeadlineExceeded("the DHT does not answer")
        return (f"{cell}/{len(self.asked)}",)  # type: ignore[return-value]


async def test_many_who_ask_at_once_cost_one_look_up() -> None:
    dht = Dht()
    kept = Elsewhere(dht.read)
    answers = await asyncio.gather(*(kept.members(3) for _ in range(50)))
    assert set(answers) == {("3/1",)}
    assert await kept.members(3) == ("3/1",)
    assert dht.asked == [3]


async def test_one_who_asks_for_all_cells_keeps_no_other_waiting_for_a_known_one() -> None:
    dht = Dht()
    kept = Elsewhere(dht.read)
    await kept.members(1)
    dht.free.clear()
    greedy = [asyncio.create_task(kept.members(cell)) for cell in range(2, 100)]
    while dht.running < CELLS_AT_ONCE:  # noqa: ASYNC110 - a fake's state
        await asyncio.sleep(0)
    assert await kept.members(1) == ("1/1",)
    assert dht.most <= CELLS_AT_ONCE
    dht.free.set()
    await asyncio.gather(*greedy)
    assert dht.most == CELLS_AT_ONCE


async def test_what_was_seen_a_moment_ago_is_told_while_it_is_looked_up_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(elsewhere, "FRESH_S", -1.0)
    dht = Dht()
    kept = Elsewhere(dht.read)
    assert await kept.members(3) == ("3/1",)
    assert await kept.members(3) == ("3/1",)
    while dht.running or len(dht.asked) < 2:  # noqa: ASYNC110 - a fake's state
        await asyncio.sleep(0)
    assert await kept.members(3) == ("3/2",)


async def test_look_up_that_fails_is_an_error_and_not_remembered() -> None:
    dht = Dht()
    kept = Elsewhere(dht.read)
    dht.down = True
    with pytest.raises(DeadlineExceeded):
        await kept.members(3)
    dht.down = False
    assert await kept.members(3) == ("3/2",)


async def test_who_gives_up_waiting_stops_nobody_else() -> None:
    dht = Dht()
    dht.free.clear()
    kept = Elsewhere(dht.read)
    first, second = (asyncio.create_task(kept.members(3)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    dht.free.set()
    assert await second == ("3/1",)


async def test_closing_ends_what_is_looked_up() -> None:
    dht = Dht()
    dht.free.clear()
    kept = Elsewhere(dht.read)
    waiting = asyncio.create_task(kept.members(3))
    await asyncio.sleep(0)
    await kept.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
