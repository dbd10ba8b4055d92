"""One TCP connection between two nodes: frames, the handshake, then messages both ways (C7).

Nothing is decoded as messages before the handshake is complete. What the other end sends wrongly closes the connection
with one log line and raises nothing. Whatever ends a connection, `Owner.closed` is told in that same loop turn.
"""

import asyncio
import logging
from typing import Protocol, cast

import msgspec

from consensus.frames import PING, BadFrame, FrameReader, frame_head, frames_of, messages_of
from consensus.handshake import HANDSHAKE_BYTES_MAX, Handshake, HandshakeFailed
from consensus.transport import Inbox, Peer

log = logging.getLogger(__name__)

_JOINED_BYTES_MAX = 64 << 10
"""Up to here a frame's pieces are joined and written as one; above, copying costs more than a longer writev."""


class TcpOptions(msgspec.Struct, frozen=True):
    frame_bytes_max: int = 64 << 20
    """The longest frame sent or taken; a message that does not fit into one is refused by `send`."""
    unsent_bytes_max: int = 64 << 20
    """Per peer: `send` refuses while more than this waits for the kernel."""
    turn_bytes_max: int = 4 << 20
    """A connection that keeps its buffer full yields to the others after this much."""
    connect_timeout_s: float = 3.0
    handshake_timeout_s: float = 5.0
    half_open_max: int = 64
    """Connections from others that have not yet proven themselves; beyond, the oldest is closed."""
    back_off_min_s: float = 0.05
    back_off_max_s: float = 1.0
    patience_s: float = 1.0
    """How long the higher node id waits to be dialled before it dials."""
    ping_interval_s: float = 1.0
    silence_s: float = 5.0


