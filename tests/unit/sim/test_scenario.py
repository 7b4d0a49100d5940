"""Scenario files: strict, and helpful about what is wrong."""

from pathlib import Path

import pytest

from helix_p2p.errors import ConfigError
from helix_p2p.sim.helix.routes import Scheduler
from helix_p2p.sim.scenario import Mode, parse_scenario, read_scenario, setup_of

EXAMPLES = Path(__file__).parents[3] / "examples" / "scenarios"

GOOD = """\
name = "small"
placements = ["published:ilp"]
warm_up = "2 s"
duration = "8 s"

[cluster]
reference = "geo24"

[[settings]]
load = "offline"
"""


def parse(text: str):
    return parse_scenario(text, "small.toml", Path())


def test_a_good_scenario_is_read():
    read = parse(GOOD)
    assert (read.mode, read.cluster.model) == (Mode.HELIX, "70b")
    assert (read.warm_up_s, read.duration_s) == (2.0, 8.0)
    assert read.schedulers == (Scheduler.MAX_FLOW,)
    assert len(setup_of(read.cluster, "published:ilp").stages) == 24


@pytest.mark.parametrize("name", ["paper.toml", "paper-short.toml", "home-churn.toml"])
def test_examples_are_good_scenarios(name):
    read = read_scenario(EXAMPLES / name)
    assert read.settings
    assert setup_of(read.cluster, "helix-p2p").layers == 80


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("duration", "duraton", 4, "did you mean 'duration'"),
        ('"8 s"', "8", 4, "no unit"),
        ('"8 s"', '"8 parsecs"', 4, "unit 'parsecs'"),
        ('"geo24"', '"geo25"', 7, "did you mean 'geo24'"),
        ('"published:ilp"', '"published:ilb"', 2, "did you mean 'published:ilp'"),
        ('"offline"', '"ofline"', 10, "did you mean 'offline'"),
        ('"offline"', '"online"', 9, "arrival_tokens_per_s: is missing"),
        ('"offline"', '"offline"\nadmission = "paper"', 9, "is needed where nothing is admitted"),
        ('"small"', '"small"\nmode = "nativ"', 2, "did you mean 'native'"),
        ('"small"', '"small"\nloss = 1.5', 2, "share"),
        ('reference = "geo24"', 'file = "none.toml"', 7, "there is no none.toml"),
    ],
)
def test_a_mistake_is_named_with_its_line(old, new, line, said):
    with pytest.raises(ConfigError) as caught:
        parse(GOOD.replace(old, new))
    assert f"small.toml:{line}: " in str(caught.value)
    assert said in str(caught.value)


def test_a_fault_names_peers_that_exist():
    text = 'mode = "native"\n' + GOOD
    text += '\n[[faults]]\nkind = "crash"\nat = "3 s"\npeers = ["04-l5"]\n'
    with pytest.raises(ConfigError, match=r"small.toml:16: .*04-l5.*did you mean '0.-l4'"):
        parse(text)
    read = parse(text.replace("04-l5", "04-l4"))
    assert read.faults[0].peers == ("04-l4",)


def test_faults_happen_in_native_mode_only():
    text = GOOD + '\n[[faults]]\nkind = "crash"\nat = "3 s"\npeers = ["04-l4"]\n'
    with pytest.raises(ConfigError, match="native mode only"):
        parse(text)


def test_an_unreadable_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_scenario(tmp_path / "none.toml")
    bad = tmp_path / "bad.toml"
    bad.write_bytes(b"name = \xff")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_scenario(bad)
