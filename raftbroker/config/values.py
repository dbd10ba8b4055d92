"""The small types that configuration is made of: errors, secrets, addresses, and what is known of a key.

Assumes nothing; everything here is pure.
"""

import ipaddress
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

ENVIRONMENT_PREFIX = "RAFTBROKER_"
SECRET_LENGTH_MIN = 16


class ConfigError(Exception):
    """The configuration cannot be used; `problems` holds one message for each thing that is wrong."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


class Secret:
    """Text that must not be shown: its repr and str are asterisks, `reveal` gives the bytes."""

    __slots__ = ("_text",)

    def __init__(self, text: str = "") -> None:
        self._text = text

    def reveal(self) -> bytes:
        return self._text.encode()

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "Secret('***')" if self._text else "Secret('')"

    def __reduce__(self) -> typing.NoReturn:
        raise TypeError("a Secret is not pickled")


class Key(NamedTuple):
    """What is known of a key beside its type and default."""

    comment: str
    minimum: int | None = None
    maximum: int | None = None
    choices: tuple[str, ...] = ()
    check: Callable[[str], str | None] | None = None
    """Looks at one string (at each, in a list); returns what is wrong with it, or None."""
    kafka: str = ""
    """What Kafka calls it, where it has such a broker config: Kafka's tools are shown it by that name."""


def split_address(address: str) -> tuple[str, int]:
    """The host and the port of "host:port" or "[ipv6]:port". Raises ValueError saying what is wrong."""
    host, colon, port = address.rpartition(":")
    if not colon or not host:
        raise ValueError("must be host:port, for instance 127.0.0.1:8082 or [::1]:8082")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("an IPv6 host needs brackets, for instance [::1]:8082")
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise ValueError(f"the port {port!r} must be a number between 1 and 65535")
    return host, int(port)


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach "host:port"."""
    host, _ = split_address(address)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_wildcard(address: str) -> bool:
    host, _ = split_address(address)
    return host in ("0.0.0.0", "::")  # noqa: S104 - recognised, not bound


def check_address(text: str) -> str | None:
    try:
        split_address(text)
    except ValueError as error:
        return str(error)
    return None


def check_optional_address(text: str) -> str | None:
    return check_address(text) if text else None


def check_network(text: str) -> str | None:
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        return f"must be a network such as 10.1.0.0/16 or fd00::/8: {error}"
    return None


def check_origin(text: str) -> str | None:
    if text in ("loopback", "*"):
        return None
    scheme, separator, place = text.partition("://")
    if not separator or scheme not in ("http", "https") or not place or "/" in place or text != text.lower():
        return 'must be scheme://host[:port] in lower case, for instance https://app.example, or loopback, or "*"'
    return None


def check_initial(text: str) -> str | None:
    number, at, address = text.partition("@")
    if not at or not (number.isascii() and number.isdigit() and 1 <= int(number) <= 65535):
        return "must be ID@host:port with the node's id first, for instance 1@10.0.0.1:7082"
    return check_address(address)


Value = int | bool | str | Path | Secret | tuple[str, ...]
"""What a key may hold."""
