"""Every command answers --help at once: nothing heavy is imported before it is needed."""

import resource
import subprocess
import sys

import pytest

COMMANDS = [
    ["helix_p2p.cli.main"],
    ["helix_p2p.cli.main", "plan"],
    ["helix_p2p.cli.main", "chat"],
    ["helix_p2p.cli.main", "generate"],
    ["helix_peer.cli"],
    ["helix_peer.cli", "join"],
    ["helix_peer.cli", "status"],
    ["helix_peer.cli", "bench"],
    ["helix_peer.cli", "doctor"],
    ["helix_bootstrap.cli"],
    ["helix_bootstrap.cli", "run"],
    ["helix_bootstrap.cli", "invite"],
    ["helix_bootstrap.cli", "status"],
]
ANSWERS_WITHIN_S = 0.5


def cpu_s(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_answers_in_under_half_a_second(command: list[str]) -> None:
    module, *words = command
    call = f"import sys; sys.argv[0] = 'x'; from {module} import main; main()"
    taken_s = min(cpu_s([sys.executable, "-c", call, *words, "--help"]) for _ in range(3))
    assert taken_s < ANSWERS_WITHIN_S


@pytest.mark.parametrize("module", ["helix_p2p.cli.main", "helix_peer.cli", "helix_bootstrap.cli"])
def test_commands_import_neither_torch_nor_hivemind_before_they_run(module: str) -> None:
    code = (
        f"import sys, {module}; heavy = {{'torch', 'hivemind', 'transformers', 'numpy', 'scipy'}};"
        "sys.exit(', '.join(heavy & sys.modules.keys()) or None)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
