"""Real transports on loopback for the tests: nodes that record what they are told, raw peers, and a proxy to cut."""

import asyncio
import contextlib
import random
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine

import uvloop

from consensus.connection import TcpOptions
from consensus.frames import VERSION
from consensus.handshake import CHALLENGE_BYTES, Handshake
from consensus.messages import Heartbeat, Message, Request
from consensus.tcp import PeerTls, TcpTransport
from consensus.transport import Peer
from tests.ports import free_port

SECRET = b"a secret that the tests share"
LOOPS = ["asyncio", "uvloop"]
FAST = TcpOptions(
    back_off_min_s=0.01,
    back_off_max_s=0.05,
    patience_s=0.1,
    ping_interval_s=0.1,
    silence_s=0.6,
    handshake_timeout_s=0.5,
    connect_timeout_s=0.5,
)


def run(loop: str, work: Coroutine[object, object, None], *, timeout: float = 30) -> None:
    """Runs a test on the named kind of loop, in debug mode where that is asyncio's own, and fails it when it hangs."""

    async def bounded() -> None:
        async with asyncio.timeout(timeout):
            await work

    with asyncio.Runner(loop_factory=uvloop.new_event_loop if loop == "uvloop" else None) as runner:
        runner.run(bounded())


async def until(true: Callable[[], object], *, timeout: float = 5, what: str = "") -> None:
    deadline = asyncio.get_running_loop().time() + timeout
    while not true():
        assert asyncio.get_running_loop().time() < deadline, f"not within {timeout} s: {what or true}"
        await asyncio.sleep(0.002)


def beat(number: int) -> Heartbeat:
    return Heartbeat(1, 1, 0, number)


def large(size: int, number: int = 1) -> Request:
    return Request(number, "large", number.to_bytes(8, "big") * (size // 8), 1000)


class RecordingInbox:
    def __init__(self) -> None:
        self.events: list[tuple[str, Peer]] = []
        self.frames: list[tuple[Peer, list[Message]]] = []
        self.refusals: list[tuple[int | None, str, str]] = []
        self.refuse: dict[int, str] = {}
        self.judged: list[Peer] = []

    @property
    def messages(self) -> list[Message]:
        return [message for _, messages in self.frames for message in messages]

    def peer_allowed(self, peer: Peer) -> str | None:
        self.judged.append(peer)
        return self.refuse.get(peer.node)

    def peer_connected(self, peer: Peer) -> None:
        self.events.append(("up", peer))

    def peer_disconnected(self, peer: Peer) -> None:
        self.events.append(("down", peer))

    def peer_messages(self, peer: Peer, messages: list[Message]) -> None:
        self.frames.append((peer, messages))

    def refused_by(self, node: int | None, address: str, reason: str) -> None:
        self.refusals.append((node, address, reason))


class Node:
    """A transport with its inbox; not started yet."""

    def __init__(
        self,
        node: int,
        *,
        boot: int = 1,
        port: int | None = None,
        secret: bytes = SECRET,
        cluster: str = "c",
        options: TcpOptions = FAST,
        tls: PeerTls | None = None,
        advertised: str | None = None,
    ) -> None:
        self.port = port or free_port()
        self.address = f"127.0.0.1:{self.port}"
        nonce = secrets.token_hex(8)
        self.me = Peer(node, f"{node:032x}", boot, nonce, cluster, advertised or self.address)
        self.inbox = RecordingInbox()
        self.transport = TcpTransport(
            self.me,
            self.address,
            secret=secret,
            random=random.Random(node),
            random_bytes=secrets.token_bytes,
            tls=tls,
            options=options,
        )

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.inbox.events]

    async def start(self) -> None:
        await self.transport.start(self.inbox)


@contextlib.asynccontextmanager
async def running(*nodes: Node, introduce: bool = True) -> AsyncIterator[None]:
    """Starts the nodes, who know each other's addresses; at the end no task of theirs is left."""
    if introduce:
        for node in nodes:
            node.transport.set_addresses({other.me.node: other.address for other in nodes})
    for node in nodes:
        await node.start()
    try:
        yield
    finally:
        for node in nodes:
            tasks = list(node.transport._tasks)
            await node.transport.stop()
            assert all(task.done() for task in tasks), tasks
            assert not node.transport._tasks
            assert not node.transport._connections


async def meet(*nodes: Node) -> None:
    """Until every node has a connection with every other."""
    pairs = [(one, other) for one in nodes for other in nodes if one is not other]
    await until(lambda: all(one.transport.connected(other.me.node) == other.me for one, other in pairs), what="meet")


class RawPeer:
    """A peer of our own making, up to the end of the handshake; then bytes as the test likes."""

    def __init__(self, me: Peer, secret: bytes = SECRET, *, dialled: bool = True) -> None:
        self.me = me
        challenge = secrets.token_bytes(CHALLENGE_BYTES)
        self.handshake = Handshake(me, secret, challenge, dialled=dialled, judge=lambda peer: None)
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter
        self._listener: asyncio.Server | None = None
        self._came = asyncio.Event()

    async def frame(self) -> bytes:
        length = int.from_bytes(await self.reader.readexactly(4), "big")
        return await self.reader.readexactly(length)

    async def dial(self, port: int) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)

    async def join(self, port: int) -> "RawPeer":
        await self.dial(port)
        await self.shake()
        return self

    async def listen(self) -> int:
        """Waits to be dialled instead, on the port that it returns."""

        def came(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.reader, self.writer = reader, writer
            self._came.set()

        self._listener = await asyncio.start_server(came, "127.0.0.1", 0, limit=4096)
        return int(self._listener.sockets[0].getsockname()[1])

    async def shake(self) -> None:
        if self._listener is not None:
            await self._came.wait()
        self.writer.write(self.handshake.begin())
        while not self.handshake.complete:
            self.writer.write(self.handshake.receive(await self.frame()))

    async def closed(self) -> None:
        """Until the other end has closed."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(1 << 16):
                pass

    async def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


def stranger(node: int = 9) -> Peer:
    return Peer(node, f"{node:032x}", 1, secrets.token_hex(8), "c", "127.0.0.1:1")


def frame_of(body: bytes) -> bytes:
    return (len(body) + 1).to_bytes(4, "big") + bytes((VERSION,)) + body


class Proxy:
    """Passes bytes on between whoever dials it and `target`; can hold them, alter them and cut them off."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.accepted = 0
        self.seen = bytearray()
        self.silent = False
        """Takes what comes and passes nothing on."""
        self.delay_s = 0.0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def alter(self, data: bytes) -> bytes:
        return data

    def cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.target)
            self._writers.add(there_writer)
            await asyncio.gather(self._pass(reader, there_writer), self._pass(there_reader, writer))
        except (OSError, asyncio.CancelledError):  # swallowed: streams would log it
            writer.transport.abort()
        finally:
            self._tasks.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                self.seen += data
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if not self.silent:
                    writer.write(self.alter(data))
                    await writer.drain()
        writer.transport.abort()
