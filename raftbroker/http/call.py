"""One request in hand: what a handler may ask of it, with every bound and every refusal in one place."""

import asyncio
import re
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
from aiohttp import web

from raftbroker.broker.broker import Broker
from raftbroker.http.limits import Limits
from raftbroker.http.media import JSON, check_json_body, json_answer, v2_answer
from raftbroker.http.metrics import HttpMetrics
from raftbroker.http.options import HttpOptions
from raftbroker.http.problems import BAD_REQUEST, NO_PARTITION, TOO_LARGE, Problem, malformed

T = TypeVar("T")

_HOST = re.compile(r"[A-Za-z0-9.\-_]{1,255}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")
_VISIBLE = re.compile(r"[\x21-\x7e]{1,255}")
_INTEGER = re.compile(r"-?[0-9]{1,19}")


@dataclass(slots=True)
class Front:
    """What every request of one application shares."""

    broker: Broker
    options: HttpOptions
    limits: Limits
    metrics: HttpMetrics
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    openapi: bytes = b""


class Call:
    """One request. The bytes it holds of the shared bound are given back by `close`."""

    __slots__ = ("_held", "broker", "front", "options", "request", "request_id", "started")

    def __init__(self, front: Front, request: web.Request, request_id: str) -> None:
        self.front = front
        self.broker = front.broker
        self.options = front.options
        self.request = request
        self.request_id = request_id
        self.started: web.StreamResponse | None = None
        """The answer that has begun to leave: from then on there can be no other."""
        self._held = 0

    def close(self) -> None:
        if self._held:
            self.front.limits.body_bytes.give(self._held)
            self._held = 0

    # --- the body -------------------------------------------------------------------------------------------

    def hold(self, amount: int) -> None:
        self.front.limits.body_bytes.take(amount)
        self._held += amount

    def let_go(self, amount: int) -> None:
        self.front.limits.body_bytes.give(amount)
        self._held -= amount

    async def read_body(self) -> bytes:
        """The whole body: bounded in bytes, in time, and with all other bodies together. Raises Problem."""
        most = self.options.body_bytes_max
        promised = self.request.content_length
        if promised is not None:
            if promised > most:
                raise _body_too_large(most)
            self.hold(promised)
        try:
            async with asyncio.timeout(self.options.body_timeout):
                return await self._read_all(most, promised or 0)
        except TimeoutError:
            raise Problem(
                408, f"The body did not arrive within {self.options.body_timeout:g} s; send it faster or in parts."
            ) from None

    async def _read_all(self, most: int, held: int) -> bytes:
        pieces: list[bytes] = []
        total = 0
        async for piece in self.request.content.iter_any():
            total += len(piece)
            if total > most:
                raise _body_too_large(most)
            if total > held:
                self.hold(total - held)
                held = total
            pieces.append(piece)
        self.front.metrics.request_bytes += total
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def json(self, decoder: "msgspec.json.Decoder[T]") -> T:
        """The body as JSON of the decoder's type. Raises Problem: 415, 413, 422."""
        check_json_body(self.request.headers.get("Content-Type"))
        return decode(decoder, await self.read_body())

    # --- parts of the address -------------------------------------------------------------------------------

    def path(self, name: str) -> str:
        return self.request.match_info[name]

    def path_partition(self, name: str = "partition_id") -> int:
        text = self.path(name)
        if not re.fullmatch(r"[0-9]{1,10}", text):
            raise Problem(NO_PARTITION, f"There is no partition {text[:40]!r}; partitions are numbers from 0.")
        return int(text)

    def path_number(self, name: str) -> int:
        text = self.path(name)
        if not re.fullmatch(r"[0-9]{1,10}", text):
            raise Problem(404, f"{name} {text[:40]!r} is not a number; give the number that the list of them shows.")
        return int(text)

    def query_text(self, name: str) -> str | None:
        return self.request.query.get(name)

    def query_number(self, name: str, default: int | None, *, least: int, most: int) -> int | None:
        text = self.request.query.get(name)
        if text is None:
            return default
        if _INTEGER.fullmatch(text) is None or not least <= int(text) <= most:
            raise Problem(BAD_REQUEST, f"{name} is {text[:40]!r}; it must be a whole number from {least} to {most}.")
        return int(text)

    def header_text(self, name: str) -> str | None:
        """A header of 1 to 255 visible ASCII characters, or None if it is not there."""
        text = self.request.headers.get(name)
        if text is None:
            return None
        if _VISIBLE.fullmatch(text) is None:
            raise Problem(BAD_REQUEST, f"{name} must be 1 to 255 visible ASCII characters without spaces.")
        return text

    # --- the answer -----------------------------------------------------------------------------------------

    async def start(self, response: web.StreamResponse) -> None:
        """Sends the head of an answer whose body follows in pieces."""
        self.started = response
        await response.prepare(self.request)

    async def send(self, piece: bytes | memoryview) -> None:
        """Sends a piece of the started answer. Raises ConnectionError when the client takes nothing for too long."""
        assert self.started is not None
        try:
            async with asyncio.timeout(self.options.send_timeout):
                await self.started.write(piece)
        except TimeoutError:
            self.abort()
            raise ConnectionAbortedError("the client does not read its answer") from None
        self.front.metrics.response_bytes += len(piece)

    def abort(self) -> None:
        """Cuts the connection off: the client sees that the answer is not whole."""
        if self.request.transport is not None:
            self.request.transport.abort()

    @property
    def base_url(self) -> str:
        if self.options.base_url:
            return self.options.base_url
        host = self.request.headers.get("Host", "")
        return f"http://{host}" if _HOST.fullmatch(host) else "http://localhost"

    def link(self, *parts: str | int) -> str:
        return "/".join((self.base_url, *map(str, parts)))

    def reply(self, value: object, *, status: int = 200) -> web.Response:
        """JSON for the cluster's own and v3 routes."""
        media = json_answer(self.request.headers.get("Accept"))
        return self.raw(msgspec.json.encode(value), media, status)

    def reply_v2(self, value: object) -> web.Response:
        media = v2_answer(self.request.headers.get("Accept"))
        return self.raw(msgspec.json.encode(value), media)

    def raw(self, body: bytes, media: str, status: int = 200) -> web.Response:
        return web.Response(status=status, body=body, headers={"Content-Type": media, "X-Request-Id": self.request_id})

    def nothing(self) -> web.Response:
        return web.Response(status=204, headers={"X-Request-Id": self.request_id})

    async def unless_stopping(self, work: Awaitable[T]) -> T | None:
        """The result of `work`, or None as soon as the node begins to stop; `work` is then cancelled."""
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self.front.stopping.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            stop.cancel()
            if not task.done():
                task.cancel()


def _body_too_large(most: int) -> Problem:
    return Problem(TOO_LARGE, f"The body is larger than {most} bytes; send fewer records in each request.")


def check_utf8(body: bytes) -> None:
    """msgspec passes raw values on without looking at their encoding, so it is looked at once for the whole body."""
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise malformed(error) from None


def decode(decoder: "msgspec.json.Decoder[T]", body: bytes) -> T:
    check_utf8(body)
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise malformed(error) from None


__all__ = ["JSON", "Call", "Front", "check_utf8", "decode"]
