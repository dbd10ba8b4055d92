"""One queue, "orders", with one message, "4711"; it answers the same whatever is asked of it."""

from collections.abc import Mapping, Sequence

from raftbroker.broker.errors import UnknownMessage, UnknownQueue
from raftbroker.broker.queue_views import (
    MessageDraft,
    MessageFate,
    QueueInfo,
    ReceivedMessage,
    SentMessage,
    SettledToken,
)
from raftbroker.broker.queues import RECEIVE_BYTES_DEFAULT, Queues
from raftbroker.state.queues.config import ConfigValue, QueueConfig, shown

INFO = QueueInfo("orders", shown(QueueConfig()), 0, 1, 1, *[0] * 6, 64, 5, 1, *[0] * 7, 0.1, 0.0, 0.0)
MESSAGE = ReceivedMessage("4711", b'"tea"', True, "customer-7", (), 5, 1, "1267-1-0123456789abcdef", 9, None)


class StandInQueues(Queues):
    def __init__(self) -> None:
        pass

    def _check(self, name: str) -> None:
        if name != "orders":
            raise UnknownQueue(f"there is no queue {name!r}: PUT /queues/{name} makes it", field="queue")

    async def put(
        self, name: str, changes: Mapping[str, ConfigValue], *, timeout: float = 15.0
    ) -> tuple[QueueInfo, bool]:
        return INFO, name != "orders"

    async def get(self, name: str, *, timeout: float = 10.0) -> QueueInfo:
        self._check(name)
        return INFO

    async def list_queues(self, *, timeout: float = 10.0) -> list[QueueInfo]:
        return [INFO]

    async def delete(self, name: str, *, timeout: float = 15.0) -> int:
        self._check(name)
        return 1

    async def purge(self, name: str, *, timeout: float = 15.0) -> int:
        self._check(name)
        return 1

    def infos(self) -> list[QueueInfo]:
        return [INFO]

    async def send(
        self,
        name: str,
        drafts: Sequence[MessageDraft],
        *,
        idempotency_key: str | None = None,
        timeout: float = 30.0,
    ) -> list[SentMessage]:
        self._check(name)
        return [SentMessage("4711", False) for _ in drafts]

    async def receive(
        self,
        name: str,
        *,
        consumer: str,
        count: int = 1,
        wait: float = 0.0,
        lock_ms: int = 0,
        bytes_max: int = RECEIVE_BYTES_DEFAULT,
        timeout: float = 30.0,
    ) -> list[ReceivedMessage]:
        self._check(name)
        return [MESSAGE]

    async def peek(self, name: str, count: int, *, dead: bool = False, timeout: float = 10.0) -> list[ReceivedMessage]:
        self._check(name)
        return [MESSAGE]

    async def fate(
        self, name: str, id_: str, *, wait: float = 0.0, known: str = "", timeout: float = 10.0
    ) -> MessageFate:
        self._check(name)
        if id_ != "4711":
            raise UnknownMessage(f"queue {name} knows of no message {id_}", field="id")
        return MessageFate(name, id_, "waiting", 0)

    async def acknowledge(self, name: str, tokens: Sequence[str], *, timeout: float = 30.0) -> list[SettledToken]:
        self._check(name)
        return [SettledToken(token) for token in tokens]

    async def release(
        self, name: str, tokens: Sequence[str], *, delay_ms: int = 0, timeout: float = 30.0
    ) -> list[SettledToken]:
        return await self.acknowledge(name, tokens)

    async def reject(
        self, name: str, tokens: Sequence[str], *, reason: str = "", timeout: float = 30.0
    ) -> list[SettledToken]:
        return await self.acknowledge(name, tokens)

    async def extend(
        self, name: str, tokens: Sequence[str], *, lock_ms: int = 0, timeout: float = 30.0
    ) -> list[SettledToken]:
        return await self.acknowledge(name, tokens)

    async def redrive(
        self, name: str, *, count: int | None = None, source: str | None = None, timeout: float = 30.0
    ) -> int:
        self._check(name)
        return 0
