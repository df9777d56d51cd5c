"""Restrict a process to loopback: connections and look-ups of other addresses raise OSError."""

from __future__ import annotations

import socket
from typing import Any

LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0")


def install() -> None:
    """Restrict this process; a second call changes nothing."""
    if getattr(socket, "_loopback_only", False):
        return
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def restricted_connect(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not str(address[0]).startswith(LOOPBACK):
            raise OSError(f"a test tried to reach {address}: only loopback is allowed")
        return connect(self, address)

    def restricted_look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name and not str(name).startswith(LOOPBACK):
            raise OSError(f"a test tried to look up {name!r}: only loopback is allowed")
        return look_up(host, *args, **kwargs)

    socket.socket.connect = restricted_connect  # type: ignore[method-assign]
    socket.getaddrinfo = restricted_look_up
    socket._loopback_only = True  # type: ignore[attr-defined]
