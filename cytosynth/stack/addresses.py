"""Where the edge may listen, and whether somebody else listens there."""

from __future__ import annotations

import errno
import ipaddress
import socket

from cytosynth.stack import processes as stack_processes
from cytosynth.stack.state import PortTaken, StackError


def refuse_open_plaintext(host: str, tls: bool) -> None:
    """Raises StackError for an address that others reach, without TLS."""
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError as error:
        raise StackError(
            f"'{host}' is no IP address to listen on; use 127.0.0.1, or 0.0.0.0 with --tls."
        ) from error
    if not loopback and not tls:
        raise StackError(
            f"Listening on {host} without TLS would show cells and adapters to the network. "
            "Add --tls, or listen on 127.0.0.1."
        )


def free_port(host: str) -> int:
    """A TCP port that is free now.

    Raises:
        StackError: the address is another machine's.
    """
    try:
        with socket.create_server((host, 0), family=_family(host)) as listener:
            return int(listener.getsockname()[1])
    except OSError as error:
        raise StackError(f"{host} is not an address of this machine.") from error


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def check_port(host: str, port: int) -> None:
    """Raises PortTaken or StackError unless the port is free."""
    if not 0 < port < 65536:
        raise StackError(f"Port {port} does not exist; choose one from 1024 to 65535.")
    try:
        socket.create_server((host, port), family=_family(host)).close()
    except PermissionError as error:
        raise StackError(f"You may not listen on port {port}; choose one above 1023.") from error
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise StackError(f"{host} is not an address of this machine.") from error
        owner = stack_processes.listener_of(port)
        raise PortTaken(host, port, free_port(host), owner) from error
