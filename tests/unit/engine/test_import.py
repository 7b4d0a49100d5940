"""What importing the engine does to the machine."""

import os
import subprocess
import sys
from pathlib import Path


def test_importing_the_engine_leaves_nothing_in_the_temporary_folder(tmp_path: Path) -> None:
    temporary, cache = tmp_path / "tmp", tmp_path / "cache"
    temporary.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HELIX", "TORCH"))}
    environment |= {"TMPDIR": str(temporary), "XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-c", "import helix_p2p.engine.torch_engine"]
    subprocess.run(command, env=environment, check=True, timeout=120)
    assert list(temporary.iterdir()) == []
