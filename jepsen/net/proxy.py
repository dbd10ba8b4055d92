"""A network in userspace: nodes reach each other only through the harness, which can hold back, slow and break what
passes.

Each node advertises the address of a listener here. Who dials is read from the hello that opens every connection
between nodes, so one listener a node serves all its peers, and either direction of every pair is known and has its
own fate. Needs no privilege and no change to a node.

Like a cut cable, a cut loses nothing that TCP would send again: bytes and ends of connections wait until it is
healed, and arrive late, unless the nodes gave the connection up meanwhile. Connections dialled into a cut stay
silent.
"""

import asyncio
import contextlib
import struct
from collections import deque
from collections.abc import Coroutine
from random import Random

import msgspec

from jepsen.net.shape import Pair, Shape
from jepsen.ports import free_port

HOST = "127.0.0.1"
PIECE_BYTES = 64 << 10
HELD_BYTES_MAX = 4 << 20
"""Of one direction of one connection: like a socket's buffers, then the sender has to wait."""
HELLO_BYTES_MAX = 8 << 10
_HEAD = struct.Struct(">IB")


class ProxyNetwork:
    """See the module's text, and `jepsen.net.Network`."""

    kind = "proxy"
    shapes = True

    def __init__(self, random: Random | None = None) -> None:
        self.random = random or Random()
        self._ports: dict[int, tuple[int, int]] = {}
        """Node -> (where it listens, where its peers are sent)."""
        self._servers: list[asyncio.Server] = []
        self._cuts: frozenset[Pair] = frozenset()
        self._shapes: dict[Pair, Shape] = {}
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, nodes: list[int]) -> None:
        for node in nodes:
            await self.add(node)

    async def add(self, node: int) -> None:
        own, outer = free_port(), free_port()
        self._ports[node] = own, outer

        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._spawn(self._connection(node, reader, writer))

        self._servers.append(await asyncio.start_server(accepted, HOST, outer, limit=PIECE_BYTES))

    def host(self, node: int) -> str:
        return HOST

    def peers_port(self, node: int) -> tuple[int, str]:
        own, outer = self._ports[node]
        return own, f"{HOST}:{outer}"

    def prefix(self, node: int) -> list[str]:
        return []

    async def cut(self, pairs: frozenset[Pair]) -> None:
        self._cuts = pairs
        self._wake()

    async def shape(self, links: dict[Pair, Shape]) -> None:
        self._shapes = dict(links)

    async def stop(self) -> None:
        for server in self._servers:
            server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- for the connections --------------------------------------------------------------------------------

    def shape_of(self, pair: Pair) -> Shape | None:
        return self._shapes.get(pair)

    async def passable(self, *pairs: Pair) -> None:
        """Returns once none of these directions is cut."""
        while not self._cuts.isdisjoint(pairs):
            await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connection(self, target: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection that somebody dials to `target`."""
        writers = [writer]
        try:
            hello, source = await _hello(reader)
            await self.passable((source, target), (target, source))
            inner_reader, inner = await asyncio.open_connection(HOST, self._ports[target][0], limit=PIECE_BYTES)
            writers.append(inner)
            forth = _Pipe(self, (source, target), reader, inner)
            back = _Pipe(self, (target, source), inner_reader, writer)
            forth.put(hello)
            async with asyncio.TaskGroup() as group:
                for work in (forth.take_in(), forth.let_out(), back.take_in(), back.let_out()):
                    group.create_task(work)
        except (OSError, ExceptionGroup, asyncio.IncompleteReadError, _NotANode):
            pass  # either end has gone, or the connection broke as it was meant to: the other end is told below
        finally:
            for each in writers:
                each.transport.abort()


class _NotANode(Exception):
    """Whoever dialled does not say who it is."""


async def _hello(reader: asyncio.StreamReader) -> tuple[bytes, int]:
    """The first frame of a connection and the node that sent it: see `consensus.handshake`."""
    head = await reader.readexactly(_HEAD.size)
    length, _ = _HEAD.unpack(head)
    if not 1 <= length <= HELLO_BYTES_MAX:
        raise _NotANode
    body = await reader.readexactly(length - 1)
    try:
        match msgspec.msgpack.decode(body):
            case ["hello", int(node), *_]:
                return head + body, node
    except msgspec.DecodeError as error:
        raise _NotANode from error
    raise _NotANode


class _Pipe:
    """One direction of one connection."""

    def __init__(
        self, network: ProxyNetwork, pair: Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._network = network
        self._pair = pair
        self._reader = reader
        self._writer = writer
        self._held: deque[tuple[float, bytes]] = deque()
        self._held_bytes = 0
        self._due = 0.0
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()

    def put(self, piece: bytes) -> None:
        """Raises ConnectionError where the connection is to break."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        shape = self._network.shape_of(self._pair)
        if shape is not None:
            wait = shape.draw(self._network.random)
            if wait is None:
                raise ConnectionError("broken on purpose")
            start = max(self._due, now + wait)
            self._due = start + (len(piece) / shape.bytes_per_second if shape.bytes_per_second else 0.0)
        elif self._due < now:
            self._due = 0.0
        self._held.append((self._due, piece))
        self._held_bytes += len(piece)
        self._filled.set()

    async def take_in(self) -> None:
        """Ends with the sender's end of file, which waits its turn like everything else."""
        while True:
            piece = await self._reader.read(PIECE_BYTES)
            self.put(piece)
            if not piece:
                return
            while self._held_bytes > HELD_BYTES_MAX:
                self._emptied.clear()
                await self._emptied.wait()

    async def let_out(self) -> None:
        """Raises ConnectionError once the end of file has been passed on: a node closes both directions at once."""
        loop = asyncio.get_running_loop()
        while True:
            while not self._held:
                self._filled.clear()
                await self._filled.wait()
            due, piece = self._held.popleft()
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            await self._network.passable(self._pair)
            self._held_bytes -= len(piece)
            self._emptied.set()
            if not piece:
                with contextlib.suppress(OSError):
                    await self._writer.drain()
                raise ConnectionError("the other end has closed")
            self._writer.write(piece)
            await self._writer.drain()
