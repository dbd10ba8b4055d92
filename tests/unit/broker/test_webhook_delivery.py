"""Where webhooks may go, how they are signed, when they are tried again."""

import asyncio
import hashlib
import hmac
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftbroker.broker.errors import InvalidRequest
from raftbroker.broker.webhook_delivery import (
    SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
    AddressRefused,
    AddressRules,
    Sender,
    Undelivered,
    back_off,
    check_url,
    sign,
)

OWN = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "240.0.0.1",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fd12:3456::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:a00:1",
    "::7f00:1",
    "2002:7f00:1::1",
    "2002:c0a8:101::1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "2001:0:4136:e378:8000:63bf:80ff:fffe",
]
"""Addresses of a host's own network, written in every way that reaches one."""

PUBLIC = ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]


@pytest.mark.parametrize("address", OWN)
def test_addresses_of_the_own_network_are_refused(address: str) -> None:
    with pytest.raises(AddressRefused):
        AddressRules().check(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_of_the_public_internet_are_not(address: str) -> None:
    AddressRules().check(address)


def test_networks_can_be_allowed_one_by_one() -> None:
    rules = AddressRules(["10.0.0.0/8", "::1/128"])
    for address in ("10.9.9.9", "::1", "::ffff:10.0.0.1"):
        rules.check(address)
    for address in ("127.0.0.1", "192.168.1.1", "fe80::1"):
        with pytest.raises(AddressRefused):
            rules.check(address)
    with pytest.raises(ValueError):
        AddressRules(["10.0.0.1/8"])


@pytest.mark.parametrize("host", ["2130706433", "127.1", "0177.0.0.1", "127.0.0.1.", "1.2.3.4.5", "[::1]", "1"])
def test_numbers_that_only_some_take_for_addresses_are_refused(host: str) -> None:
    with pytest.raises(AddressRefused):
        AddressRules(["0.0.0.0/0", "::/0"]).check_host(host)


def test_a_name_is_left_to_be_resolved() -> None:
    assert not AddressRules().check_host("example.com")
    assert not AddressRules().check_host("0x7f.1")
    assert AddressRules().check_host("8.8.8.8")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com/x",
        "ftp://example.com/",
        "http:///x",
        "http://user:secret@example.com/",
        "http://user@example.com/",
        "http://example.com/#part",
        "http://example.com:0/",
        "http://example.com:99999/",
        "http://exämple.com/",
        "http://example.com/a b",
        "http://example.com\\@127.0.0.1/",
        "http://example.com/\r\nHost: other",
        "http://[::1/",
        "http://example.com/" + "x" * 1000,
    ],
)
def test_urls_that_are_refused_name_the_field(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_url(url)
    assert caught.value.field == "url"
    assert caught.value.message.startswith("url ")


def test_urls_that_are_taken() -> None:
    assert check_url("https://example.com/a?b=c%20d") == "example.com"
    assert check_url("http://[2606:4700::1111]:8080/") == "2606:4700::1111"


def test_the_signature_is_what_the_documentation_says() -> None:
    body = b'{"records":[]}'
    expected = hmac.new(b"a secret", b"1700000000." + body, hashlib.sha256).hexdigest()
    assert sign("a secret", 1_700_000_000, body) == "sha256=" + expected
    assert sign("a secret", 1_700_000_001, body) != sign("a secret", 1_700_000_000, body)


@given(st.integers(1, 10_000), st.floats(0.001, 10), st.floats(10, 4000), st.floats(0, 1))
def test_back_off_stays_within_its_bounds(failures: int, least: float, most: float, drawn: float) -> None:
    wait = back_off(failures, least, most, drawn)
    assert least / 2 <= wait <= most
    assert back_off(failures + 1, least, most, drawn) >= wait


class Scripted:
    """A poster that keeps what it is given."""

    def __init__(self, status: int = 200, addresses: Sequence[str] = ()) -> None:
        self.status = status
        self.addresses = addresses
        self.sent: list[tuple[str, bytes, Mapping[str, str]]] = []

    async def resolve(self, host: str) -> Sequence[str]:
        return self.addresses

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], timeout: float) -> int:
        self.sent.append((url, body, headers))
        return self.status


def test_each_attempt_is_signed_with_its_own_time() -> None:
    poster = Scripted()
    times = iter([1_700_000_000_999, 1_700_000_007_000])
    sender = Sender(poster, AddressRules(), lambda: next(times))
    for _ in range(2):
        asyncio.run(sender.send("https://example.com/", b"{}", secret="s" * 16, timeout=1.0, headers={"X-A": "b"}))
    for (_, body, headers), seconds in zip(poster.sent, (1_700_000_000, 1_700_000_007), strict=True):
        assert headers[TIMESTAMP_HEADER] == str(seconds)
        assert headers[SIGNATURE_HEADER] == sign("s" * 16, seconds, body)
        assert headers["X-A"] == "b"
        assert "s" * 16 not in str(headers)
    asyncio.run(Sender(poster, AddressRules(), lambda: 0).send("https://example.com/", b"{}", timeout=1.0))
    assert SIGNATURE_HEADER not in poster.sent[-1][2]


@pytest.mark.parametrize("status", [100, 301, 302, 307, 400, 404, 410, 429, 500, 503])
def test_only_a_success_counts_as_taken(status: int) -> None:
    with pytest.raises(Undelivered, match=str(status)):
        asyncio.run(Sender(Scripted(status), AddressRules(), lambda: 0).send("http://a.b/", b"", timeout=1.0))


def test_a_url_is_checked_with_every_address_of_its_host() -> None:
    async def check(url: str, *addresses: str) -> None:
        await Sender(Scripted(addresses=addresses), AddressRules(), lambda: 0).check(url)

    asyncio.run(check("https://example.com/", "93.184.216.34"))
    asyncio.run(check("https://not-resolved-now.example/"))
    for url, addresses in (
        ("https://example.com/", ("93.184.216.34", "10.0.0.1")),
        ("https://localhost/", ("127.0.0.1",)),
        ("http://169.254.169.254/latest", ()),
        ("http://[::1]:8082/", ()),
        ("http://127.1/", ()),
    ):
        with pytest.raises(InvalidRequest, match="refused") as caught:
            asyncio.run(check(url, *addresses))
        assert caught.value.field == "url"