def split_address(address: str) -> tuple[str, int]:
    """("host", port) of host:port, where an IPv6 host stands in brackets. Raises ValueError."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{address!r} is not host:port")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{address!r} is not host:port: an IPv6 host stands in brackets")
    return host, int(port)


class Owner(Protocol):
    """What a connection belongs to."""

    options: TcpOptions
    loop: asyncio.AbstractEventLoop
    inbox: Inbox

    def new_handshake(self, *, dialled: bool) -> Handshake: ...

    def keeps(self, connection: "Connection", peer: Peer) -> bool:
        """Whether this newly proven connection is to be kept."""

    def established(self, connection: "Connection", peer: Peer) -> None: ...

    def failed(self, connection: "Connection", failure: HandshakeFailed) -> None: ...

    def closed(self, connection: "Connection") -> None:
        """It has ended for us, whoever ended it."""

    def gone(self, connection: "Connection") -> None:
        """asyncio has let go of it."""

    def warn(self, subject: str, text: str, *values: object) -> None:
        """Logs a warning unless one about the same subject was logged lately."""


class Connection(asyncio.BufferedProtocol):
    """One connection: framing, the handshake, then messages both ways."""

    def __init__(self, owner: Owner, dialled: str | None, expected: int | None = None) -> None:
        self.owner = owner
        self.expected = expected
        """Which node the address dialled belongs to, where that is known."""
        self.dialled = dialled
        """The address dialled; None where the other end dialled."""
        self.where = dialled or "?"
        self.settled: asyncio.Future[None] = owner.loop.create_future()
        """Done once the connection is established or will never be."""
        self.failure: HandshakeFailed | None = None
        self.peer: Peer | None = None
        self.established_at = 0.0
        self.closed = False
        self.admission: asyncio.Task[None] | None = None
        """What takes in a connection from outside, up to `connection_made`."""
        self.queue: list[bytes] = []
        """Encoded messages that have no frame yet."""
        self._framed: list[bytes] = []
        """Frames, in pieces, that precede it."""
        self.queued_bytes = 0
        self.wrote = self.heard = True
        self.silent_ticks = 0
        self._burst_bytes = 0
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader(HANDSHAKE_BYTES_MAX)
        self._handshake: Handshake | None = owner.new_handshake(dialled=dialled is not None)
        self._timer = owner.loop.call_later(owner.options.handshake_timeout_s, self._expired)

    # --- called by asyncio ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert self._handshake is not None
        self._transport = cast(asyncio.Transport, transport)
        if self.closed:
            self._transport.abort()
            return
        if self.dialled is not None:
            self._transport.write(self._handshake.begin())

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._reader.space()

    def buffer_updated(self, nbytes: int) -> None:
        self.heard = True
        if self._reader.filled(nbytes):
            self._burst_bytes += nbytes
            if self._burst_bytes >= self.owner.options.turn_bytes_max:
                self._yield_turn()
        else:
            self._burst_bytes = 0
        try:
            while not self.closed and (frame := self._reader.next()) is not None:
                if self._handshake is not None:
                    self._shake(self._handshake, bytes(frame))
                    continue
                messages = messages_of(frame)
                if messages:
                    assert self.peer is not None
                    self.owner.inbox.peer_messages(self.peer, messages)
        except BadFrame as error:
            self.owner.warn(f"frame {self.where}", "closed the connection with %s: it sent %s", self.name, error)
            self.close()

    def eof_received(self) -> None:
        self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.close()
        self.owner.gone(self)

    # --- called by the owner ----------------------------------------------------------------------------

    @property
    def made(self) -> bool:
        """Whether asyncio has a transport for it."""
        return self._transport is not None

    @property
    def name(self) -> str:
        return f"node {self.peer.node} at {self.where}" if self.peer else f"the unproven peer at {self.where}"

    @property
    def unsent_bytes(self) -> int:
        """What waits for the kernel."""
        if self._transport is None:
            return self.queued_bytes
        return self.queued_bytes + self._transport.get_write_buffer_size()

    def queue_alone(self, pieces: list[bytes], size: int) -> None:
        """Queues a large message, encoded in pieces, as a frame of its own."""
        if self.queue:
            self._framed += frames_of(self.queue)
            self.queue = []
        self._framed.append(frame_head(1, size))
        self._framed += pieces

    def flush(self) -> None:
        """Writes what is queued."""
        if self.closed or not self.queued_bytes or self._transport is None:
            return
        queue, framed, size = self.queue, self._framed, self.queued_bytes
        self.queue = []
        self.queued_bytes = 0
        self.wrote = True
        if framed:
            self._framed = []
            self._transport.writelines(framed + (frames_of(queue) if queue else []))
        elif size <= _JOINED_BYTES_MAX:
            self._transport.write(frame_head(len(queue), sum(map(len, queue))) + b"".join(queue))
        else:
            self._transport.writelines(frames_of(queue))

    def tick(self) -> None:
        """Once per ping interval."""
        if not self.wrote and self._transport is not None:
            self._transport.write(PING)
        self.wrote = False
        self.silent_ticks = 0 if self.heard else self.silent_ticks + 1
        self.heard = False
        self._reader.shrink()
        if self.silent_ticks * self.owner.options.ping_interval_s >= self.owner.options.silence_s:
            log.warning("closed the connection with %s: it said nothing for %d pings", self.name, self.silent_ticks)
            self.close()

    def close(self, *, graceful: bool = False) -> None:
        """Ends the connection now, for us; `graceful` leaves what was written on its way."""
        if self.closed:
            return
        self.closed = True
        self._timer.cancel()
        if not self.settled.done():
            self.settled.set_result(None)
        if self._transport is None:
            if self.admission is not None:
                self.admission.cancel()
        elif graceful:
            self._transport.close()
        else:
            self._transport.abort()
        self.queue.clear()
        self._framed.clear()
        self.owner.closed(self)

    def abort(self) -> None:
        """Gives up on what a graceful close left on its way."""
        if self._transport is not None:
            self._transport.abort()

    # --- inside -----------------------------------------------------------------------------------------

    def _shake(self, handshake: Handshake, frame: bytes) -> None:
        assert self._transport is not None
        try:
            reply = handshake.receive(frame)
        except HandshakeFailed as failure:
            self.failure = failure
            if failure.reply:
                self._transport.write(failure.reply)
            self.close(graceful=True)
            self.owner.failed(self, failure)
            return
        if handshake.complete and not self.owner.keeps(self, handshake.peer):
            self.close()
            return
        if reply:
            self._transport.write(reply)
        if not handshake.complete:
            return
        self._timer.cancel()
        self._handshake = None
        self._reader.bytes_max = self.owner.options.frame_bytes_max
        self.peer = handshake.peer
        self.established_at = self.owner.loop.time()
        self.settled.set_result(None)
        self.owner.established(self, handshake.peer)

    def _expired(self) -> None:
        self.owner.warn(f"slow {self.where}", "closed the connection with %s: no handshake in time", self.name)
        self.close()

    def _yield_turn(self) -> None:
        self._burst_bytes = 0
        if self._transport is not None and not self.closed:
            self._transport.pause_reading()
            self.owner.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._transport is not None and not self.closed:
            self._transport.resume_reading()
