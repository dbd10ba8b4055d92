"""What nodes ask of each other: typed calls over `Rpc`, as msgpack arrays.

A method's version is part of its name ("produce.1"): a body never changes its meaning, a new one gets a new name.
Every answer says which of four things happened: a result, an error for the caller's caller, a refusal (certainly
nothing was done: ask the leader it names, or ask again), or that the outcome is unknown.

A request carries `control`, the index its sender's control state has reached, so that a receiver whose state lags
waits for it instead of answering wrongly that something does not exist.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

import msgspec

from consensus.errors import Busy, ConsensusError, NotLeader, Refused, StoreFull, Unknown
from consensus.model import Member
from consensus.rpc import RemoteError
from consensus.transport import Peer
from raftbroker.broker.errors import BrokerError, Internal, StorageFull, WireError, from_wire, to_wire
from raftbroker.broker.views import Fetched, OffsetsView, Produced, ReplicaView, TimestampOffset

log = logging.getLogger(__name__)

Q = TypeVar("Q")
A = TypeVar("A")


class Refusal(msgspec.Struct, frozen=True, array_like=True):
    """Certainly nothing was done. `misrouted`: because the node asked does not lead; `leader` is who may."""

    misrouted: bool
    group: int
    leader: int | None
    reason: str


class Answer(msgspec.Struct, Generic[A], frozen=True, array_like=True):
    """Exactly one of `error`, `refusal` and `unknown` is set, or else the result counts."""

    result: A | None = None
    error: WireError | None = None
    refusal: Refusal | None = None
    unknown: str | None = None


class CallRpc(Protocol):
    """What this layer uses of `consensus.rpc.Rpc`."""

    def register(self, method: str, handler: Callable[[Peer, bytes], Awaitable[bytes]]) -> None: ...

    async def call(self, node: int, method: str, body: bytes, timeout: float) -> bytes: ...


class Method(Generic[Q, A]):
    """One call's name and the types of its two ends."""

    def __init__(self, name: str, question: type[Q], answer: "type[Answer[A]]") -> None:
        self.name = name
        self.decode_question = msgspec.msgpack.Decoder(question).decode
        self.decode_answer = msgspec.msgpack.Decoder(answer).decode


_encode = msgspec.msgpack.Encoder().encode

UNDER_WAY_MAX = 900
"""Calls to one node at once, below what a node runs for one peer, so that it need not refuse any."""


class Calls:
    """Serves and makes typed calls."""

    def __init__(self, rpc: CallRpc) -> None:
        self._rpc = rpc
        self._under_way: Counter[int] = Counter()

    def serve(self, method: Method[Q, A], handler: Callable[[Q], Awaitable[A]]) -> None:
        async def answer(peer: Peer, body: bytes) -> bytes:
            return _encode(await _outcome(method, handler, body))

        self._rpc.register(method.name, answer)

    async def call(self, node: int, method: Method[Q, A], question: Q, timeout: float) -> A:
        """Raises what the handler decided: a BrokerError, NotLeader or another Refused, or Unknown; and what `Rpc`
        raises: Unreachable (a Refused), CallUnknown (an Unknown). Busy where too many calls to the node are under way.
        """
        if self._under_way[node] >= UNDER_WAY_MAX:
            raise Busy(f"{UNDER_WAY_MAX} calls to node {node} are under way already")
        self._under_way[node] += 1
        try:
            body = await self._rpc.call(node, method.name, _encode(question), timeout)
        except RemoteError as error:
            if error.kind == "UnknownMethod":
                raise Refused(f"node {node} does not know {method.name}: it runs an older version") from error
            raise Unknown(f"node {node} failed in {method.name}: {error}") from error
        finally:
            self._under_way[node] -= 1
        answer: Answer[A] = method.decode_answer(body)
        if answer.error is not None:
            raise from_wire(answer.error)
        if answer.refusal is not None:
            refusal = answer.refusal
            if refusal.misrouted:
                raise NotLeader(refusal.group, refusal.leader)
            raise Refused(refusal.reason)
        if answer.unknown is not None:
            raise Unknown(answer.unknown)
        return answer.result  # type: ignore[return-value]  # None only where the method answers with None


async def _outcome(method: Method[Q, A], handler: Callable[[Q], Awaitable[A]], body: bytes) -> Answer[A]:
    try:
        return Answer(await handler(method.decode_question(body)))
    except BrokerError as error:
        return Answer(error=to_wire(error))
    except NotLeader as error:
        return Answer(refusal=Refusal(True, error.group, error.leader, str(error)))
    except StoreFull as error:
        return Answer(error=to_wire(StorageFull(str(error))))
    except Refused as error:
        return Answer(refusal=Refusal(False, 0, None, str(error)))
    except Unknown as error:
        return Answer(unknown=str(error))
    except (ConsensusError, msgspec.DecodeError) as error:
        log.exception("call %s failed", method.name)
        return Answer(error=to_wire(Internal(f"{type(error).__name__}: {error}")))


# --- records ----------------------------------------------------------------------------------------------


class PartitionRequest(msgspec.Struct, frozen=True, array_like=True):
    """The fields every request about a partition begins with. `partition` is its id, never used again."""

    control: int
    group: int
    partition: int
    timeout: float


