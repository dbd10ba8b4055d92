"""One delivery of a body to a URL: where it may go, how it is signed, what counts as taken, when to try again.

Nothing here knows what is delivered, or remembers anything: whoever uses it counts attempts. The one effect, an HTTP
POST, is a `Poster` that the node is composed with.

Addresses of the broker's own network are refused unless the configuration allows them: a webhook's URL comes from a
client, and the broker stands where that client may not reach. What is looked at is each address that a name resolves
to, by the poster right before it connects to that very address, so that a name that resolves to something else the
second time gains nothing. Redirects are not followed, no proxy is used.
"""

import hashlib
import hmac
import ipaddress
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol
from urllib.parse import urlsplit

from raftbroker.broker.errors import InvalidRequest

TIMESTAMP_HEADER = "X-Raftbroker-Timestamp"
"""Epoch seconds at which this attempt was signed."""
SIGNATURE_HEADER = "X-Raftbroker-Signature"
SIGNATURE_PREFIX = "sha256="
URL_CHARACTERS_MAX = 1000
MESSAGE_CHARACTERS_MAX = 300
"""More of what a failure says is cut off."""

_USER_AGENT = "raftbroker"
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_IPv4 = ipaddress.IPv4Address
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Undelivered(OSError):
    """The receiver has not taken it, or it is not known that it has; the text says why, for people."""


class AddressRefused(Undelivered):
    """The URL leads to an address that is not allowed. Nothing was sent."""


class Poster(Protocol):
    """Posts over HTTP. Made by whoever composes the node."""

    async def resolve(self, host: str) -> Sequence[str]:
        """The addresses of a host; none where it cannot be resolved now."""

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], timeout: float) -> int:
        """The answer's status, within `timeout` seconds; its body is not read and no redirect is followed. Every
        address is asked of `AddressRules` before it is connected to. Raises Undelivered."""


class AddressRules:
    """Which addresses may be posted to: those of the public internet, and of the networks that are allowed."""

    def __init__(self, allowed: Sequence[str] = ()) -> None:
        """`allowed` are networks such as 10.0.0.0/8. Raises ValueError."""
        self._allowed = tuple(ipaddress.ip_network(network) for network in allowed)

    def check(self, text: str) -> None:
        """Of an address as it will be connected to. Raises AddressRefused."""
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            raise AddressRefused(f"{text[:60]!r} is no address as it is usually written") from None
        reached = _reached(address)
        if any(address in network or reached in network for network in self._allowed):
            return
        if not reached.is_global or reached.is_multicast:
            raise AddressRefused(
                f"{text[:60]} is not an address of the public internet: webhooks.allowed_networks in the nodes'"
                " configuration can allow its network"
            )

    def check_host(self, host: str) -> bool:
        """Whether the host of a URL is an address, which is checked, and not a name. Raises AddressRefused."""
        if ":" in host or host.replace(".", "").isdigit():
            self.check(host)
            return True
        return False


def _reached(address: _Address) -> _Address:
    """The address that is reached in the end: IPv6 has several ways to write an IPv4 address."""
    if isinstance(address, _IPv4):
        return address
    inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo is not None else None)
    if inner is None and (address in _NAT64 or int(address) >> 32 == 0 < int(address) >> 16):
        inner = _IPv4(int(address) & 0xFFFFFFFF)
    return address if inner is None else inner


def check_url(url: str, field: str = "url") -> str:
    """The host of a URL that may be posted to, as far as its text can tell. Raises InvalidRequest."""
    problem = ""
    host: str | None = None
    try:
        parts = urlsplit(url)
        host = parts.hostname
        if len(url) > URL_CHARACTERS_MAX:
            problem = f"it has more than {URL_CHARACTERS_MAX} characters"
        elif not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
            problem = "it has characters that a URL has not; write them as %XX"
        elif parts.scheme not in ("http", "https") or not host:
            problem = "it must begin with http:// or https:// and name a host"
        elif parts.username is not None or parts.password is not None:
            problem = "it must not hold a user or password; check the signature instead"
        elif parts.fragment or parts.port == 0:
            problem = "it must have no fragment, and a port from 1 to 65535 if any"
    except ValueError as error:
        problem = str(error)
    if problem or host is None:
        raise InvalidRequest(f"{field} {url[:100]!r} cannot be posted to: {problem}", field=field)
    return host


def sign(secret: str, timestamp: int, body: bytes) -> str:
    """The value of the signature header: HMAC-SHA256 over the timestamp's digits, a dot, and the body."""
    mac = hmac.new(secret.encode(), b"%d." % timestamp + body, hashlib.sha256)
    return SIGNATURE_PREFIX + mac.hexdigest()


def back_off(failures: int, least: float, most: float, drawn: float) -> float:
    """Seconds until the next attempt after so many failures (1 or more) in a row: doubling from `least` to `most`,
    less a random part of up to a half. `drawn` is from 0 to 1."""
    return float(min(most, least * 2.0 ** min(failures - 1, 60)) * (1 - drawn / 2))


class Sender:
    """Signs and posts."""

    def __init__(self, poster: Poster, rules: AddressRules, wall: Callable[[], int]) -> None:
        """`wall` tells epoch milliseconds."""
        self._poster = poster
        self._rules = rules
        self._wall = wall

    async def check(self, url: str, field: str = "url") -> None:
        """Whether the URL could be posted to now: for refusing it early. Raises InvalidRequest. A name that does not
        resolve at the moment is not refused."""
        host = check_url(url, field)
        try:
            if not self._rules.check_host(host):
                for address in await self._poster.resolve(host):
                    self._rules.check(address)
        except AddressRefused as error:
            raise InvalidRequest(f"{field} leads to an address that is refused: {error}", field=field) from None

    async def send(
        self, url: str, body: bytes, *, secret: str = "", timeout: float, headers: Mapping[str, str] | None = None
    ) -> None:
        """Posts JSON, signed where there is a secret. Returns once the receiver has answered with a status from 200 to
        299 within `timeout` seconds. Raises Undelivered: tried again, it may arrive twice."""
        timestamp = self._wall() // 1000
        sent = {"Content-Type": "application/json", "User-Agent": _USER_AGENT, **(headers or {})}
        if secret:
            sent[TIMESTAMP_HEADER] = str(timestamp)
            sent[SIGNATURE_HEADER] = sign(secret, timestamp, body)
        status = await self._poster.post(url, body, sent, timeout)
        if 300 <= status < 400:
            raise Undelivered(f"the receiver answered {status}: redirects are not followed, put the final URL")
        if not 200 <= status < 300:
            raise Undelivered(f"the receiver answered {status}")
