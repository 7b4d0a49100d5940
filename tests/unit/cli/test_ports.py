"""A port that cannot be had is named before anything is started."""

import socket

import pytest

from helix_p2p.cli.ports import check_port_is_free
from helix_p2p.errors import ConfigError


def test_port_in_use_is_refused_and_free_again_afterwards() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} is in use.*--port"):
            check_port_is_free("127.0.0.1", port)
    check_port_is_free("127.0.0.1", port)
    check_port_is_free("127.0.0.1", port)


def test_any_free_port_needs_no_check() -> None:
    check_port_is_free("192.0.2.1", 0)


def test_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no address 192\.0\.2\.1"):
        check_port_is_free("192.0.2.1", 40123)
