"""The transport between nodes: asyncio connections, one per pair of nodes, carrying all groups (C7).

`TcpTransport` implements `consensus.transport.Transport`. What it promises beyond that:

- Nothing of a peer is decoded as messages before the handshake of `consensus.handshake` is complete; until then frames
  are bounded to a few KiB, time to a few seconds, and the connections that others opened to a number.
- `send` encodes at once and queues; one flush per loop turn writes each node's messages as one frame (more, where it
  would pass a MiB). What is queued and not yet taken by the kernel is bounded per peer.
- Between two running nodes one connection stays. When both dialled, both keep the one dialled by the lower node id. A
  peer that was restarted (another nonce) replaces its former self at once.
- The lower node id dials; the higher does too once it has been without a connection for a moment, because an address
  may be known on one side only. Attempts are spaced by a jittered back-off.
- A connection over which nothing was heard for some seconds is dropped; an idle one carries pings so that this
  means something. What a peer sends wrongly costs its connection and one log line, never more.
- `peer_disconnected` is called in the loop turn in which the operating system tells of the end.

Everything runs on the event loop that `start` was called on.
"""

import asyncio
import contextlib
import functools
import logging
import random as random_module
import socket
import ssl
from collections.abc import Callable, Coroutine

import msgspec

from consensus.connection import Connection, TcpOptions, split_address
from consensus.frames import FRAME_HEAD_BYTES, FRAME_OVERHEAD_BYTES, encode_message, pieces_of
from consensus.handshake import (
    CHALLENGE_BYTES,
    Handshake,
    HandshakeFailed,
    RefusedHere,
    RefusedThere,
)
from consensus.messages import Message
from consensus.transport import Inbox, Peer

log = logging.getLogger(__name__)

_LINGER_S = 0.2
_WARNING_INTERVAL_S = 60.0
_WARNINGS_REMEMBERED = 1024


REASONS_MAX = 8


class PeerTls(msgspec.Struct, frozen=True):
    """Contexts for mutual TLS: both must demand and verify the other end's certificate."""

    server: ssl.SSLContext
    client: ssl.SSLContext


