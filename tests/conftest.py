"""What tests of every kind share."""

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_configure() -> None:
    """In the background of a script both are ignored, and what we start would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of a small real chat model; downloaded and converted the first time."""
    from helix_p2p.engine.smollm2 import fetch_smollm2

    return fetch_smollm2()


@pytest.fixture
def short_tmp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder for us and our children: a unix socket's path has at most 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="hx-"))
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folder
    shutil.rmtree(folder)
