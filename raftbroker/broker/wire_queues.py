"""What nodes ask of the leader of a queue's shard, beyond ops: to wait for messages, and to look at what is there."""

import msgspec

from raftbroker.broker.queue_views import MessageFate, QueueInfo
from raftbroker.broker.wire import Answer, Method


class QueueRequest(msgspec.Struct, frozen=True, array_like=True):
    """The fields that every one begins with; `queue` is empty where a whole shard is asked."""

    control: int
    group: int
    timeout: float
    queue: str


class ReceiveRequest(QueueRequest, frozen=True, array_like=True):
    consumer: str
    messages_max: int
    bytes_max: int
    lock_ms: int
    wait: float
    """Seconds for the first message."""
    nonce: int


class LentMessage(msgspec.Struct, frozen=True, array_like=True):
    """A message and its content; `nonce` 0 where it was only looked at."""

    number: int
    deliveries: int
    nonce: int
    until: int
    """Of the lock, epoch ms."""
    content: bytes


class LentMessages(msgspec.Struct, frozen=True, array_like=True):
    messages: tuple[LentMessage, ...]


class PeekRequest(QueueRequest, frozen=True, array_like=True):
    messages_max: int
    bytes_max: int
    dead: bool


class FateRequest(QueueRequest, frozen=True, array_like=True):
    number: int
    known: str
    """The state the asker knows of: another one is waited for; empty: that which it is in now."""
    wait: float


class QueueInfos(msgspec.Struct, frozen=True, array_like=True):
    queues: tuple[QueueInfo, ...]


QUEUE_RECEIVE = Method("queue.receive.1", ReceiveRequest, Answer[LentMessages])
QUEUE_PEEK = Method("queue.peek.1", PeekRequest, Answer[LentMessages])
QUEUE_FATE = Method("queue.fate.1", FateRequest, Answer[MessageFate])
QUEUE_GET = Method("queue.get.1", QueueRequest, Answer[QueueInfo])
QUEUE_LIST = Method("queue.list.1", QueueRequest, Answer[QueueInfos])
