"""What the deliveries of webhooks share: means, turns, and how each one fares."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec

from raftbroker.broker.consumer_groups import ConsumerGroups
from raftbroker.broker.context import Context
from raftbroker.broker.fetch import Fetcher
from raftbroker.broker.offsets import Offsets
from raftbroker.broker.queues import Queues
from raftbroker.broker.webhook_delivery import MESSAGE_CHARACTERS_MAX, Sender, back_off
from raftbroker.state.webhooks import Webhook

TURNS_MAX = 32
"""Deliveries that hold records in memory at once, on one node."""
TURNS_PER_WEBHOOK = 8
QUEUE = -1
"""The partition of a delivery from a queue."""
WEBHOOK_HEADER = "X-Raftbroker-Webhook"
DELIVERY_HEADER = "X-Raftbroker-Delivery"
"""The same for every attempt at the same records: receivers recognise repetitions by it."""
ATTEMPT_HEADER = "X-Raftbroker-Attempt"


@dataclass(frozen=True)
class Means:
    """What a delivery works with."""

    context: Context
    fetcher: Fetcher
    offsets: Offsets
    groups: ConsumerGroups
    queues: Queues
    sender: Sender


class RunStatus(msgspec.Struct, array_like=True):
    """How one delivery fares, since this node took it over. Times are epoch ms; 0 for never."""

    webhook: str
    """Its id."""
    partition: int
    node: int
    delivered: int = 0
    """Records or messages that the receiver has taken."""
    dead: int = 0
    """Given up, to the dead-letter queue."""
    skipped: int = 0
    """Offsets that retention deleted before they were delivered."""
    failures: int = 0
    """In a row; 0 once the receiver has taken something."""
    last_error: str = ""
    last_error_ms: int = 0
    last_success_ms: int = 0


class Progress:
    """Keeps a status, and says how long to pause."""

    def __init__(self, context: Context, webhook: Webhook, partition: int) -> None:
        self._context = context
        self._webhook = webhook
        self.status = RunStatus(webhook.id, partition, context.me)

    def taken(self, count: int) -> None:
        self.status.delivered += count
        self.status.failures = 0
        self.status.last_success_ms = self._context.wall()

    def failed(self, error: Exception) -> None:
        self.status.failures += 1
        self.note(str(error) or type(error).__name__)

    def note(self, text: str) -> None:
        self.status.last_error = text[:MESSAGE_CHARACTERS_MAX]
        self.status.last_error_ms = self._context.wall()

    async def pause(self, failures: int = 0) -> None:
        """After so many failures in a row; as many as the status says, unless it is given."""
        webhook = self._webhook
        drawn = self._context.random.random()
        failures = max(1, failures or self.status.failures)
        await asyncio.sleep(back_off(failures, webhook.backoff_ms / 1000, webhook.backoff_ms_max / 1000, drawn))


class Turns:
    """Bounds how many deliveries hold records at once: on the node, and of each webhook, so that one whose receiver is
    slow leaves room for others."""

    def __init__(self) -> None:
        self._all = asyncio.Semaphore(TURNS_MAX)
        self._own: dict[str, asyncio.Semaphore] = {}

    @asynccontextmanager
    async def of(self, webhook: str) -> AsyncIterator[None]:
        async with self._own.setdefault(webhook, asyncio.Semaphore(TURNS_PER_WEBHOOK)), self._all:
            yield

    def forget(self, webhook: str) -> None:
        self._own.pop(webhook, None)
