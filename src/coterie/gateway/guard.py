"""Who may reach the gateway, where it may connect to, and what it never passes on."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from coterie.errors import ConfigError
from coterie.gateway.wire import ApiError, Headers

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1", "[::1]"})
METADATA_NAMES = frozenset({"metadata.google.internal", "metadata", "instance-data"})
# What a client's request may bring to an expert: tracing and nothing else.
FORWARDED = (b"traceparent", b"tracestate", b"baggage")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to ``host``."""
    if host in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Doors:
    """The names under which the gateway answers, and the pages that may call it.

    A page on the web can point a name of its own at 127.0.0.1 (DNS rebinding) or post to it; both
    show in ``Host`` and ``Origin``.
    """

    def __init__(self, bound: str, hosts: Iterable[str] = (), origins: Iterable[str] = ()) -> None:
        self._open = not is_loopback(bound)
        given = [host.lower() for host in hosts]
        self._hosts, self._named = {*LOOPBACK_NAMES, bound, *given}, bool(given)
        self._origins = {origin.lower().rstrip("/") for origin in origins}

    def check(self, headers: Mapping[bytes, bytes], admin: bool = False) -> None:
        """Raise ApiError 403 for a host or an origin that is not ours.

        Bound to the network, any host name may lead here, except to the administration where
        ``hosts`` are given.
        """
        host = headers.get(b"host", b"").decode("latin-1").lower()
        known = _name(host) in self._hosts
        if not known and not (self._open and not (admin and self._named)):
            raise _forbidden(f"the host {host!r} is not served here; add it to [gateway] hosts")
        origin = headers.get(b"origin")
        if origin is None:
            return
        text = _origin(origin)
        if text in self._origins or _authority(text) == host:
            return
        raise _forbidden(f"pages from {text!r} may not call this; add it to [gateway] origins")

    def shared(self, headers: Mapping[bytes, bytes]) -> Headers:
        """What lets a page of a listed origin read the answer; nothing for any other request."""
        text = _origin(headers.get(b"origin", b""))
        if text not in self._origins:
            return ()
        allowed = (b"access-control-allow-origin", text.encode("latin-1"))
        return (allowed, (b"access-control-expose-headers", b"*"), (b"vary", b"Origin"))


def _origin(given: bytes) -> str:
    return given.decode("latin-1").lower().rstrip("/")


def _name(host: str) -> str:
    """A ``Host`` header without its port."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def _authority(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc or None
    except ValueError:  # no address at all, such as http://[
        return None


def _forbidden(message: str) -> ApiError:
    return ApiError(403, message, type="permission_error", code="forbidden")


def check_address(url: str, private: bool, field: str, where: str) -> None:
    """Raise ConfigError where an expert's address leads somewhere it should not.

    Metadata services and link-local addresses never pass; private and loopback ones do only where
    ``private`` says so. Names are resolved now, unless they have no address yet.
    """
    host = urlsplit(url).hostname or ""
    if host.lower() in METADATA_NAMES:
        raise ConfigError(f"{host!r} is a metadata service of a cloud", path=where, field=field)
    for address in addresses(host):
        if why := barred(address, private):
            hint = "" if "link" in why else "; private_addresses = true in [gateway] allows it"
            raise ConfigError(f"{host!r} is {why}{hint}", path=where, field=field)


def addresses(host: str) -> list[str]:
    """The addresses of a name, none where it has none."""
    try:
        return [str(info[4][0]) for info in socket.getaddrinfo(host, None)]
    except (OSError, UnicodeError):
        return []


def barred(address: str, private: bool) -> str:
    """Why no connection goes to this address, "" where one may."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    ip = _within(ip)
    if ip.is_link_local or ip == ipaddress.ip_address("fd00:ec2::254"):
        return "a link-local address"
    if ip.is_multicast or ip.is_unspecified or (ip.is_reserved and not ip.is_loopback):  # ::1
        return "no address of a server"
    if not private and not ip.is_global:
        return "a private address"
    return ""


def _within(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> Any:
    """The IPv4 address that an IPv6 one leads to (mapped, 6to4, NAT64), or else itself."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    translated = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None
    return ip.ipv4_mapped or ip.sixtofour or translated or ip


_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def forwarded(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """The headers of a client that experts may see; never credentials, cookies or addresses."""
    given = [(name, headers[name]) for name in FORWARDED if name in headers]
    return {name.decode(): value.decode() for name, value in given if value and value.isascii()}
