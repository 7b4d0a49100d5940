"""`helix-peer join`: the peer, what it shows while it runs, and its end.

A peer that belongs into another cell of the swarm leaves its own as if it were asked to stop, and
joins again.

Always: the first Ctrl-C (or SIGTERM) leaves gracefully: no new session is taken, those that run
finish or move; the second ends at once. The libp2p daemon ends with the peer either way.
"""

import asyncio
import contextlib
from dataclasses import replace

from helix_p2p.cli.control import serving_status
from helix_p2p.cli.events import EventPrinter
from helix_p2p.cli.ports import check_port_is_free
from helix_p2p.cli.running import StopRequest, run_service
from helix_p2p.errors import HelixError, InviteError, ModelError
from helix_p2p.node.config import PeerConfig
from helix_p2p.node.events import NodeEvent
from helix_p2p.node.lending import give_back
from helix_p2p.node.peer import PeerNode
from helix_p2p.node.status import encode_status

REJOIN_S = 30.0


def serve(config: PeerConfig, *, as_json: bool) -> None:
    """Lend this machine until it is asked to stop.

    Raises:
        HelixError: It cannot join, or its daemon died; one line says why.
    """
    check_port_is_free(config.network.host, config.network.port)
    printer = EventPrinter(as_json=as_json)

    async def service(stop: StopRequest) -> None:
        memory_bytes, device = await _live(config, printer, stop)
        # What was lent is lent again: what of it is not given back yet would count as taken.
        again = replace(config, memory_bytes=memory_bytes)
        while not stop.asked:
            stop.beginning()
            await asyncio.to_thread(give_back, device)
            try:
                await _live(again, printer, stop)
            except (InviteError, ModelError):
                raise
            except HelixError as error:  # it was in, so there is somebody to wait for
                text = f"{error.message}; trying again in {REJOIN_S:g} s"
                printer.show(NodeEvent("trouble", text, {"code": error.code}))
                stop.begun()
                await stop.wait(REJOIN_S)

    run_service(service)


async def _live(config: PeerConfig, printer: EventPrinter, stop: StopRequest) -> tuple[int, str]:
    """In one cell, until it is asked to stop or to move; how many bytes it lent, and where."""
    async with (
        PeerNode.running(config, printer.show) as node,
        serving_status(config.state_dir, lambda: encode_status(node.status())),
    ):
        stop.begun()
        following = asyncio.create_task(printer.follow(node.status))
        moving = asyncio.create_task(node.moves.wait())
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({moving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if stop.asked:
                text = "leaving when the running sessions are done; Ctrl-C again leaves at once"
                printer.show(NodeEvent("leaving", text))
            await node.leave()
        finally:
            for task in (following, moving, stopping):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        return node.loan.memory_bytes, node.loan.hardware.device
