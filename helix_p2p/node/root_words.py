"""What the swarm's root said last reaches every node, in whatever cell, through others that know.

Within a cell a list of revocations goes round by itself (`membership.exclusion`). Between cells,
and for the number of cells, each node asks: the ways in when it starts, then somebody every minute.
Whoever is asked may lie by silence only, since the words are signed and the later one holds; so it
is somebody else each time, now and then a way in, whose operator's word it is.

Always: a start waits for an answer for seconds at most; so few ask the ways in at a time that they
can answer in a swarm of any size.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from helix_p2p.errors import HelixError
from helix_p2p.membership.messages import NOT_ASKED, GetRootWords, RootWords
from helix_p2p.net.channel import Membership
from helix_p2p.net.requests import Requests
from helix_p2p.net.transport import Transport
from helix_p2p.node.cells import CellsKnown
from helix_p2p.types import PeerId

ASK_EVERY_S = 60.0
ASK_S = 5.0
FIRST_S, OTHERS_S = 3.0, 0.5
"""A start waits so long for the first answer, and then for the others'."""
ASK_WAYS_IN = 30
"""So many nodes ask a way in in each period, whatever the swarm's size."""

Ask = Callable[[PeerId], Awaitable[RootWords | None]]
"""Asks a node; None when it does not answer."""


async def ask_at_start(
    transport: Transport,
    ours: Membership,
    ways_in: Mapping[PeerId, tuple[str, ...]],
    known: CellsKnown,
) -> None:
    """Hear how many cells there are before anything depends on it.

    Args:
        transport: Ours.
        ours: Whom to believe.
        ways_in: Whom to ask, all at once.
        known: Takes the answers.
    """
    answered = asyncio.Event()

    async def hear(peer: PeerId, addresses: tuple[str, ...]) -> None:
        with contextlib.suppress(HelixError):
            reply, _ = await requests.ask(
                peer,
                GetRootWords(known.serial, NOT_ASKED),
                timeout_s=FIRST_S,
                addresses=addresses,
            )
            if isinstance(reply, RootWords):
                if reply.cells is not None:
                    await known.take(reply.cells)
                answered.set()

    async with Requests(transport, ours) as requests:
        asked = [asyncio.create_task(hear(*way_in)) for way_in in ways_in.items()]
        if not asked:
            return
        all_over: asyncio.Future[Any] = asyncio.gather(*asked)
        one_said: asyncio.Future[Any] = asyncio.create_task(answered.wait())
        try:
            await asyncio.wait(
                {all_over, one_said}, timeout=FIRST_S, return_when=asyncio.FIRST_COMPLETED
            )
            await asyncio.wait({all_over}, timeout=OTHERS_S if answered.is_set() else 0.0)
        finally:
            for task in (*asked, one_said):
                task.cancel()
            await asyncio.gather(all_over, one_said, return_exceptions=True)


async def keep_asking(
    ask: Ask,
    *,
    ways_in: Sequence[PeerId],
    members: Callable[[], Sequence[PeerId]],
    nodes: Callable[[], int],
) -> None:
    """Ask somebody every minute, until cancelled; `ask` takes what it hears.

    Args:
        ask: See `Ask`.
        ways_in: Bootstrap nodes.
        members: Of our cell.
        nodes: About how many there are in all cells.
    """
    while True:
        await asyncio.sleep(ASK_EVERY_S * random.uniform(0.5, 1.5))
        others = members()
        if ways_in and (not others or random.random() * nodes() < ASK_WAYS_IN):
            await ask(random.choice(ways_in))
        elif others:
            await ask(random.choice(others))
