import re
from pathlib import Path

import pytest

from helix_p2p.cluster.file import parse_cluster, read_cluster
from helix_p2p.cluster.snapshot import Link
from helix_p2p.errors import ConfigError
from helix_p2p.types import PeerId

EXAMPLES = Path(__file__).parents[3] / "examples"

GOOD = """\
model = "llama-3.1-8b-4bit"

[[regions]]
name = "home"
rtt = "2 ms"
bandwidth = "1 Gb/s"

[[peers]]
name = "anna"
device = "rtx-4090"
uplink = "40 Mb/s"
region = "home"

[[peers]]
name = "bert"
memory = "8 GB"
tokens_per_s = [900.0, 450, 300]
downlink = "12.5 MB/s"
region = "home"

[[peers]]
name = "carl"
count = 2
device = "t4"
memory = "12 GiB"
"""


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.name)
def test_every_shipped_example_is_read(path: Path) -> None:
    assert len(read_cluster(path).peers) > 1


def test_units_become_si() -> None:
    snapshot = parse_cluster(GOOD)
    by_name = {profile.peer: profile for profile in snapshot.peers}
    assert sorted(by_name) == ["anna", "bert", "carl-1", "carl-2"]
    assert by_name[PeerId("anna")].uplink_bytes_per_s == 5e6
    assert by_name[PeerId("bert")].downlink_bytes_per_s == 12.5e6
    assert by_name[PeerId("carl-1")].memory_bytes == 12 * 2**30
    assert by_name[PeerId("bert")].tokens_per_s == (900.0, 450.0, 300.0)
    assert snapshot.link(PeerId("anna"), PeerId("bert")) == Link(0.001, 1.25e8)
    assert snapshot.link(PeerId("anna"), PeerId("carl-1")) == Link(0.05)


def test_link_overrides_region_in_one_direction_only_when_asked() -> None:
    text = GOOD + '[[links]]\nfrom = "anna"\nto = "bert"\nrtt = "80 ms"\none_way = true\n'
    snapshot = parse_cluster(text)
    assert snapshot.link(PeerId("anna"), PeerId("bert")) == Link(0.04)
    assert snapshot.link(PeerId("bert"), PeerId("anna")) == Link(0.001, 1.25e8)


def test_no_default_link_means_no_way() -> None:
    snapshot = parse_cluster("default_link = false\n" + GOOD)
    assert snapshot.link(PeerId("anna"), PeerId("carl-1")) is None


def test_longer_held_ranges_are_slower_and_device_speed_is_kept() -> None:
    anna = parse_cluster(GOOD).peers[0]
    assert anna.speed is not None
    assert list(anna.tokens_per_s) == sorted(anna.tokens_per_s, reverse=True)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('uplink = "40 Mb/s"', 'uplnk = "40 Mb/s"', r"f.toml:11: peers\[0\].uplnk: .*'uplink'"),
        ('uplink = "40 Mb/s"', 'uplink = "40"', r"f.toml:11: peers\[0\].uplink: .*no unit"),
        ('uplink = "40 Mb/s"', "uplink = 40", r"peers\[0\].uplink: .*no unit"),
        ('uplink = "40 Mb/s"', 'uplink = "40 GB"', r"peers\[0\].uplink: unit 'GB' is not one of"),
        ('uplink = "40 Mb/s"', 'uplink = "-1 Mb/s"', r"peers\[0\].uplink: .*not a number"),
        ('uplink = "40 Mb/s"', 'uplink = "0 Mb/s"', r"peers\[0\].uplink: .*above zero"),
        ('"rtx-4090"', '"rtx-4099"', r"f.toml:10: peers\[0\].device: .*'rtx-4090'"),
        ('region = "home"', 'region = "hone"', r"peers\[0\].region: 'hone' .*'home'"),
        ("llama-3.1-8b-4bit", "llama-3.1-8c", r"f.toml:1: model: .*'llama-3.1-8b'"),
        ("8b-4bit", "8b-5bit", "model: 5 bits are not one of 4, 8, 16"),
        ('name = "bert"', 'name = "anna"', r"f.toml:15: peers\[1\].name: 'anna' is already taken"),
        ('name = "bert"', 'name = "home"', r"peers\[1\].name: 'home' is already taken"),
        ('name = "bert"', "", r"f.toml:14: peers\[1\].name: is missing"),
        ("900.0", "-900.0", r"peers\[1\].tokens_per_s: -900.0 is not above zero"),
        ("900.0", "nan", r"peers\[1\].tokens_per_s: nan is not above zero"),
        (
            'memory = "8 GB"',
            'memory = "100 MB"',
            r"peers\[1\].tokens_per_s: .*more than the 0.1 GB",
        ),
        ('memory = "8 GB"', 'device = "t4"', r"peers\[1\]: needs exactly one of"),
        ("count = 2", "count = 0", r"peers\[2\].count: 0 is not between"),
        ("count = 2", "count = true", r"peers\[2\].count: True is not a whole number"),
        ("[[regions]]", "[regions]", "f.toml:3: regions: .*is not a list"),
        ('rtt = "2 ms"', "", r"regions\[0\].rtt: is missing"),
        ("model =", "modell =", "model: is missing"),
        ("[[peers]]", "[[peers]", "not valid TOML: .*line 8"),
    ],
)
def test_whatever_is_wrong_is_named(old: str, new: str, said: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError) as caught:
        parse_cluster(GOOD.replace(old, new, 1), "f.toml")
    message = str(caught.value)
    assert "\n" not in message
    assert re.search(said, message), message


