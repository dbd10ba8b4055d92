"""A Kafka listener with APIs made for tests: a test decides when each request is answered. And a bare client of it."""

import asyncio
import random
import struct
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from raftbroker.broker.broker import Broker
from raftbroker.kafka.api import Api, Codec, Request
from raftbroker.kafka.context import KafkaContext, KafkaOptions
from raftbroker.kafka.handlers import api_versions
from raftbroker.kafka.server import KafkaListener

ECHO, GATE, PASS, SILENT, BIG, FAIL, WAIT = 900, 901, 902, 903, 904, 905, 906

CODEC: Codec[bytes, bytes] = Codec(1, lambda body, _: bytes(body), lambda answer, _: (answer,))


class Scene:
    """What the handlers of one test saw, and what they wait for."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self.cancelled: list[bytes] = []
        self.gates: defaultdict[bytes, asyncio.Event] = defaultdict(asyncio.Event)
        self.changed = asyncio.Event()

    def begin(self, body: bytes) -> None:
        self.begun.append(body)
        self.changed.set()

    async def until_begun(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self.begun) < count:
                self.changed.clear()
                await self.changed.wait()

    def apis(self) -> dict[int, Api[Any, Any]]:
        async def echo(_: KafkaContext, request: Request[bytes]) -> bytes:
            self.begin(request.body)
            return request.body

        async def gate(_: KafkaContext, request: Request[bytes]) -> bytes:
            self.begin(request.body)
            await self.gates[request.body].wait()
            return request.body

        async def pass_on(_: KafkaContext, request: Request[bytes]) -> bytes:
            self.begin(request.body)
            request.pass_turn()
            await self.gates[request.body].wait()
            return request.body

        async def silent(_: KafkaContext, request: Request[bytes]) -> None:
            self.begin(request.body)

        async def big(_: KafkaContext, request: Request[bytes]) -> bytes:
            self.begin(request.body)
            return bytes(int(request.body))

        async def fail(_: KafkaContext, request: Request[bytes]) -> bytes:
            raise RuntimeError("planted")

        async def wait(context: KafkaContext, request: Request[bytes]) -> bytes:
            self.begin(request.body)
            try:
                await context.stopping.wait()
            except asyncio.CancelledError:
                self.cancelled.append(request.body)
                self.changed.set()
                raise
            return request.body

        made: dict[int, Api[Any, Any]] = {api_versions.KEY: api_versions.API}
        for key, handle in {
            ECHO: echo,
            GATE: gate,
            PASS: pass_on,
            SILENT: silent,
            BIG: big,
            FAIL: fail,
            WAIT: wait,
        }.items():
            made[key] = Api(
                key=key,
                name=handle.__name__,
                min_version=0,
                max_version=1,
                codec=CODEC,
                handle=handle,
                abandon=key == WAIT,
            )
        return made


def frame(key: int, body: bytes = b"", *, correlation: int = 1, version: int = 0, client: bytes | None = b"t") -> bytes:
    """A request as it travels; version 1 is flexible."""
    name = struct.pack(">h", -1) if client is None else struct.pack(">h", len(client)) + client
    whole = struct.pack(">hhi", key, version, correlation) + name + (b"\0" if version else b"") + body
    return struct.pack(">i", len(whole)) + whole


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *frames: bytes) -> None:
        self.writer.writelines(frames)
        await self.writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        """Correlation id, and all that follows."""
        async with asyncio.timeout(20):
            (size,) = struct.unpack(">i", await self.reader.readexactly(4))
            whole = await self.reader.readexactly(size)
        return struct.unpack_from(">i", whole)[0], whole[4:]

    async def ask(self, key: int, body: bytes = b"", **header: Any) -> bytes:
        await self.send(frame(key, body, **header))
        return (await self.answer())[1]

    async def closed(self) -> bytes:
        """What comes until the listener closes the connection."""
        async with asyncio.timeout(20):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""

    def close(self) -> None:
        self.writer.close()


class Door:
    def __init__(self, listener: KafkaListener, scene: Scene, address: tuple[str, int]) -> None:
        self.listener = listener
        self.scene = scene
        self.address = address

    async def client(self, *, limit: int = 1 << 16) -> Client:
        return Client(*await asyncio.open_connection(*self.address, limit=limit))

    async def until_gone(self) -> None:
        """Every connection has ended, and everything it held was given back."""
        async with asyncio.timeout(20):
            await self.listener.shared.empty.wait()


@asynccontextmanager
async def door(**changes: Any) -> AsyncIterator[Door]:
    scene = Scene()
    options = KafkaOptions(random=random.Random(1), **changes)
    listener = KafkaListener(cast(Broker, None), options, scene.apis())
    server = await asyncio.get_running_loop().create_server(listener.connect, "127.0.0.1", 0)
    try:
        yield Door(listener, scene, server.sockets[0].getsockname()[:2])
    finally:
        server.close()
        await listener.stop()
