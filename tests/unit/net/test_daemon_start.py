"""Folders for the daemon's sockets: whose they are, and when they are swept."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from helix_p2p.net.daemon_start import STARTING_S, make_folder, sweep_folders

DIES = """
import os
from helix_p2p.net.daemon_start import make_folder
make_folder()
os._exit(1)
"""


def die_with_a_folder() -> None:
    subprocess.run([sys.executable, "-c", DIES], check=False)


def age(path: Path, seconds: float) -> None:
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def test_folder_is_nobody_elses_while_its_owner_lives(short_tmp: Path) -> None:
    ours = make_folder()
    age(ours.path, 10 * STARTING_S)
    other = make_folder()
    assert ours.path.is_dir()
    assert ours.path != other.path
    ours.remove()
    ours.remove()
    other.remove()
    assert list(short_tmp.iterdir()) == []


def test_what_a_dead_process_left_is_swept(short_tmp: Path) -> None:
    die_with_a_folder()
    [left] = short_tmp.iterdir()
    assert (left / "lock").exists()
    sweep_folders()
    assert list(short_tmp.iterdir()) == []


def test_child_processes_do_not_keep_a_folder(short_tmp: Path) -> None:
    script = DIES.replace(
        "os._exit(1)",
        "import subprocess; subprocess.Popen(['sleep', '20'], stdout=2); os._exit(1)",
    )
    child = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    child.wait()
    try:
        sweep_folders()
        assert list(short_tmp.iterdir()) == []
    finally:
        os.killpg(child.pid, 15)


@pytest.mark.parametrize("listening", [True, False])
def test_folder_without_a_lock_is_swept_when_it_is_old_and_nobody_listens(
    short_tmp: Path, listening: bool
) -> None:
    made = short_tmp / "helix-p2p-old"
    made.mkdir()
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(made / "control"))
        if listening:
            one.listen()
        sweep_folders()
        assert made.exists(), "its maker may be about to lock it"
        age(made, 2 * STARTING_S)
        sweep_folders()
        assert made.exists() is listening


def test_other_folders_are_left_alone(short_tmp: Path) -> None:
    other = short_tmp / "somebody-elses"
    other.mkdir()
    age(other, 10 * STARTING_S)
    make_folder().remove()
    assert other.exists()
