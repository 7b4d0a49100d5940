"""A network in memory for each test."""

import pytest

from helix_p2p.net.memory import MemoryNetwork


@pytest.fixture
def network() -> MemoryNetwork:
    return MemoryNetwork()
