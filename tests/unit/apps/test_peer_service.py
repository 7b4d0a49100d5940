"""`helix-peer join` lives in one cell after another, until it is asked to stop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helix_p2p.errors import ConfigError, InviteError, PeerUnreachable
from helix_p2p.node.config import NetworkConfig, PeerConfig
from helix_peer import service


class Stop:
    """A stop request without signals."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()

    @property
    def asked(self) -> bool:
        return self._asked.is_set()

    def ask(self) -> None:
        self._asked.set()

    def begun(self) -> None:
        pass

    def beginning(self) -> None:
        pass

    async def wait(self, timeout_s: float | None = None) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._asked.wait()
        return self.asked


class Node:
    """As much of a peer as the service asks."""

    def __init__(self) -> None:
        self.moves = asyncio.Event()
        self.left = 0
        self.loan = SimpleNamespace(memory_bytes=7, hardware=SimpleNamespace(device="cpu"))

    async def leave(self) -> None:
        self.left += 1

    def status(self) -> Any:
        return None


Life = Callable[[Stop, Node], None]


def serve(monkeypatch: pytest.MonkeyPatch, folder: Path, *lives: Life) -> tuple[list[Node], Stop]:
    nodes: list[Node] = []
    rest = list(lives)
    stops: list[Stop] = []

    @contextlib.asynccontextmanager
    async def running(config: PeerConfig, _on_event: Any) -> AsyncIterator[Node]:
        assert config.memory_bytes == (7 if nodes else None)
        node = Node()
        rest.pop(0)(stops[0], node)
        nodes.append(node)
        yield node

    @contextlib.asynccontextmanager
    async def nothing(*_: Any) -> AsyncIterator[None]:
        yield

    async def follow(*_: Any) -> None:
        await asyncio.Event().wait()

    async def run(work: Any) -> None:
        stops.append(Stop())
        async with asyncio.timeout(10):
            await work(stops[0])

    monkeypatch.setattr(service.PeerNode, "running", running)
    monkeypatch.setattr(service, "serving_status", nothing)
    monkeypatch.setattr(service.EventPrinter, "follow", follow)
    monkeypatch.setattr(service, "run_service", lambda work: asyncio.run(run(work)))
    monkeypatch.setattr(service, "REJOIN_S", 0.01)
    service.serve(PeerConfig(folder, NetworkConfig(host="127.0.0.1")), as_json=True)
    assert not rest
    return nodes, stops[0]


def moves(_stop: Stop, node: Node) -> None:
    node.moves.set()


def stopped(stop: Stop, _node: Node) -> None:
    stop.ask()


def port_is_taken(_stop: Stop, _node: Node) -> None:
    raise ConfigError("the port is taken")


def invite_expired(_stop: Stop, _node: Node) -> None:
    raise InviteError("this invite expired")


def nobody_answers(_stop: Stop, _node: Node) -> None:
    raise PeerUnreachable("nobody answers")


def test_peer_that_is_stopped_leaves_and_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nodes, _ = serve(monkeypatch, tmp_path, stopped)
    assert [node.left for node in nodes] == [1]


def test_peer_that_moves_leaves_and_joins_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nodes, _ = serve(monkeypatch, tmp_path, moves, moves, stopped)
    assert [node.left for node in nodes] == [1, 1, 1]


def test_peer_that_finds_nobody_on_its_way_tries_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes, _ = serve(monkeypatch, tmp_path, moves, nobody_answers, nobody_answers, stopped)
    assert [node.left for node in nodes] == [1, 1]
    assert capsys.readouterr().out.count("nobody answers") == 2


def test_peer_whose_port_is_not_free_yet_tries_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nodes, _ = serve(monkeypatch, tmp_path, moves, port_is_taken, stopped)
    assert len(nodes) == 2


def test_peer_whose_invite_has_expired_meanwhile_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(InviteError):
        serve(monkeypatch, tmp_path, moves, invite_expired)


def test_peer_that_never_got_in_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(PeerUnreachable):
        serve(monkeypatch, tmp_path, nobody_answers)
