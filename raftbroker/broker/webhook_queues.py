"""The delivery of a queue's messages to a webhook, on the node that leads the queue's shard.

A consumer of the queue like any other: messages are received under a lock that outlasts the request, acknowledged once
the receiver has taken them, given back with a growing delay where it has not, and rejected, to the queue's own
dead-letter queue, after `attempts` deliveries. So no message is with two deliveries at once, whatever runs where.
"""

import asyncio
from collections.abc import Sequence

from consensus.errors import ConsensusError
from raftbroker.broker.errors import BrokerError
from raftbroker.broker.queue_views import ReceivedMessage
from raftbroker.broker.webhook_bodies import BATCH_BYTES_MAX, messages_body
from raftbroker.broker.webhook_delivery import Undelivered, back_off
from raftbroker.broker.webhook_runs import (
    ATTEMPT_HEADER,
    DELIVERY_HEADER,
    QUEUE,
    WEBHOOK_HEADER,
    Means,
    Progress,
)
from raftbroker.state.queues.messages import REASON_CHARACTERS_MAX
from raftbroker.state.webhooks import Webhook

WAIT_SECONDS = 20.0
SETTLE_SECONDS = 15.0
"""How long settling may take; the lock outlasts the request by it."""


class QueueRun:
    def __init__(self, means: Means, webhook: Webhook) -> None:
        self._means = means
        self._webhook = webhook
        self.progress = Progress(means.context, webhook, QUEUE)

    async def run(self) -> None:
        """For as long as this node leads the queue's shard; whoever started it cancels it."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._webhook.concurrency):
                group.create_task(self._work())

    async def _work(self) -> None:
        failures = 0
        while True:
            try:
                taken = await self._step()
            except (ConsensusError, BrokerError) as error:
                self.progress.failed(error)
                taken = False
            failures = 0 if taken else failures + 1
            if failures:
                await self.progress.pause(failures)

    async def _step(self) -> bool:
        """Receives and delivers; False where the receiver did not take it."""
        webhook = self._webhook
        messages = await self._means.queues.receive(
            webhook.queue,
            consumer=webhook.group,
            count=webhook.batch_size,
            wait=WAIT_SECONDS,
            lock_ms=webhook.timeout_ms + int(SETTLE_SECONDS * 1000),
            bytes_max=BATCH_BYTES_MAX,
        )
        if not messages:
            return True
        tokens = [message.lock_token for message in messages]
        try:
            await self._post(messages)
        except Undelivered as error:
            self.progress.failed(error)
            await self._give_back(messages, error)
            return False
        self.progress.taken(len(messages))
        await self._means.queues.acknowledge(webhook.queue, tokens, timeout=SETTLE_SECONDS)
        return True

    async def _post(self, messages: Sequence[ReceivedMessage]) -> None:
        webhook = self._webhook
        attempt = max(message.delivery_count for message in messages)
        await self._means.sender.send(
            webhook.url,
            messages_body(webhook, messages),
            secret=webhook.secret,
            timeout=webhook.timeout_ms / 1000,
            headers={
                WEBHOOK_HEADER: webhook.name,
                DELIVERY_HEADER: f"{webhook.id}-{messages[0].lock_token}",
                ATTEMPT_HEADER: str(attempt),
            },
        )

    async def _give_back(self, messages: Sequence[ReceivedMessage], error: Undelivered) -> None:
        """Each with the delay that its own number of deliveries asks for."""
        webhook, drawn = self._webhook, self._means.context.random.random()
        given_up: list[str] = []
        delayed: dict[int, list[str]] = {}
        for message in messages:
            if message.delivery_count >= webhook.attempts:
                given_up.append(message.lock_token)
            else:
                seconds = back_off(
                    message.delivery_count, webhook.backoff_ms / 1000, webhook.backoff_ms_max / 1000, drawn
                )
                delayed.setdefault(int(seconds * 1000), []).append(message.lock_token)
        if given_up:
            reason = f"webhook {webhook.name}: {error}"[:REASON_CHARACTERS_MAX]
            await self._means.queues.reject(webhook.queue, given_up, reason=reason, timeout=SETTLE_SECONDS)
            self.progress.status.dead += len(given_up)
        for delay_ms, tokens in delayed.items():
            await self._means.queues.release(webhook.queue, tokens, delay_ms=delay_ms, timeout=SETTLE_SECONDS)