class _Target:
    """An address to keep a connection with."""

    def __init__(self, address: str, node: int | None, back_off_s: float) -> None:
        self.address = address
        self.node = node
        """Whose address it is; for one that is sought, who answered last."""
        self.sought = node is None
        self.back_off_s = back_off_s
        self.reported: set[str] = set()
        self.lost = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class TcpTransport:
    """See the module's text. Public beyond `Transport`: `listening`, the (host, port) pairs bound by `start`."""

    def __init__(
        self,
        me: Peer,
        listen: str,
        *,
        secret: bytes,
        random: random_module.Random,
        random_bytes: Callable[[int], bytes],
        tls: PeerTls | None = None,
        options: TcpOptions | None = None,
    ) -> None:
        """`me` is what this node tells of itself, with the address at which others reach it; `listen` is what to bind.

        Raises ValueError where peers could not prove themselves: neither a secret nor verifying TLS contexts."""
        split_address(listen)
        split_address(me.address)
        if tls is None and not secret:
            raise ValueError("peers prove themselves by a shared secret or by mutual TLS: set one of them")
        if tls is not None and any(c.verify_mode is not ssl.CERT_REQUIRED for c in (tls.server, tls.client)):
            raise ValueError("both TLS contexts for peers must require and verify certificates (CERT_REQUIRED)")
        self.options = options or TcpOptions()
        self.listening: list[tuple[str, int]] = []
        self.loop: asyncio.AbstractEventLoop
        self.inbox: Inbox
        self._me = me
        self._listen = listen
        self._secret = secret
        self._random = random
        self._random_bytes = random_bytes
        self._tls = tls
        self._message_bytes_max = self.options.frame_bytes_max - FRAME_OVERHEAD_BYTES
        self._links: dict[int, Connection] = {}
        self._dirty: list[Connection] = []
        self._connections: dict[Connection, None] = {}
        """All whose end asyncio has not yet told, established or not, oldest first."""
        self._known: dict[int, _Target] = {}
        self._sought: dict[str, _Target] = {}
        self._listeners: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticker: asyncio.TimerHandle | None = None
        self._warned: dict[str, float] = {}
        self._drained = asyncio.Event()
        self._running = False

    # --- Transport --------------------------------------------------------------------------------------

    def send(self, node: int, message: Message) -> bool:
        """See `Transport.send`. A message that no frame can hold is refused with a logged error."""
        connection = self._links.get(node)
        if connection is None:
            return False
        unsent = connection.unsent_bytes
        unsent_max = self.options.unsent_bytes_max
        if unsent >= unsent_max:
            return False
        pieces = pieces_of(message)
        if pieces is None:
            encoded = encode_message(message)
            size = len(encoded)
        else:
            size = sum(map(len, pieces))
        if size > self._message_bytes_max:
            kind = type(message).__name__
            log.error("a %s of %d bytes for node %d is too large for a frame: not sent", kind, size, node)
            return False
        if unsent and unsent + size + FRAME_HEAD_BYTES > unsent_max:
            return False
        if not connection.queued_bytes:
            if not self._dirty:
                self.loop.call_soon(self._flush)
            self._dirty.append(connection)
        if pieces is None:
            connection.queue.append(encoded)
        else:
            connection.queue_alone(pieces, size)
        connection.queued_bytes += size + FRAME_HEAD_BYTES
        return True

    def connected(self, node: int) -> Peer | None:
        connection = self._links.get(node)
        return None if connection is None else connection.peer

    def set_addresses(self, addresses: dict[int, str]) -> None:
        """See `Transport.set_addresses`. A connection that is up stays when its node's address changes.

        A node that was never in the map and connected by itself stays: `Inbox.peer_allowed` keeps strangers out."""
        wanted = {node: address for node, address in addresses.items() if node != self._me.node}
        for node in [node for node in self._known if node not in wanted]:
            self._let_go(self._known.pop(node))
            connection = self._links.get(node)
            if connection is not None:
                connection.close()
        for node, address in wanted.items():
            target = self._known.get(node)
            if target is None:
                self._known[node] = self._pursue(_Target(address, node, self.options.back_off_min_s))
            elif target.address != address:
                target.address = address
                target.back_off_s = self.options.back_off_min_s

    def seek(self, addresses: list[str]) -> None:
        """See `Transport.seek`. The list replaces the former one; connections that came of it stay."""
        for address in [address for address in self._sought if address not in addresses]:
            self._let_go(self._sought.pop(address))
        for address in addresses:
            if address not in self._sought:
                self._sought[address] = self._pursue(_Target(address, None, self.options.back_off_min_s))

    def update_identity(self, cluster: str) -> None:
        self._me = msgspec.structs.replace(self._me, cluster=cluster)

    async def start(self, inbox: Inbox) -> None:
        """Listens, then dials. Raises OSError where the address cannot be bound."""
        assert not self._running
        self.loop = asyncio.get_running_loop()
        self.inbox = inbox
        await self._bind()
        self._running = True
        for listener in self._listeners:
            self._listen_on(listener)
        for target in [*self._known.values(), *self._sought.values()]:
            self._pursue(target)
        self._ticker = self.loop.call_later(self.options.ping_interval_s, self._tick)

    async def stop(self) -> None:
        """Closes everything, once the kernel has what `send` took or a moment has passed."""
        if not self._running:
            return
        self._running = False
        for listener in self._listeners:
            self.loop.remove_reader(listener)
            listener.close()
        self._listeners.clear()
        self._flush()
        if self._ticker is not None:
            self._ticker.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in list(self._connections):
            connection.close(graceful=True)
        await self._drain()
        for connection in list(self._connections):
            connection.abort()
        await self._drain()

    async def _drain(self) -> None:
        """Until asyncio has let go of every connection, or a moment has passed."""
        if self._connections:
            self._drained.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._drained.wait(), _LINGER_S)

    # --- called by connections --------------------------------------------------------------------------

    def new_handshake(self, *, dialled: bool) -> Handshake:
        challenge = self._random_bytes(CHALLENGE_BYTES)
        return Handshake(self._me, self._secret, challenge, dialled=dialled, judge=self._judge)

    def keeps(self, connection: Connection, peer: Peer) -> bool:
        """Whether this newly proven connection is the one to keep, in view of one that is already there.

        A dialler asks before its last word, so one that yields here was never established at the other end either.
        Of two that are, each at one end, both ends keep the lower node id's."""
        if not self._running:
            return False
        if not self._expected(connection, peer):
            return False
        held = self._links.get(peer.node)
        if held is None or held.peer is None or held.peer.nonce != peer.nonce or held.peer.uuid != peer.uuid:
            return True
        if connection.dialled is not None:
            return False
        return held.dialled is None or peer.node < self._me.node

    def established(self, connection: Connection, peer: Peer) -> None:
        held = self._links.get(peer.node)
        if held is not None:
            held.close()
        if connection.closed:
            return
        self._links[peer.node] = connection
        for target in self._targets_of(peer.node):
            target.reported.clear()
        self.inbox.peer_connected(peer)

    def closed(self, connection: Connection) -> None:
        peer = connection.peer
        if peer is None or self._links.get(peer.node) is not connection:
            return
        del self._links[peer.node]
        lasted = self.loop.time() - connection.established_at >= self.options.back_off_max_s
        for target in self._targets_of(peer.node):
            if lasted:
                target.back_off_s = self.options.back_off_min_s
            target.lost.set()
        self.inbox.peer_disconnected(peer)

    def gone(self, connection: Connection) -> None:
        self._connections.pop(connection, None)
        if not self._connections:
            self._drained.set()

    def failed(self, connection: Connection, failure: HandshakeFailed) -> None:
        match failure:
            case RefusedThere(peer=peer, reason=reason):
                if self._expected(connection, peer) and peer.nonce != self._me.nonce:
                    self.inbox.refused_by(peer.node, connection.dialled or peer.address, reason)
            case RefusedHere():
                pass  # the inbox knows: it was its judgement, or it was logged with it
            case _:
                text = "refused the connection with the peer at %s: %s"
                self.warn(f"{type(failure).__name__} {connection.where}", text, connection.where, failure)

    def warn(self, subject: str, text: str, *values: object) -> None:
        """Logs a warning unless one about the same subject was logged in the last minute."""
        now = self.loop.time()
        last = self._warned.get(subject)
        if last is not None and now - last < _WARNING_INTERVAL_S:
            return
        self._warned.pop(subject, None)
        if len(self._warned) >= _WARNINGS_REMEMBERED:
            del self._warned[next(iter(self._warned))]
        self._warned[subject] = now
        log.warning(text, *values)

    # --- inside: sending, ticking -----------------------------------------------------------------------

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for connection in dirty:
            connection.flush()

    def _tick(self) -> None:
        self._ticker = self.loop.call_later(self.options.ping_interval_s, self._tick)
        for connection in list(self._links.values()):
            connection.tick()

    def _judge(self, peer: Peer) -> str | None:
        if peer.node == self._me.node:
            if peer.nonce == self._me.nonce:
                return "this is the node itself"
            self.warn(f"same id {peer.address}", "the peer at %s uses this node's id, %d", peer.address, peer.node)
            return f"node id {peer.node} is used by two nodes, at {self._me.address} and at {peer.address}"
        try:
            split_address(peer.address)
        except ValueError as error:
            return f"others cannot reach it: its advertised address {error}"
        return self.inbox.peer_allowed(peer)

    # --- inside: accepting ------------------------------------------------------------------------------

    async def _bind(self) -> None:
        host, port = split_address(self._listen)
        found = await self.loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, address in dict.fromkeys((entry[0], entry[4]) for entry in found):
            listener = socket.socket(family, socket.SOCK_STREAM)
            self._listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                listener.bind(address)
            except OSError as error:
                for opened in self._listeners:
                    opened.close()
                self._listeners.clear()
                raise OSError(error.errno, f"cannot listen for peers on {self._listen}: {error.strerror}") from error
            listener.listen(128)
            listener.setblocking(False)
            self.listening.append(listener.getsockname()[:2])

    def _accept(self, listener: socket.socket) -> None:
        """Takes one connection; the loop calls again while more wait."""
        try:
            accepted, address = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            self.warn("accept", "cannot accept connections from peers: %s", error)
            self.loop.remove_reader(listener)
            self.loop.call_later(self.options.back_off_max_s, self._listen_on, listener)
            return
        accepted.setblocking(False)
        half_open = [c for c in self._connections if c.dialled is None and c.peer is None and not c.closed]
        if len(half_open) >= self.options.half_open_max:
            self.warn("half-open", "%d connections wait to prove themselves: closing the oldest", len(half_open))
            half_open[0].close()
        connection = Connection(self, None)
        connection.where = str(address[0])
        self._connections[connection] = None
        connection.admission = self._spawn(self._admit(connection, accepted))
        connection.admission.add_done_callback(functools.partial(self._admitted, connection, accepted))

    def _listen_on(self, listener: socket.socket) -> None:
        if self._running:
            self.loop.add_reader(listener, self._accept, listener)

    async def _admit(self, connection: Connection, accepted: socket.socket) -> None:
        """Takes in one connection from outside, up to the point where its protocol runs."""
        try:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self.loop.connect_accepted_socket(
                lambda: connection,
                accepted,
                ssl=self._tls.server if self._tls else None,
                ssl_handshake_timeout=self.options.handshake_timeout_s if self._tls else None,
            )
        except (OSError, asyncio.CancelledError) as error:
            self._abandon(connection)
            if isinstance(error, asyncio.CancelledError):
                raise
            if isinstance(error, ssl.SSLError):
                text = "refused the peer at %s: %s; both ends need TLS and certificates of this cluster's authority"
                self.warn(f"tls {connection.where}", text, connection.where, error)

    def _admitted(self, connection: Connection, accepted: socket.socket, _: asyncio.Task[None]) -> None:
        """The task of `_admit` has ended, perhaps cancelled before it began."""
        if not connection.made:
            self._abandon(connection)
            accepted.close()

    # --- inside: dialling -------------------------------------------------------------------------------

    def _pursue(self, target: _Target) -> _Target:
        if self._running and target.task is None:
            target.task = self._spawn(self._keep(target))
        return target

    def _let_go(self, target: _Target) -> None:
        if target.task is not None:
            target.task.cancel()

    def _targets_of(self, node: int) -> list[_Target]:
        targets = [self._known[node]] if node in self._known else []
        return targets + [target for target in self._sought.values() if target.node == node]

    def _expected(self, connection: Connection, peer: Peer) -> bool:
        if connection.expected is None or connection.expected == peer.node:
            return True
        text = "the address %s of node %d is answered by node %d: correct the address or the id"
        self.warn(f"swapped {connection.where}", text, connection.dialled, connection.expected, peer.node)
        return False

    async def _keep(self, target: _Target) -> None:
        """Dials the target whenever it has no connection."""
        if self._patient(target):
            await asyncio.sleep(self._pause(target))
        while True:
            if target.node is not None and (target.node in self._links or target.node == self._me.node):
                target.lost.clear()
                await target.lost.wait()
            else:
                await self._dial(target)
            if target.node is None or target.node not in self._links:
                await asyncio.sleep(self._pause(target))

    def _patient(self, target: _Target) -> bool:
        return target.node is not None and not target.sought and self._me.node > target.node

    def _pause(self, target: _Target) -> float:
        if self._patient(target):
            return self.options.patience_s * self._random.uniform(1.0, 1.5)
        pause = target.back_off_s * self._random.uniform(0.5, 1.0)
        target.back_off_s = min(2 * target.back_off_s, self.options.back_off_max_s)
        return pause

    async def _dial(self, target: _Target) -> None:
        """One attempt, until it is established or has failed."""
        connection = Connection(self, target.address, None if target.sought else target.node)
        self._connections[connection] = None
        try:
            host, port = split_address(target.address)
            async with asyncio.timeout(self.options.connect_timeout_s):
                await self.loop.create_connection(
                    lambda: connection, host, port, ssl=self._tls.client if self._tls else None
                )
            await connection.settled
        except (OSError, ValueError, asyncio.CancelledError) as error:
            self._abandon(connection)
            if isinstance(error, asyncio.CancelledError):
                raise
            self._report(target, str(error) or "no answer")
            return
        failure = connection.failure
        if connection.peer is not None:
            answered: Peer | None = connection.peer
        elif isinstance(failure, RefusedHere | RefusedThere):
            answered = failure.peer
            target.back_off_s = self.options.back_off_max_s
        else:
            answered = None
            if failure is None and target.node not in self._links:
                self._report(target, "it closed the connection before the handshake was complete")
        if target.sought and answered is not None:
            target.node = answered.node

    def _report(self, target: _Target, reason: str) -> None:
        """Tells each reason once, up to a number, of why a target does not answer, until it has answered."""
        if reason not in target.reported and len(target.reported) < REASONS_MAX:
            target.reported.add(reason)
            log.info("cannot reach the peer at %s: %s; trying on", target.address, reason)

    def _abandon(self, connection: Connection) -> None:
        """A connection that never came to be: uvloop does not always tell of the end of one cancelled on the way."""
        connection.close()
        connection.abort()
        self.gone(connection)

    def _spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task of the peer transport failed", exc_info=error)
