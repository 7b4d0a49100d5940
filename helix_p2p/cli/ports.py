"""Whether a port can be had, found out before a daemon starts that would say so less clearly."""

import errno
import ipaddress
import socket

from helix_p2p.errors import ConfigError


def check_port_is_free(host: str, port: int) -> None:
    """Try to listen, and let go again; port 0 is always free.

    Raises:
        ConfigError: The port is taken, or this machine does not have that address.
    """
    if port == 0:
        return
    family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            raise _why_not(host, port, error) from error


def _why_not(host: str, port: int, error: OSError) -> ConfigError:
    match error.errno:
        case errno.EADDRINUSE:
            hint = "choose another --port, or 0 for any free one"
            return ConfigError(f"port {port} is in use by another program", hint=hint)
        case errno.EADDRNOTAVAIL:
            return ConfigError(f"this machine has no address {host}", hint="choose another --host")
        case errno.EACCES:
            hint = "choose a --port above 1023"
            return ConfigError(f"this user may not listen on port {port}", hint=hint)
        case _:
            return ConfigError(f"cannot listen on {host} port {port}: {error.strerror}")
