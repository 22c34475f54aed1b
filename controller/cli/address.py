"""The address at which devices reach this machine, for tokens.

The machine's own name often resolves to 127.0.1.1, and it has many interfaces. The address that
the default route would send from is the one that other machines on the network see. Connecting a
UDP socket asks the kernel for it without sending a packet.
"""

import socket

from protos.errors import InvalidRequest

# Documentation addresses (RFC 5737, RFC 3849): routed like any other, and nobody answers there.
_ELSEWHERE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


def of_default_route() -> str:
    """The host part; loopback on a machine without a network."""
    for family, target in _ELSEWHERE:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((target, 9))
            except OSError:
                continue
            host = str(probe.getsockname()[0])
            if host not in ("0.0.0.0", "::"):
                return host
    return "127.0.0.1"


def advertised(given: str, port: int) -> str:
    """What a token says: ``given`` (its port may be left out), or the default route's address."""
    host, port = split(given, port) if given else (of_default_route(), port)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split(text: str, default_port: int) -> tuple[str, int]:
    """Host and port of ``host``, ``host:port`` or ``[v6]:port``."""
    if text.count(":") > 1 and not text.startswith("["):
        return text, default_port
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, port = text, str(default_port)
    if not (host.strip("[]") and port.isdecimal() and int(port) < 1 << 16):
        raise InvalidRequest(
            f"{text!r} is not an address.", fix="Write it as host:port, such as 10.0.0.5:7402."
        )
    return host.strip("[]"), int(port)
