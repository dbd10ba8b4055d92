"""HTTP as a test needs it: every call ends as an answer, as certainly not sent, or as unknown.

What an answer means for a write is the broker's promise (docs/http.md): 4xx, 429, 503 and 507 were certainly not
done, 50003 and any other 5xx perhaps. A client talks with one node at a time and moves on to the next when that one
takes no connections.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace

import aiohttp
import msgspec

from jepsen.recorder import Outcome

REQUEST_SECONDS = 6.0
"""Longer than the nodes' own request timeout, so that the usual end of a slow request is the broker's word."""
CONNECT_SECONDS = 2.0
UNKNOWN_CODE = 50003


class NotSent(Exception):
    """No connection was made: it certainly did not happen."""


class Unclear(Exception):
    """The request may have arrived, and no whole answer came."""


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    headers: Mapping[str, str]

    @property
    def ok(self) -> bool:
        return self.status < 300

    def decode(self) -> object:
        """The JSON in it. Raises Unclear where there is none, as when it was cut off."""
        try:
            return msgspec.json.decode(self.body)
        except msgspec.DecodeError as error:
            raise Unclear(f"status {self.status}, no JSON: {self.body[:100]!r}") from error

    @property
    def problem(self) -> str:
        return f"{self.status} {self.body[:200].decode(errors='replace')}"

    def as_outcome(self) -> Outcome:
        """What an answer that is no success says of a write."""
        if certainly_not_done(self.status, self._code):
            return Outcome.failed(self.problem)
        return Outcome.unknown(self.problem)

    @property
    def _code(self) -> int:
        with contextlib.suppress(msgspec.DecodeError):
            match msgspec.json.decode(self.body):
                case {"error_code": int(code)}:
                    return code
        return self.status


def certainly_not_done(status: int, code: int) -> bool:
    """By the broker's promise: docs/http.md, "Errors"."""
    return status < 500 or code // 100 in (503, 507) or code in (503, 507, 50101)


@dataclass
class _Attempt:
    """One call, as aiohttp tells of it: whether anything of it went out."""

    sent: bool = False


async def _went_out(_session: aiohttp.ClientSession, context: SimpleNamespace, _params: object) -> None:
    context.trace_request_ctx.sent = True


async def _goes_out(_session: aiohttp.ClientSession, context: SimpleNamespace, _params: object) -> None:
    if context.trace_request_ctx.sent:
        raise Unclear("it had been sent when its connection broke")


def _once() -> aiohttp.TraceConfig:
    """aiohttp sends a PUT or DELETE once more where a connection that it had kept breaks. Here it is not: the second
    attempt could come after what others have done since the first, or its refusal pass for that of the first."""
    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(_went_out)
    trace.on_connection_create_start.append(_goes_out)
    trace.on_connection_reuseconn.append(_goes_out)
    return trace


class Http:
    """One client's connections. `node` counts from 0 in `urls` and is where the next request goes."""

    def __init__(self, urls: list[str], node: int, seconds: float = REQUEST_SECONDS) -> None:
        self.urls = urls
        self.node = node % len(urls)
        self._timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS)
        self._session: aiohttp.ClientSession | None = None

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        node: int | None = None,
        seconds: float | None = None,
    ) -> Answer:
        """Raises NotSent and Unclear."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout, trace_configs=[_once()])
        url = self.urls[self.node if node is None else node] + path
        data = None if body is None else msgspec.json.encode(body)
        given = {"Content-Type": "application/json", **(headers or {})} if data is not None else dict(headers or {})
        timeout = self._timeout if seconds is None else aiohttp.ClientTimeout(seconds, sock_connect=CONNECT_SECONDS)
        try:
            async with self._session.request(
                method, url, data=data, headers=given, timeout=timeout, trace_request_ctx=_Attempt()
            ) as answer:
                return Answer(answer.status, await answer.read(), answer.headers)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            self.move()
            raise NotSent(f"{url}: {error}") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unclear(f"{url}: {type(error).__name__} {error}") from error

    async def write(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer | Outcome:
        """A call that changes something: the answer where it was done, else how it ended."""
        try:
            answer = await self.call(method, path, body, headers)
        except NotSent as error:
            return Outcome.failed(str(error))
        except Unclear as error:
            self.move()
            return Outcome.unknown(str(error))
        return answer if answer.ok else answer.as_outcome()

    async def read(self, path: str, headers: Mapping[str, str] | None = None) -> Answer | Outcome:
        """A call that changes nothing: without a good answer it simply did not happen."""
        try:
            answer = await self.call("GET", path, headers=headers)
        except (NotSent, Unclear) as error:
            self.move()
            return Outcome.failed(str(error))
        return answer if answer.ok else Outcome.failed(answer.problem)

    def move(self) -> None:
        """To the next node, from the next request on."""
        self.node = (self.node + 1) % len(self.urls)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


async def until_answer(
    http: Http, method: str, path: str, body: object, statuses: tuple[int, ...], seconds: float
) -> Answer:
    """Repeats a request that may be repeated until it is answered as wished. Raises TimeoutError."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    last = "no answer"
    while loop.time() < deadline:
        try:
            answer = await http.call(method, path, body)
        except (NotSent, Unclear) as error:
            last = str(error)
        else:
            if answer.status in statuses:
                return answer
            last = answer.problem
        http.move()
        await asyncio.sleep(0.1)
    raise TimeoutError(f"{method} {path} was not answered within {seconds:.0f} s: {last}")
