"""A simulated network: connections that are first in, first out, and everything that happens to them.

`SimTransport` implements `consensus.transport.Transport` for one life of one node. Every frame goes through
`consensus.messages` both ways, so what is exercised is what the wire would carry. A connection delivers in order and
whole; it can be slow, stalled, cut in one direction or both (what is sent meanwhile waits, as TCP retransmits, and
comes late if the connection outlives the cut), or broken: then what was under way is lost and each end learns of it
at its own time. A second connection between two nodes takes over from the first, whose last frames may arrive after
the newer ones, or twice.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from consensus.messages import GroupMessage, Message, decode_messages, encode_messages
from consensus.transport import Inbox, Peer

from .loop import Process, VirtualLoop

UNSENT_BYTES_MAX = 16 << 20


@dataclass
class Weather:
    """How long things take, in seconds."""

    delay_min: float = 0.0005
    delay_max: float = 0.003
    spike_chance: float = 0.002
    spike_max: float = 0.3
    redial_min: float = 0.05
    redial_max: float = 0.25
    silence_min: float = 1.0
    silence_max: float = 4.0
    """After this long a cut is noticed and the connection given up."""
    notice_max: float = 0.3
    """How late an end may learn that its connection is broken."""


class Pipe:
    """One direction of a connection: frames in order, the first due when its time has come and the way is free."""

    def __init__(self, network: "Network", connection: "Connection", source: "SimTransport", target: "SimTransport"):
        self.network = network
        self.connection = connection
        self.source = source
        self.target = target
        self.queue: deque[tuple[float, bytes]] = deque()
        self.recent: deque[bytes] = deque(maxlen=4)
        self.bytes = 0
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def transmit(self, frame: bytes) -> None:
        if self.connection.broken:
            return
        self._due = max(self._due, self.network.now + self.network.delay())
        self.queue.append((self._due, frame))
        self.bytes += len(frame)
        self._arm()

    def stall(self, seconds: float) -> None:
        """What is under way arrives this much later."""
        self.queue = deque((due + seconds, frame) for due, frame in self.queue)
        self._due += seconds
        self._arm()

    def repeat(self, delay: float) -> None:
        """What replicas said last arrives once more, and they must bear it. Calls between brokers do not: no transport
        sends a frame twice, and a call has no other guard."""
        self._due = max(self._due, self.network.now + delay)
        for frame in list(self.recent):
            again = encode_messages([m for m in decode_messages(frame) if isinstance(m, GroupMessage)])
            self.queue.append((self._due, again))
            self.bytes += len(again)
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.queue and not self.connection.broken and not self.network.cut(self.source.me, self.target.me):
            self._timer = self.network.at(self.queue[0][0], self._deliver)

    resume = _arm

    def _deliver(self) -> None:
        self._timer = None
        if self.connection.broken or self.network.cut(self.source.me, self.target.me):
            return
        frame = self.queue.popleft()[1]
        self.bytes -= len(frame)
        self.recent.append(frame)
        self._arm()
        self.target.receive(self.connection, self.source, frame)


class Connection:
    """Between two lives of two nodes; each end forgets it when it learns that it is broken or replaced."""

    def __init__(self, network: "Network", dialler: "SimTransport", acceptor: "SimTransport") -> None:
        self.network = network
        self.broken = False
        self.ends = (dialler, acceptor)
        self.pipes = {
            dialler: Pipe(network, self, dialler, acceptor),
            acceptor: Pipe(network, self, acceptor, dialler),
        }

    def other(self, end: "SimTransport") -> "SimTransport":
        return self.ends[1] if end is self.ends[0] else self.ends[0]

    def break_off(self, notice_max: float | None = None) -> None:
        """All that is under way is lost; the ends learn of it one after the other."""
        if self.broken:
            return
        self.broken = True
        network = self.network
        network.connections.pop(self, None)
        for end in self.ends:
            latest = network.weather.notice_max if notice_max is None else notice_max
            network.at(network.now + network.random.uniform(0, latest), end.lost, self)


class SimTransport:
    """One node's transport for one life; implements `consensus.transport.Transport`."""

    def __init__(self, network: "Network", process: Process, me: Peer) -> None:
        self.network = network
        self.process = process
        self.peer = me
        self.me = me.node
        self.inbox: Inbox | None = None
        self.addresses: dict[int, str] = {}
        self.sought: list[str] = []
        self.links: dict[int, Connection] = {}
        self._dialling: set[str] = set()
        self._outbox: dict[int, list[Message]] = {}
        self._flushing = False

    @property
    def up(self) -> bool:
        return self.process.alive and self.inbox is not None

    # --- the Transport protocol -----------------------------------------------------------------------

    def send(self, node: int, message: Message) -> bool:
        link = self.links.get(node)
        if link is None or not self.up or link.pipes[self].bytes > UNSENT_BYTES_MAX:
            return False
        outbox = self._outbox.get(node)
        if outbox is None:
            outbox = self._outbox[node] = []
        outbox.append(message)
        if not self._flushing:
            self._flushing = True
            self.network.loop.call_soon(self._flush)
        return True

    def connected(self, node: int) -> Peer | None:
        link = self.links.get(node)
        return link.other(self).peer if link is not None else None

    def set_addresses(self, addresses: dict[int, str]) -> None:
        self.addresses = {node: address for node, address in addresses.items() if node != self.me}
        for node, link in list(self.links.items()):
            other = link.other(self)
            if node not in self.addresses and self.me not in other.addresses:
                link.break_off()
        self._dial_all()

    def seek(self, addresses: list[str]) -> None:
        self.sought = list(addresses)
        self._dial_all()

    def update_identity(self, cluster: str) -> None:
        mine = self.peer
        self.peer = Peer(mine.node, mine.uuid, mine.boot, mine.nonce, cluster, mine.address)

    async def start(self, inbox: Inbox) -> None:
        self.inbox = inbox
        self.network.listen(self)
        self._dial_all()

    async def stop(self) -> None:
        self.network.silence(self)
        self.inbox = None

    # --- called by the network ------------------------------------------------------------------------

    def _flush(self) -> None:
        self._flushing = False
        outbox, self._outbox = self._outbox, {}
        for node, messages in outbox.items():
            link = self.links.get(node)
            if link is not None:
                link.pipes[self].transmit(encode_messages(messages))

    def receive(self, connection: Connection, source: "SimTransport", frame: bytes) -> None:
        if not self.up:
            return
        assert self.inbox is not None
        messages = decode_messages(frame)
        self.network.observe(self.network.now, source.me, self.me, messages, frame)
        self.process.run(self.inbox.peer_messages, source.peer, messages)

    def established(self, connection: Connection) -> None:
        if not self.up or connection.broken:
            connection.break_off()
            return
        assert self.inbox is not None
        peer = connection.other(self).peer
        old = self.links.get(peer.node)
        if old is not None:
            self.process.run(self.inbox.peer_disconnected, old.other(self).peer)
        self.links[peer.node] = connection
        self.process.run(self.inbox.peer_connected, peer)

    def lost(self, connection: Connection) -> None:
        other = connection.other(self)
        if self.links.get(other.me) is not connection:
            return
        del self.links[other.me]
        if self.up:
            assert self.inbox is not None
            self.process.run(self.inbox.peer_disconnected, other.peer)
            self._dial_all()

    def _dial_all(self) -> None:
        """Dials whomever it wants and is not connected with; an attempt that fails repeats itself."""
        if self.up:
            wanted = [address for node, address in sorted(self.addresses.items()) if node not in self.links]
            linked = {link.other(self).peer.address for link in self.links.values()}
            wanted += [address for address in self.sought if address not in linked and address != self.peer.address]
            for address in wanted:
                if address not in self._dialling:
                    self._dialling.add(address)
                    self.network.dial(self, address)

    def dial_ended(self, address: str) -> None:
        self._dialling.discard(address)
        self._dial_all()


