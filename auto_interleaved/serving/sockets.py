"""Sockets: where a server listens, and whether others reach it there."""

from __future__ import annotations

import ipaddress
import socket


def bound(host: str, port: int) -> socket.socket:
    """Return a socket that is bound.

    Raises:
        OSError: if that cannot be.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    made = socket.socket(family)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
