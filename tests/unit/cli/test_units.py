"""People's units: shown as people write them; what is ambiguous on the command line is refused."""

import click
from click.testing import CliRunner

from helix_p2p.cli.units import (
    RateParam,
    SizeParam,
    format_duration,
    format_rate,
    format_size,
)


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
    assert "Mb/s" in refused.output
