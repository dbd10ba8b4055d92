"""Posting to real receivers: what arrives, what counts as a failure, and that no address slips past the rules."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from raftbroker.broker.webhook_delivery import AddressRefused, AddressRules, Undelivered
from raftbroker.http.webhook_poster import WebhookPoster


class Names(AbstractResolver):
    """Says in turn what a name resolves to."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        if not addresses:
            raise OSError("no such name")
        return [
            ResolveResult(hostname=host, host=one, port=port, family=socket.AF_INET, proto=0, flags=0)
            for one in addresses
        ]

    async def close(self) -> None:
        pass


class Receiver:
    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.answer: Callable[[], web.StreamResponse] = web.Response
        self.wait = 0.0
        self.port = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path, dict(request.headers), await request.read()))
        await asyncio.sleep(self.wait)
        return self.answer()


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    found = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", found.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.port = runner.addresses[0][1]
    try:
        yield found
    finally:
        await runner.cleanup()


@asynccontextmanager
async def poster(*allowed: str, names: Names | None = None) -> AsyncIterator[WebhookPoster]:
    made = WebhookPoster(AddressRules(allowed), names)
    try:
        yield made
    finally:
        await made.close()


LOOPBACK = "127.0.0.0/8"


def test_what_is_sent_arrives_as_it_is() -> None:
    async def run() -> None:
        async with receiver() as there, poster(LOOPBACK) as here:
            url = f"http://127.0.0.1:{there.port}/hook?a=b"
            assert await here.post(url, b'{"a": 1}', {"X-Own": "yes"}, 5.0) == 200
            path, headers, body = there.requests[0]
            assert (path, headers["X-Own"], body) == ("/hook", "yes", b'{"a": 1}')
            there.answer = lambda: web.Response(status=503)
            assert await here.post(url, b"", {}, 5.0) == 503

    asyncio.run(run())


def test_redirects_are_not_followed_and_cookies_not_kept() -> None:
    async def run() -> None:
        async with receiver() as there, poster(LOOPBACK) as here:
            there.answer = lambda: web.Response(status=307, headers={"Location": "/other", "Set-Cookie": "a=b"})
            for _ in range(2):
                assert await here.post(f"http://127.0.0.1:{there.port}/hook", b"", {}, 5.0) == 307
            assert [path for path, _, _ in there.requests] == ["/hook", "/hook"]
            assert all("Cookie" not in headers for _, headers, _ in there.requests)

    asyncio.run(run())


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "[::1]", "2130706433", "127.1", "0177.0.0.1", "0x7f000001", "localhost", "[::ffff:127.0.0.1]"],
)
def test_the_own_network_is_not_connected_to_however_it_is_written(host: str) -> None:
    async def run() -> None:
        async with receiver() as there, poster() as here:
            with pytest.raises(AddressRefused):
                await here.post(f"http://{host}:{there.port}/", b"", {}, 5.0)
            assert there.requests == []

    asyncio.run(run())


def test_a_name_that_resolves_to_something_else_the_second_time_gains_nothing() -> None:
    async def run() -> None:
        names = Names(["93.184.216.34"], ["127.0.0.1"])
        async with receiver() as there, poster(names=names) as here:
            assert await here.resolve("rebinding.example") == ["93.184.216.34"]  # what the check at PUT sees
            with pytest.raises(AddressRefused):
                await here.post(f"http://rebinding.example:{there.port}/", b"", {}, 5.0)
            assert there.requests == []
            assert names.asked == 2

    asyncio.run(run())


def test_one_bad_address_among_good_ones_is_enough() -> None:
    async def run() -> None:
        async with poster(names=Names(["93.184.216.34", "10.0.0.1"])) as here:
            with pytest.raises(AddressRefused):
                await here.post("http://mixed.example/", b"", {}, 5.0)

    asyncio.run(run())


def test_what_is_connected_to_is_what_was_checked() -> None:
    async def run() -> None:
        names = Names(["127.0.0.1"], ["192.0.2.1"])
        async with receiver() as there, poster(LOOPBACK, names=names) as here:
            assert await here.post(f"http://good.example:{there.port}/", b"", {}, 5.0) == 200
            assert names.asked == 1

    asyncio.run(run())


def test_failures_say_what_they_are() -> None:
    async def run() -> None:
        async with receiver() as there, poster(LOOPBACK, names=Names([])) as here:
            with pytest.raises(Undelivered, match="cannot be resolved"):
                await here.post("http://nowhere.example/", b"", {}, 5.0)
            assert await here.resolve("nowhere.example") == ()
            there.wait = 5.0
            with pytest.raises(Undelivered, match=r"within 0\.2 s"):
                await here.post(f"http://127.0.0.1:{there.port}/", b"", {}, 0.2)
            with pytest.raises(Undelivered, match="cannot be reached"):
                await here.post("http://127.0.0.1:1/", b"", {}, 5.0)

    asyncio.run(run())