class ProduceRequest(PartitionRequest, frozen=True, array_like=True):
    batch: bytes
    key: bytes
    """The idempotency key, 16 bytes; empty for none."""
    fingerprint: int


class FetchRequest(PartitionRequest, frozen=True, array_like=True):
    offset: int
    bytes_max: int
    bytes_min: int
    wait: float
    committed: bool = False
    """Nothing of transactions that are open."""


class OffsetsRequest(PartitionRequest, frozen=True, array_like=True):
    pass


class TimestampRequest(PartitionRequest, frozen=True, array_like=True):
    timestamp: int


class DeleteRecordsRequest(PartitionRequest, frozen=True, array_like=True):
    before: int


PRODUCE = Method("produce.1", ProduceRequest, Answer[Produced])
FETCH = Method("fetch.1", FetchRequest, Answer[Fetched])
OFFSETS = Method("offsets.1", OffsetsRequest, Answer[OffsetsView])
TIMESTAMP = Method("offset_for_timestamp.1", TimestampRequest, Answer[TimestampOffset | None])
DELETE_RECORDS = Method("delete_records.1", DeleteRecordsRequest, Answer[int])


# --- the control group --------------------------------------------------------------------------------------


class ReadIndexRequest(msgspec.Struct, frozen=True, array_like=True):
    timeout: float


class RegisterRequest(msgspec.Struct, frozen=True, array_like=True):
    node: int
    uuid: str
    peer: str
    http: str
    kafka: str
    feature: int
    timeout: float


class CreateTopicRequest(msgspec.Struct, frozen=True, array_like=True):
    """`topic_id` is made by the asker, so that a repeated request recognises its own topic."""

    name: str
    topic_id: str
    partitions: int
    replication_factor: int
    """0: as many as the default says, lowered to the number of live nodes."""
    configs: dict[str, str]
    validate_only: bool
    timeout: float


class DeleteTopicRequest(msgspec.Struct, frozen=True, array_like=True):
    topic_id: str
    timeout: float


class GrowTopicRequest(msgspec.Struct, frozen=True, array_like=True):
    topic_id: str
    total: int
    validate_only: bool
    timeout: float


class AlterConfigsRequest(msgspec.Struct, frozen=True, array_like=True):
    topic_id: str
    changes: dict[str, str | None]
    timeout: float
    expected: dict[str, str | None] = {}
    """What configs have to be for the change to be made: a value, set or by default; None: not set."""


READ_INDEX = Method("control.read_index.1", ReadIndexRequest, Answer[int])
REGISTER = Method("register.1", RegisterRequest, Answer[int])
"""To any node, which passes it on: a node that joins knows only whom it is connected with."""
REGISTER_HERE = Method("control.register.1", RegisterRequest, Answer[int])
CREATE_TOPIC = Method("control.create_topic.1", CreateTopicRequest, Answer[int])
DELETE_TOPIC = Method("control.delete_topic.1", DeleteTopicRequest, Answer[int])
GROW_TOPIC = Method("control.grow_topic.1", GrowTopicRequest, Answer[int])
ALTER_CONFIGS = Method("control.alter_configs.1", AlterConfigsRequest, Answer[int])


# --- groups -------------------------------------------------------------------------------------------------


class GroupRequest(msgspec.Struct, frozen=True, array_like=True):
    control: int
    group: int
    timeout: float


class ChangeRequest(msgspec.Struct, frozen=True, array_like=True):
    """One step of a group's membership: `action` is "learn", "promote" or "remove"."""

    group: int
    action: str
    member: Member
    timeout: float


class TransferRequest(msgspec.Struct, frozen=True, array_like=True):
    group: int
    target: int | None
    timeout: float


class DroppedRequest(msgspec.Struct, frozen=True, array_like=True):
    """The group's leader tells the control leader that these partitions' records are gone."""

    group: int
    partitions: tuple[int, ...]
    timeout: float


class ReportRequest(msgspec.Struct, frozen=True, array_like=True):
    pass


class GroupReport(msgspec.Struct, frozen=True, array_like=True):
    """One node's word on one of its replicas. `followers` are known by a leader only."""

    group: int
    leader: Member | None
    leading: bool
    voters: tuple[Member, ...]
    learners: tuple[Member, ...]
    replica: ReplicaView
    caught_up: tuple[Member, ...]
    """The leader's view: the members whose logs are close to its own and that answer."""


class NodeReport(msgspec.Struct, frozen=True, array_like=True):
    node: int
    uuid: str
    control_applied: int
    wall_ms: int
    groups: tuple[GroupReport, ...]


GROUP_READY = Method("group.ready.1", GroupRequest, Answer[int])
CHANGE = Method("group.change.1", ChangeRequest, Answer[int])
TRANSFER = Method("group.transfer.1", TransferRequest, Answer[int])
DROPPED = Method("control.dropped.1", DroppedRequest, Answer[int])
REPORT = Method("report.1", ReportRequest, Answer[NodeReport])
RESET = Method("group.reset.1", GroupRequest, Answer[bool])
CLOCK = Method("clock.1", ReportRequest, Answer[int])
