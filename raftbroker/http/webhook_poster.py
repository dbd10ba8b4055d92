"""Posts to webhooks, over HTTP as a client: `broker.webhook_delivery.Poster` with aiohttp.

Every address is checked by the rules right before it is connected to, whether it was written in the URL or resolved: a
name is resolved once, and only addresses that passed are handed to the connection. No redirect is followed, no proxy
of the environment used, no cookie kept, and the receiver's body is not read.
"""

import asyncio
from collections.abc import Mapping, Sequence
from socket import AF_UNSPEC, AddressFamily

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from raftbroker.broker.webhook_delivery import MESSAGE_CHARACTERS_MAX, AddressRefused, AddressRules, Undelivered

CONNECTIONS_MAX = 256
HOST_CONNECTIONS_MAX = 32
IDLE_SECONDS = 15.0
RESOLVE_SECONDS = 5.0


class CheckedResolver(AbstractResolver):
    """Resolves names to addresses that the rules let through, or not at all."""

    def __init__(self, rules: AddressRules, inner: AbstractResolver) -> None:
        self._rules = rules
        self._inner = inner

    async def resolve(self, host: str, port: int = 0, family: AddressFamily = AF_UNSPEC) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        for result in found:
            self._rules.check(result["host"])
        return found

    async def close(self) -> None:
        await self._inner.close()


class WebhookPoster:
    """Make it in a running event loop; `close` it there. `resolver` stands in for the system's in tests."""

    def __init__(self, rules: AddressRules, resolver: AbstractResolver | None = None) -> None:
        self._rules = rules
        self._inner = resolver or aiohttp.ThreadedResolver()
        connector = aiohttp.TCPConnector(
            resolver=CheckedResolver(rules, self._inner),
            use_dns_cache=False,
            limit=CONNECTIONS_MAX,
            limit_per_host=HOST_CONNECTIONS_MAX,
            keepalive_timeout=IDLE_SECONDS,
        )
        self._session = aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, auto_decompress=False
        )

    async def close(self) -> None:
        await self._session.close()

    async def resolve(self, host: str) -> Sequence[str]:
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                return [result["host"] for result in await self._inner.resolve(host, 0, AF_UNSPEC)]
        except (OSError, TimeoutError):
            return ()

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], timeout: float) -> int:
        target = URL(url)
        self._rules.check_host(target.host or "")
        try:
            async with self._session.post(
                target,
                data=body,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout),
            ) as answer:
                return answer.status
        except aiohttp.ClientConnectorDNSError as error:
            if isinstance(error.os_error, AddressRefused):
                raise error.os_error from None
            raise Undelivered(_told(f"the host {target.host} cannot be resolved", error)) from error
        except TimeoutError as error:
            raise Undelivered(f"the receiver has not answered within {timeout:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Undelivered(_told("the receiver cannot be reached", error)) from error


def _told(what: str, error: Exception) -> str:
    return f"{what}: {str(error) or type(error).__name__}"[:MESSAGE_CHARACTERS_MAX]
