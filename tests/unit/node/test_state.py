"""State on disk: kept through crashes, full disks and second processes, never silently lost."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helix_p2p.errors import ConfigError
from helix_p2p.node import state
from helix_p2p.node.state import HighWaterMark, StateDir, load_or_create_key, read_value


def mark(epoch: int, swarm: str = "s") -> HighWaterMark:
    return HighWaterMark(swarm, (epoch, b"tie", b"hash"))


def test_identity_is_made_once_and_only_the_owner_can_read_it(tmp_path: Path) -> None:
    with StateDir(tmp_path / "deep" / "state") as first:
        made = first.identity()
        assert (first.path / "identity.key").stat().st_mode & 0o777 == 0o600
        assert first.path.stat().st_mode & 0o777 == 0o700
    with StateDir(tmp_path / "deep" / "state") as second:
        assert second.identity().peer_id == made.peer_id


def test_identity_file_is_the_one_that_libp2ps_daemon_reads(tmp_path: Path) -> None:
    made = load_or_create_key(tmp_path / "identity.key")
    assert (tmp_path / "identity.key").read_bytes() == made.to_libp2p()


@pytest.mark.parametrize("damage", [b"", b"\x08\x01\x12\x40short", b"x" * 68, b"y" * 200])
def test_damaged_key_is_an_error_and_stays_untouched(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "identity.key"
    path.write_bytes(damage)
    with pytest.raises(ConfigError, match="damaged"):
        load_or_create_key(path)
    assert path.read_bytes() == damage


def test_second_process_is_refused_the_same_folder(tmp_path: Path) -> None:
    attempt = (
        "import sys; from pathlib import Path; from helix_p2p.node.state import StateDir\n"
        "StateDir(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", attempt, str(tmp_path)]
    with StateDir(tmp_path):
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "another process uses the state folder" in refused.stderr
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_start_that_failed_leaves_no_folder_and_no_lock_behind(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no"), StateDir(tmp_path / "new"):
        raise ConfigError("no such model")
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()
    StateDir(tmp_path / "mine").close()
    assert list((tmp_path / "mine").iterdir()) == []


def test_lock_that_is_taken_away_while_another_waits_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, turns = state.fcntl.flock, []

    def flock(descriptor: int, how: int) -> None:
        if not turns:  # the holder leaves between our opening and our locking
            (tmp_path / "lock").unlink()
        turns.append(how)
        real(descriptor, how)

    monkeypatch.setattr(state.fcntl, "flock", flock)
    with StateDir(tmp_path) as held:
        assert len(turns) == 2
        assert os.path.samestat(os.fstat(held._lock), (tmp_path / "lock").stat())


def test_high_water_mark_survives_and_never_falls(tmp_path: Path) -> None:
    with StateDir(tmp_path) as held:
        assert held.high_water("s") is None
        held.raise_high_water(mark(64))
        held.raise_high_water(mark(65))
        with pytest.raises(ValueError, match="would fall"):
            held.raise_high_water(mark(64))
    with StateDir(tmp_path) as held:
        assert held.high_water("s") == mark(65)


def test_another_swarm_starts_without_a_mark(tmp_path: Path) -> None:
    with StateDir(tmp_path) as held:
        held.raise_high_water(mark(900, "old"))
        assert held.high_water("new") is None
        held.raise_high_water(mark(1, "new"))
        assert held.high_water("new") == mark(1, "new")


@pytest.mark.parametrize("at", range(0, 90, 7))
def test_every_flipped_byte_of_the_mark_is_found(tmp_path: Path, at: int) -> None:
    with StateDir(tmp_path) as held:
        held.raise_high_water(mark(7))
        path = tmp_path / "high-water"
        stored = bytearray(path.read_bytes())
        stored[at % len(stored)] ^= 0x40
        path.write_bytes(stored)
        with pytest.raises(ConfigError, match="damaged"):
            held.high_water("s")


def test_damaged_list_of_peers_is_forgotten(tmp_path: Path) -> None:
    with StateDir(tmp_path) as held:
        held.remember_peers(("/ip4/127.0.0.1/tcp/1/p2p/a",))
        assert held.known_peers() == ("/ip4/127.0.0.1/tcp/1/p2p/a",)
        (tmp_path / "known-peers").write_bytes(b"torn")
        assert held.known_peers() == ()


class Crash(BaseException):
    """The process is gone: no handler in the code under test may run on it."""


def crash_after(monkeypatch: pytest.MonkeyPatch, calls: int, written_bytes: int) -> None:
    """Let `calls` system calls pass, then crash; a crashing write leaves `written_bytes`."""
    left = [calls]

    def crashing(name: str) -> None:
        real = getattr(os, name)

        def call(*args: object, **kwargs: object) -> object:
            if left[0] == 0:
                if name == "write":
                    real(args[0], memoryview(args[1])[:written_bytes])  # type: ignore[arg-type]
                raise Crash
            left[0] -= 1
            return real(*args, **kwargs)

        monkeypatch.setattr(os, name, call)

    for name in ("open", "write", "fsync", "replace", "rename"):
        crashing(name)


def test_no_crash_point_loses_the_mark_or_lets_it_fall(tmp_path: Path) -> None:
    seen = set()
    for calls in range(12):
        for written_bytes in (0, 1, 17, 40, 60):
            folder = tmp_path / f"{calls}-{written_bytes}"
            with StateDir(folder) as held:
                held.raise_high_water(mark(10))
                with pytest.MonkeyPatch.context() as patch:
                    crash_after(patch, calls, written_bytes)
                    try:
                        held.raise_high_water(mark(11))
                        ended = "whole"
                    except Crash:
                        ended = "crashed"
            with StateDir(folder) as again:
                found = again.high_water("s")
                assert found in ((mark(11),) if ended == "whole" else (mark(10), mark(11)))
                assert {path.name for path in folder.iterdir()} == {"high-water", "lock"}
                seen.add((ended, found == mark(11)))
    assert seen == {("crashed", False), ("crashed", True), ("whole", True)}


def test_full_disk_keeps_the_old_mark_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int, _data: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with StateDir(tmp_path) as held:
        held.raise_high_water(mark(1))
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(ConfigError, match="No space left on device"):
                held.raise_high_water(mark(2))
        assert held.high_water("s") == mark(1)
        assert {path.name for path in tmp_path.iterdir()} == {"high-water", "lock"}


def test_state_folder_that_is_a_file_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be used"):
        StateDir(tmp_path / "file")
    with pytest.raises(ConfigError, match="cannot be used"):
        StateDir(tmp_path / "file" / "below")


def test_value_of_another_type_is_damage(tmp_path: Path) -> None:
    state.write_value(tmp_path / "value", ("a", "b"))
    assert read_value(tmp_path / "value", tuple[str, ...]) == ("a", "b")
    with pytest.raises(ConfigError, match="damaged"):
        read_value(tmp_path / "value", HighWaterMark)
    assert read_value(tmp_path / "absent", HighWaterMark) is None
