"""People's units: what is meant is taken, what is ambiguous is refused."""

import contextlib

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from helix_p2p.cli.units import (
    RateParam,
    SizeParam,
    format_duration,
    format_rate,
    format_size,
    parse_rate,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("8GB", 8_000_000_000),
        ("8 gb", 8_000_000_000),
        ("8GiB", 8 * 1024**3),
        ("512MiB", 512 * 1024**2),
        ("1.5g", 1_500_000_000),
        (".5k", 500),
        ("330MB", 330_000_000),
        ("1000", 1000),
        ("7B", 7),
    ],
)
def test_sizes_as_people_write_them(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text", ["", "GB", "8 apples", "-1GB", "8iB", "1e9", "nan", "8GBB", "8,5GB"]
)
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="8GB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "bytes_per_s"),
    [
        ("20Mbit/s", 2.5e6),
        ("20 Mbps", 2.5e6),
        ("20Mb/s", 2.5e6),
        ("20MB/s", 20e6),
        ("2MiB/s", 2 * 1024**2),
        ("1.6Gbit/s", 200e6),
        ("800bit/s", 100.0),
    ],
)
def test_rates_as_people_write_them(text: str, bytes_per_s: float) -> None:
    assert parse_rate(text) == bytes_per_s


@pytest.mark.parametrize("text", ["20M", "20", "fast", "", "-1Mbit/s", "iB/s", "3iB/s"])
def test_rate_that_does_not_say_bits_or_bytes_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a rate"):
        parse_rate(text)


@given(st.text(alphabet="0123456789.kKMGTib/sBp -", max_size=8) | st.text(max_size=12))
def test_any_text_is_a_quantity_or_a_value_error(text: str) -> None:
    for parse in (parse_size, parse_rate):
        with contextlib.suppress(ValueError):
            assert parse(text) >= 0


def test_numbers_are_shown_in_the_units_people_use() -> None:
    assert [format_size(n) for n in (7, 12_000, 113e6, 8e9, 2.5e12)] == [
        "7 B",
        "12 kB",
        "113 MB",
        "8.0 GB",
        "2.5 TB",
    ]
    assert format_rate(2.5e6) == "20 Mbit/s"
    assert format_rate(125e6) == "1 Gbit/s"
    shown = [format_duration(s) for s in (0.0008, 1.23, 200, 7500, 356_400)]
    assert shown == ["0.8 ms", "1.2 s", "3 min 20 s", "2 h 05 min", "4 d 3 h"]


def test_wrong_unit_on_the_command_line_names_the_option() -> None:
    @click.command()
    @click.option("--max-memory", type=SizeParam())
    @click.option("--max-upload", type=RateParam())
    def lend(max_memory: int, max_upload: float) -> None:
        click.echo(f"{max_memory} {max_upload}")

    runner = CliRunner()
    assert (
        runner.invoke(lend, ["--max-memory", "1kB", "--max-upload", "8bit/s"]).output
        == "1000 1.0\n"
    )
    refused = runner.invoke(lend, ["--max-upload", "20M"])
    assert refused.exit_code == 2
    assert "--max-upload" in refused.output
    assert "20Mbit/s" in refused.output
