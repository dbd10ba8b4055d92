"""What an API of Kafka's protocol is here: its versions, its codec, its handler. One `Api` a file under `handlers/`.

A handler is `async def handle(context, request) -> answer | None`. It is given a decoded request and gives back what
its codec encodes; None is no answer at all (Produce with acks=0). It answers errors of the broker with Kafka's codes
(`errors.code_of`); an exception that leaves it is a fault of ours: logged, and the connection is closed.

**Order.** Requests of one connection are begun in the order they came, and answered in that order. The next one
begins when the one before has ended, or earlier, when its handler calls `request.pass_turn()`: Produce does as soon as
the order of its batches is certain, so that a client may have several under way.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from raftbroker.kafka.answers import Parts as Parts
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.errors import BrokenFrame
from raftbroker.kafka.reader import UNSOUND

Q = TypeVar("Q")
R = TypeVar("R")


class Connection:
    """What a handler may know of the connection a request came on."""

    __slots__ = ("id", "peer")

    def __init__(self, number: int, peer: str) -> None:
        self.id = number
        """Unique while this process runs."""
        self.peer = peer
        """The client's address, without its port."""


class Request(Generic[Q]):
    """One request in hand."""

    __slots__ = ("_pass_turn", "body", "client_id", "connection", "correlation_id", "key", "version")

    def __init__(
        self,
        key: int,
        version: int,
        correlation_id: int,
        client_id: str | None,
        connection: Connection,
        body: Q,
        pass_turn: Callable[[], None] | None = None,
    ) -> None:
        self.key = key
        self.version = version
        self.correlation_id = correlation_id
        self.client_id = client_id
        self.connection = connection
        self.body = body
        self._pass_turn = pass_turn

    def pass_turn(self) -> None:
        """Lets the next request of this connection begin; answers keep their order all the same."""
        if self._pass_turn is not None:
            self._pass_turn()
            self._pass_turn = None


@dataclass(frozen=True, slots=True)
class Codec(Generic[Q, R]):
    """How an API's messages are read and written. `codec.messages` makes one of kafka-python's definitions; Produce and
    Fetch have their own."""

    flexible_from: int
    """The first version with compact lengths and tagged fields, also in the headers (but see ApiVersions)."""
    decode: Callable[[memoryview, int], Q]
    """(body without header, version) -> request. Raises BrokenFrame or what `reader.UNSOUND` lists, nothing else."""
    encode: Callable[[R, int], Parts]
    """(answer, version) -> its bytes, without header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Api(Generic[Q, R]):
    key: int
    name: str
    min_version: int
    max_version: int
    codec: Codec[Q, R]
    handle: Callable[[KafkaContext, Request[Q]], Awaitable[R | None]]
    advertise_min: int | None = None
    """Where ApiVersions says another lowest version than is served."""
    abandon: bool = False
    """Whether the handler is cancelled when its client goes away: for those that only wait and read."""

    def decode(self, body: memoryview, version: int) -> Q:
        """Raises BrokenFrame."""
        try:
            return self.codec.decode(body, version)
        except (BrokenFrame, *UNSOUND) as error:
            raise BrokenFrame(f"its {self.name} request (version {version}) is not sound: {error}") from error