class Network:
    """Everything between the nodes of one run. `observe` sees each frame as it is delivered."""

    def __init__(self, loop: VirtualLoop, random: Random, weather: Weather) -> None:
        self.loop = loop
        self.random = random
        self.weather = weather
        self.connections: dict[Connection, None] = {}
        self.cuts: set[tuple[int, int]] = set()
        self.listening: dict[str, SimTransport] = {}
        self.observe: Callable[[float, int, int, list[Message], bytes], None] = lambda *_: None
        self._context = contextvars.Context()

    @property
    def now(self) -> float:
        return self.loop.time()

    def at(self, when: float, callback: Callable[..., object], *args: object) -> asyncio.TimerHandle:
        """Timers of the network belong to no node's life."""
        return self.loop.call_at(when, callback, *args, context=self._context)

    def delay(self) -> float:
        weather, random = self.weather, self.random
        if random.random() < weather.spike_chance:
            return random.uniform(weather.delay_max, weather.spike_max)
        return random.uniform(weather.delay_min, weather.delay_max)

    # --- connections ----------------------------------------------------------------------------------

    def listen(self, transport: SimTransport) -> None:
        self.listening[transport.peer.address] = transport

    def silence(self, transport: SimTransport) -> None:
        """The node is gone, killed or stopped: its connections break."""
        if self.listening.get(transport.peer.address) is transport:
            del self.listening[transport.peer.address]
        for connection in list(self.connections):
            if transport in connection.ends:
                connection.break_off()

    def dial(self, dialler: SimTransport, address: str) -> None:
        self.at(self.now + 2 * self.delay(), self._dialled, dialler, address)

    def _dialled(self, dialler: SimTransport, address: str) -> None:
        acceptor = self.listening.get(address)
        if not dialler.up:
            return
        if acceptor is not None and acceptor.up and acceptor is not dialler and not self._parted(dialler, acceptor):
            if acceptor.me in dialler.links and not dialler.links[acceptor.me].broken:
                dialler.dial_ended(address)
                return
            if self._agreed(dialler, acceptor, address):
                self.connect(dialler, acceptor)
                self.at(self.now + self.weather.redial_max, dialler.dial_ended, address)
                return
        pause = self.random.uniform(self.weather.redial_min, self.weather.redial_max)
        self.at(self.now + pause, dialler.dial_ended, address)

    def _parted(self, one: SimTransport, other: SimTransport) -> bool:
        return (one.me, other.me) in self.cuts or (other.me, one.me) in self.cuts

    def _agreed(self, dialler: SimTransport, acceptor: SimTransport, address: str) -> bool:
        """Each end says whether it talks with the other; the refused one is told."""
        assert dialler.inbox is not None
        assert acceptor.inbox is not None
        reason = acceptor.process.run(acceptor.inbox.peer_allowed, dialler.peer)
        if reason is not None:
            dialler.process.run(dialler.inbox.refused_by, acceptor.me, address, reason)
            return False
        reason = dialler.process.run(dialler.inbox.peer_allowed, acceptor.peer)
        if reason is not None and acceptor.up:
            acceptor.process.run(acceptor.inbox.refused_by, dialler.me, dialler.peer.address, reason)
        return reason is None and dialler.up and acceptor.up

    def connect(self, dialler: SimTransport, acceptor: SimTransport) -> None:
        """A connection more; one that was there before has its last frames late, some of them twice, then ends."""
        connection = Connection(self, dialler, acceptor)
        for old in [c for c in self.connections if dialler in c.ends and acceptor in c.ends]:
            if self.random.random() < 0.5:
                for pipe in old.pipes.values():
                    pipe.stall(self.random.uniform(0, 0.8))
                    if self.random.random() < 0.5:
                        pipe.repeat(self.random.uniform(0, 0.8))
            self.at(self.now + self.random.uniform(0.8, 2.0), old.break_off)
        self.connections[connection] = None
        first, second = connection.ends if self.random.random() < 0.5 else connection.ends[::-1]
        first.established(connection)
        self.at(self.now + self.delay(), second.established, connection)

    # --- faults ---------------------------------------------------------------------------------------

    def cut(self, source: int, target: int) -> bool:
        return (source, target) in self.cuts

    def block(self, source: int, target: int) -> None:
        """Nothing passes from source to target; a connection that stays cut for long is given up."""
        self.cuts.add((source, target))
        for connection in self.connections:
            if {end.me for end in connection.ends} == {source, target}:
                patience = self.random.uniform(self.weather.silence_min, self.weather.silence_max)
                self.at(self.now + patience, self._give_up, connection)

    def _give_up(self, connection: Connection) -> None:
        if self._parted(*connection.ends):
            connection.break_off()

    def unblock(self, source: int, target: int) -> None:
        self.cuts.discard((source, target))
        for connection in list(self.connections):
            for pipe in connection.pipes.values():
                pipe.resume()

    def heal(self) -> None:
        for source, target in sorted(self.cuts):
            self.unblock(source, target)

    def isolate(self, node: int, others: list[int]) -> None:
        for other in others:
            if other != node:
                self.block(node, other)
                self.block(other, node)

    def break_some(self) -> None:
        """One connection breaks, with the loss of what was under way."""
        if self.connections:
            self.random.choice(list(self.connections)).break_off()

    def duplicate_some(self) -> None:
        """Two connected nodes get a second connection, dialled from either end."""
        if self.connections:
            ends = self.random.choice(list(self.connections)).ends
            one, other = ends if self.random.random() < 0.5 else ends[::-1]
            if one.up and other.up and not self._parted(one, other):
                self.connect(one, other)
