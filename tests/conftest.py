"""What tests of every kind share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of a small real chat model; downloaded and converted the first time."""
    from helix_p2p.engine.smollm2 import fetch_smollm2

    return fetch_smollm2()
