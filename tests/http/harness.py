"""What the HTTP tests share: a server on a thread of its own, and a plain client that shows every byte of an answer."""

import asyncio
import http.client
import json
import random
import socket
import threading
import time
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from raftbroker.broker.broker import Broker
from raftbroker.http import HttpOptions, bounded, make_app, make_runner

T = TypeVar("T")

JSON = "application/json"
JSON_V2 = "application/vnd.kafka.json.v2+json"
BINARY_V2 = "application/vnd.kafka.binary.v2+json"
STRING_V2 = "application/vnd.kafka.string.v2+json"


def wall() -> int:
    return time.time_ns() // 1_000_000


def options(**changes: Any) -> HttpOptions:
    return HttpOptions(wall=wall, random=random.Random(1), **changes)


class LoopThread:
    """An event loop on its own thread, so that tests may be plain functions."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], timeout: float = 30.0) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout)

    async def _cancel_all(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def stop(self) -> None:
        self.run(self._cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


class Answer(msgspec.Struct):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> int:
        """The error code, once the body is known to have the form of an error."""
        assert set(self.json) == {"error_code", "message"}, self.json
        return int(self.json["error_code"])

    @property
    def message(self) -> str:
        return str(self.json["message"])


class Client:
    """Sends one request after the other; bodies that are not bytes are sent as JSON."""

    def __init__(self, url: str) -> None:
        self.url = url
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self.address = (parts.hostname, parts.port)
        self._connection = http.client.HTTPConnection(*self.address, timeout=30)

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, media: str = JSON
    ) -> Answer:
        sent = dict(headers or {})
        if body is not None:
            sent.setdefault("Content-Type", media)
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            self._connection.request(method, path, body, sent)
            response = self._connection.getresponse()
        except (BrokenPipeError, ConnectionResetError, http.client.RemoteDisconnected):
            self._connection.close()
            self._connection.request(method, path, body, sent)
            response = self._connection.getresponse()
        lower = {name.lower(): value for name, value in response.getheaders()}
        if lower.get("content-type", "").startswith("text/event-stream"):  # it has no end
            beginning = response.read1(1024)
            self._connection.close()
            return Answer(response.status, lower, beginning)
        return Answer(response.status, lower, response.read())

    def get(self, path: str, accept: str | None = None) -> Answer:
        return self.ask("GET", path, headers={} if accept is None else {"Accept": accept})

    def post(self, path: str, body: Any, media: str = JSON, **headers: str) -> Answer:
        return self.ask("POST", path, body, {name.replace("_", "-"): value for name, value in headers.items()}, media)

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def raw(self) -> Iterator[socket.socket]:
        """A bare connection, for requests that no client library would send."""
        connection = socket.create_connection(self.address, timeout=20)
        try:
            yield connection
        finally:
            connection.close()


async def serve(broker: Broker, settings: HttpOptions, connections_max: int = 100) -> tuple[web.AppRunner, str]:
    """The application on a free port: its runner, which closes the port as well, and its address."""
    app = make_app(broker, settings)
    listening: list[asyncio.Server] = []

    async def close(_: web.Application) -> None:
        for one in listening:
            one.close()

    app.on_shutdown.append(close)
    runner = make_runner(app)
    await runner.setup()
    listening.append(
        await asyncio.get_running_loop().create_server(bounded(runner, connections_max), "127.0.0.1", 0, backlog=128)
    )
    host, port = listening[0].sockets[0].getsockname()
    return runner, f"http://{host}:{port}"


@contextmanager
def door(thread: LoopThread, broker: Broker, *, connections_max: int = 100, **changes: Any) -> Iterator[Client]:
    """A front door with its own settings over `broker`, and a client of it."""
    runner, url = thread.run(serve(broker, options(**changes), connections_max))
    client = Client(url)
    try:
        yield client
    finally:
        client.close()
        thread.run(_stop(runner))


async def _stop(runner: web.AppRunner) -> None:
    await runner.cleanup()


def read_until(connection: socket.socket, end: bytes) -> bytes:
    """Bytes up to and with `end`; fails the test when the peer closes before."""
    data = b""
    while not data.endswith(end):
        piece = connection.recv(65536)
        assert piece, data
        data += piece
    return data
