"""`./scripts/bench sim` says what it does not know before it prints anything."""

import pytest
from click.testing import CliRunner

from bench.sim import main


@pytest.mark.parametrize("more", [(), ("--targets",)])
def test_rows_that_do_not_exist_are_one_line_and_no_table(more: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, ["--rows", "nothing", *more])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "holds 'nothing'" in result.stderr
