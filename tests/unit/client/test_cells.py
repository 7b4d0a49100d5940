"""A client of a swarm of several cells: it draws one, and goes on where one cannot serve it."""

from collections import Counter
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from random import Random

import pytest

from helix_p2p.client.swarm import Swarm
from helix_p2p.errors import Busy, HelixError, NoRoute, SwarmTooSmall
from helix_p2p.identity import Identity, Signed
from helix_p2p.membership.cell_count import CellCount, write_cells
from helix_p2p.membership.cells import cell_id
from helix_p2p.membership.invite import create_invite
from helix_p2p.session.client_values import Limits
from tests.unit.client.fake_swarm import FakePeer, FakeSwarm

ROOT, STRANGER = Identity(bytes([88] * 32)), Identity(bytes([89] * 32))
CELLS = 3


def said(cells: int, root: Identity = ROOT, serial: int = 1) -> Signed:
    return write_cells(root, CellCount(serial, cells))


@pytest.fixture(autouse=True)
def chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each client of a test draws its own, and the same in every run."""
    numbers = count()
    monkeypatch.setattr("helix_p2p.client.swarm.random.SystemRandom", lambda: Random(next(numbers)))


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeSwarm]:
    """A bootstrap node in the first cell, and a peer in each."""
    invite = create_invite(
        root=ROOT,
        invite_seed=bytes([9]) * 32,
        addresses=(),
        model_name="tiny",
        manifest_hash="",
        expires_unix_s=4e9,
    )
    made = FakeSwarm(tmp_path / "model", invite)
    made.cells = said(CELLS)
    await made.add(None)
    for cell in range(CELLS):
        await made.add(cell=cell)
    yield made
    for peer in made.peers:
        made.network.kill(peer.peer_id)


def connect(fake: FakeSwarm, number: int = 0) -> Swarm:
    assert fake.invite is not None
    invite = create_invite(
        root=ROOT,
        invite_seed=bytes([9]) * 32,
        addresses=(fake.peers[0].address,),
        model_name="tiny",
        manifest_hash=fake.manifest.manifest_hash,
        expires_unix_s=4e9,
    )
    me = Identity(bytes([100 + number] * 32))
    return Swarm.connect(
        invite.to_text(),
        transport=fake.transport_of(me.peer_id),
        identity=me,
        cache=fake.folder.parent / "cache",
    )


def in_cell(fake: FakeSwarm, cell: int) -> FakePeer:
    return next(peer for peer in fake.peers if peer.serving and peer.cell == cell)


async def test_clients_spread_over_the_cells(fake: FakeSwarm) -> None:
    cells: Counter[int] = Counter()
    for number in range(20):
        async with connect(fake, number) as swarm:
            answer = await swarm.generate("hello", max_tokens=3)
            cells[swarm.view.cell] += 1
            assert answer.pipeline[0][0] == in_cell(fake, swarm.view.cell).peer_id
            assert set(swarm.view.members) == {
                peer.peer_id for peer in fake.peers if peer.cell == swarm.view.cell
            }
    assert set(cells) == set(range(CELLS))


async def test_the_cells_own_plan_is_followed(fake: FakeSwarm) -> None:
    for number in range(6):
        async with connect(fake, number) as swarm:
            plan = swarm.view.plan
            assert plan is not None
            served = [it.peer for it in plan.plan.placement.assignments]
            assert served == [in_cell(fake, swarm.view.cell).peer_id]


async def test_cell_that_serves_nobody_is_left(fake: FakeSwarm) -> None:
    for cell in (1, 2):
        fake.kill(in_cell(fake, cell))
    for number in range(6):
        async with connect(fake, number) as swarm:
            await swarm.generate("hello", max_tokens=3)
            assert swarm.view.cell == 0


async def test_answer_goes_on_in_another_cell_when_its_own_dies(fake: FakeSwarm) -> None:
    async with connect(fake) as swarm:
        first = in_cell(fake, swarm.view.cell)
        first.die_after = 5
        fake.gone.add(first.peer_id)
        answer = await swarm.generate("hello", max_tokens=12)
        assert len(answer.tokens) == 12
        assert answer.usage.restarts >= 1
        assert answer.pipeline[0][0] != first.peer_id


@pytest.mark.parametrize(
    "refusal",
    [
        Busy("full", retry_after_s=0.05),
        SwarmTooSmall(missing_bytes=1, usable_peers=1, total_peers=1),
        NoRoute("a layer is held by nobody", retry_after_s=0.05),
    ],
)
async def test_cell_that_is_full_or_lost_a_layer_is_left_for_one_that_serves(
    fake: FakeSwarm, refusal: HelixError
) -> None:
    async with connect(fake) as swarm:
        full = in_cell(fake, swarm.view.cell)
        full.refusal = refusal
        answer = await swarm.generate("hello", max_tokens=3)
        assert answer.pipeline[0][0] != full.peer_id


async def test_full_cell_is_returned_to_where_no_other_serves(
    fake: FakeSwarm,
) -> None:
    fake.cells = said(40)
    for cell in (1, 2):
        fake.kill(in_cell(fake, cell))
    async with connect(fake) as swarm:
        await swarm.refresh()
        while not swarm.view.covered:
            await swarm.refresh()
        assert swarm.view.cell == 0
        for _ in range(5):
            swarm.view.refresh_soon(crowded=True)
            await swarm.refresh()
            assert swarm.view.cell == 0
            assert swarm.view.covered


async def test_swarm_whose_cells_are_all_down_says_so(
    fake: FakeSwarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("helix_p2p.client.results.Limits", lambda **_: Limits(patience_s=0.2))
    for cell in range(CELLS):
        fake.kill(in_cell(fake, cell))
    async with connect(fake) as swarm:
        with pytest.raises(NoRoute):
            await swarm.generate("hello", max_tokens=3)


async def test_number_of_cells_that_is_not_the_roots_is_not_believed(fake: FakeSwarm) -> None:
    fake.cells = said(200, STRANGER)
    async with connect(fake) as swarm:
        await swarm.generate("hello", max_tokens=3)
        assert swarm.view.cell == 0


async def test_swarm_in_which_nobody_tells_the_number_of_cells_is_one_cell(
    fake: FakeSwarm,
) -> None:
    fake.silent_on_cells = True
    async with connect(fake) as swarm:
        assert swarm.view.cell == 0
        await swarm.generate("hello", max_tokens=3)


async def test_plan_of_one_cell_is_not_taken_for_anothers(fake: FakeSwarm) -> None:
    """Where who is asked about an empty cell shows the plan of its own, which is known."""
    for cell in (1, 2):
        fake.kill(in_cell(fake, cell))
    async with connect(fake) as swarm:
        assert swarm.view.plan is not None
        in_cell(fake, 0).serving = None
        await swarm.refresh()
        plan = swarm.view.plan
        assert plan is None or plan.record.swarm == cell_id(fake.name, swarm.view.cell)


async def test_new_number_of_cells_is_followed_when_the_peers_have_moved(
    fake: FakeSwarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("helix_p2p.client.view.CELLS_ASKED_S", 0.0)
    fake.cells = None
    async with connect(fake) as swarm:
        fake.cells = said(CELLS)
        await swarm.refresh()
        assert swarm.view.cell == 0
        monkeypatch.setattr("helix_p2p.client.cells.REDRAW_S", 0.0)
        cells = set()
        for serial in range(2, 30):
            fake.cells = said(CELLS + serial % 2, serial=serial)
            await swarm.refresh()
            cells.add(swarm.view.cell)
            await swarm.generate("hello", max_tokens=3)
        assert cells == set(range(CELLS))


async def test_peer_that_moved_away_is_asked_for_no_plan_any_more(fake: FakeSwarm) -> None:
    for number in range(6):
        async with connect(fake, number) as swarm:
            home = swarm.view.cell
            await fake.add(cell=home)
            stays = fake.peers[-1]
            in_cell(fake, home).cell = (home + 1) % CELLS
            fake.epoch += 64
            await swarm.refresh()
            await swarm.refresh()
            assert swarm.view.plan is not None
            assert swarm.view.plan.plan.epoch == fake.epoch
            assert stays.peer_id in swarm.view.members


async def test_first_cell_is_seen_whole_when_only_peers_of_others_are_left_to_ask(
    fake: FakeSwarm,
) -> None:
    """The bootstrap node is gone, and who is asked knows the first cell from the DHT."""
    fake.cells = None
    stays = in_cell(fake, 0)
    await fake.add(cell=0)
    moves = fake.peers[-1]
    async with connect(fake) as swarm:
        fake.kill(fake.peers[0])
        moves.cell = 1
        fake.epoch += 64
        for _ in range(4):
            await swarm.refresh()
        assert swarm.view.plan is not None
        assert swarm.view.plan.plan.epoch == fake.epoch
        assert set(swarm.view.members) == {stays.peer_id}
