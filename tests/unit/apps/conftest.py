from pathlib import Path

import pytest

from helix_bootstrap.invites import SwarmCard
from tests.unit.apps.cards import invite_only


@pytest.fixture
def swarm(tmp_path: Path) -> SwarmCard:
    """An invite-only swarm whose bootstrap node's folder is `tmp_path`."""
    return invite_only(tmp_path)
