"""The local status socket: the owner's alone, quick, and gone with its process."""

import asyncio
from pathlib import Path

import pytest

from helix_p2p.cli.control import ask_status, serving_status, socket_path
from helix_p2p.errors import DeadlineExceeded, PeerUnreachable


@pytest.fixture(params=["short", "long"])
def state_dir(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path if request.param == "short" else tmp_path / ("x" * 120)
    folder.mkdir(exist_ok=True)
    return folder


async def test_status_is_what_the_process_says_now(state_dir: Path) -> None:
    asked = []

    def status() -> bytes:
        asked.append(1)
        return b'{"state": "serving", "asked": %d}' % len(asked)

    async with serving_status(state_dir, status):
        assert socket_path(state_dir).stat().st_mode & 0o777 == 0o600
        assert await asyncio.to_thread(ask_status, state_dir) == {"state": "serving", "asked": 1}
        assert await asyncio.to_thread(ask_status, state_dir) == {"state": "serving", "asked": 2}
    assert not socket_path(state_dir).exists()


async def test_nothing_running_is_one_clear_error(state_dir: Path) -> None:
    with pytest.raises(PeerUnreachable, match="nothing runs with the state folder"):
        ask_status(state_dir)


async def test_socket_of_a_process_that_was_killed_does_not_stop_the_next(state_dir: Path) -> None:
    socket_path(state_dir).touch()
    async with serving_status(state_dir, lambda: b'{"again": true}'):
        assert await asyncio.to_thread(ask_status, state_dir) == {"again": True}


async def test_process_that_hangs_is_told_from_one_that_is_gone(tmp_path: Path) -> None:
    async with serving_status(tmp_path, lambda: b"{}"):
        with pytest.raises(DeadlineExceeded):
            ask_status(tmp_path, timeout_s=0.05)  # the loop is this thread: nobody answers