def test_model_can_be_spelled_out() -> None:
    text = GOOD.replace('model = "llama-3.1-8b-4bit"', "") + (
        '[model]\nname = "mine"\nlayers = 32\nd_model = 4096\nheads = 32\nkv_heads = 8\n'
        "ffn = 14336\nvocab_size = 128256\ncontext_tokens = 131072\nbits = 4\n"
    )
    spelled, preset = parse_cluster(text).model, parse_cluster(GOOD).model
    assert spelled.layer_bytes == preset.layer_bytes
    assert spelled.manifest_hash != preset.manifest_hash
    with pytest.raises(ConfigError, match=r"model.layer: is not a key here .*layers"):
        parse_cluster(text.replace("bits = 4", "bits = 4\nlayer = 2"))


def test_measured_speed_is_read_with_units() -> None:
    text = GOOD.replace("tokens_per_s = [900.0, 450, 300]", "").replace(
        'region = "home"\n\n[[peers]]\nname = "carl"',
        'region = "home"\n[peers.speed]\nprefill = [[1, "1 ms"]]\ndecode = [[1, "1 ms"], '
        '[8, "2 ms"]]\n\n[[peers]]\nname = "carl"',
    )
    bert = parse_cluster(text, "f.toml").peers[1]
    assert bert.speed is not None
    assert bert.speed.decode == ((1, 0.001), (8, 0.002))
    with pytest.raises(ConfigError, match=r"f.toml:22: peers\[1\].speed.decode: .*no unit"):
        parse_cluster(text.replace('[8, "2 ms"]', '[8, "2"]'), "f.toml")
    with pytest.raises(ConfigError, match=r"peers\[1\].speed: .*ascend"):
        parse_cluster(text.replace('[8, "2 ms"]', '[1, "2 ms"]'), "f.toml")


def test_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read"):
        read_cluster(tmp_path / "none.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_cluster(binary)


def test_region_of_more_pairs_than_memory_holds_is_refused_at_once() -> None:
    text = """model = "llama-3.3-70b-4bit"
[[regions]]
name = "city"
rtt = "8 ms"
[[peers]]
name = "home"
count = 10000
device = "t4"
region = "city"
"""
    with pytest.raises(ConfigError, match=r"'city' has too many peers: more than 2000000 pairs"):
        parse_cluster(text)


@pytest.mark.parametrize("text", ["a = " + "[" * 5000, "a = " + "9" * 5000])
def test_toml_that_breaks_the_parser_is_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError, match="not valid TOML"):
        parse_cluster(text)
