"""Webhooks from any node: made, changed, paused, resumed, deleted, and shown with how their deliveries fare.

Their definitions are in the control group; a change goes through its leader, in turn with all others. Secrets go in
and never come out: what is answered is a `WebhookInfo`, which has none.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence

import msgspec

from consensus.errors import ConsensusError, Refused
from raftbroker.broker.consumer_groups import ConsumerGroups
from raftbroker.broker.context import CONTROL, WEBHOOKS_FEATURE, Context
from raftbroker.broker.controller import Controller
from raftbroker.broker.errors import (
    BrokerError,
    InvalidRequest,
    Unavailable,
    UnknownConsumerGroup,
    UnknownOutcome,
    UnknownWebhook,
)
from raftbroker.broker.fetch import Fetcher
from raftbroker.broker.group_positions import GroupPositions, PartitionLag
from raftbroker.broker.offsets import Offsets
from raftbroker.broker.queue_rules import check_queue_name
from raftbroker.broker.queues import Queues
from raftbroker.broker.routing import Mode, Router
from raftbroker.broker.shards import Shards
from raftbroker.broker.topics import Topics
from raftbroker.broker.webhook_delivery import Sender
from raftbroker.broker.webhook_runners import Runners
from raftbroker.broker.webhook_runs import Means, RunStatus
from raftbroker.broker.webhook_wire import (
    DELETE_WEBHOOK,
    PUT_WEBHOOK,
    WEBHOOK_STATUS,
    DeleteWebhookRequest,
    PutWebhookRequest,
    WebhookStatuses,
    WebhookStatusRequest,
)
from raftbroker.broker.wire import Calls
from raftbroker.state.control_commands import ControlCommand, DeleteWebhook, PutWebhook
from raftbroker.state.webhooks import SOURCES, STARTS_MAX, Change, InvalidWebhook, Webhook, changed, check_name

log = logging.getLogger(__name__)

STATUS_SECONDS = 1.0
AT_ONCE = 16
"""Webhooks whose lags are asked for at a time."""


class WebhookInfo(msgspec.Struct, frozen=True):
    """A webhook, but for its secret."""

    webhook: Webhook
    """With an empty secret."""
    runs: tuple[RunStatus, ...]
    """One for each delivery that a node told of."""
    lags: tuple[PartitionLag, ...] | None
    """Of a topic's partitions; None where that is not known now."""
    depth: int | None
    """Of the queue, where that is the source and known."""

    @property
    def lag(self) -> int | None:
        """Records or messages that are still to be delivered; None while not known."""
        if self.webhook.queue:
            return self.depth
        if self.lags is None or any(item.lag is None for item in self.lags):
            return None
        return sum(item.lag or 0 for item in self.lags)

    @property
    def last(self) -> RunStatus | None:
        """The delivery whose error is the newest."""
        failed = [run for run in self.runs if run.last_error_ms]
        return max(failed, key=lambda run: run.last_error_ms, default=None)

    @property
    def state(self) -> str:
        if self.webhook.paused:
            return "paused"
        if not self.runs:
            return "waiting"
        return "failing" if any(run.failures for run in self.runs) else "running"


class Webhooks:
    def __init__(
        self,
        context: Context,
        router: Router,
        controller: Controller,
        topics: Topics,
        shards: Shards,
        fetcher: Fetcher,
        offsets: Offsets,
        groups: ConsumerGroups,
        positions: GroupPositions,
        queues: Queues,
    ) -> None:
        self._context = context
        self._router = router
        self._controller = controller
        self._topics = topics
        self._fetcher = fetcher
        self._offsets = offsets
        self._groups = groups
        self._positions = positions
        self._queues = queues
        self.sender: Sender | None = None
        """Sends to receivers, where whoever composes the node hands one in; without one nothing is delivered here."""
        self.runners = Runners(context, shards, self._means)

    def serve(self, calls: Calls) -> None:
        calls.serve(PUT_WEBHOOK, self.put_here)
        calls.serve(DELETE_WEBHOOK, self.delete_here)
        calls.serve(WEBHOOK_STATUS, self.status_here)

    def _means(self) -> Means | None:
        if self.sender is None:
            return None
        return Means(self._context, self._fetcher, self._offsets, self._groups, self._queues, self.sender)

    # --- looking ------------------------------------------------------------------------------------------

    async def get(self, name: str, *, timeout: float = 10.0) -> WebhookInfo:
        await self._topics.barrier(timeout)
        webhook = self._known(name)
        return await self._info(webhook, await self._statuses(webhook.id), timeout)

    async def list_webhooks(self, *, timeout: float = 10.0) -> list[WebhookInfo]:
        """By name."""
        await self._topics.barrier(timeout)
        runs = await self._statuses("")
        turn = asyncio.Semaphore(AT_ONCE)

        async def one(webhook: Webhook) -> WebhookInfo:
            async with turn:
                return await self._info(webhook, runs, timeout)

        return list(await asyncio.gather(*map(one, self._context.control.webhooks())))

    def local(self) -> list[tuple[str, RunStatus]]:
        """Each delivery that runs on this node, with its webhook's name; asks nobody."""
        names = {webhook.id: webhook.name for webhook in self._context.control.webhooks()}
        return sorted(
            ((names.get(run.webhook, ""), run) for run in self.runners.statuses()),
            key=lambda item: (item[0], item[1].partition),
        )

    def _known(self, name: str) -> Webhook:
        webhook = self._context.control.webhook(name)
        if webhook is None:
            raise UnknownWebhook(f"there is no webhook {name[:200]}", field="webhook")
        return webhook

    async def _info(self, webhook: Webhook, runs: Sequence[RunStatus], timeout: float) -> WebhookInfo:
        own = tuple(sorted((run for run in runs if run.webhook == webhook.id), key=lambda run: run.partition))
        shown = msgspec.structs.replace(webhook, secret="")
        lags: tuple[PartitionLag, ...] | None = None
        depth: int | None = None
        try:
            if webhook.queue:
                depth = (await self._queues.get(webhook.queue, timeout=timeout)).depth
            else:
                lags = tuple(await self._positions.lag(webhook.group, timeout=timeout))
        except UnknownConsumerGroup:
            lags = None
        except BrokerError:  # it is shown all the same
            depth = None
        return WebhookInfo(shown, own, lags, depth)

    async def _statuses(self, webhook: str) -> list[RunStatus]:
        """Of every node that answers in time."""
        request = WebhookStatusRequest(webhook)

        async def ask(node: int) -> WebhookStatuses:
            if node == self._context.me:
                return await self.status_here(request)
            try:
                return await self._context.calls.call(node, WEBHOOK_STATUS, request, STATUS_SECONDS)
            except (ConsensusError, BrokerError):
                return WebhookStatuses(())

        answers = await asyncio.gather(*(ask(node.id) for node in self._context.control.nodes()))
        return [run for answer in answers for run in answer.runs]

    async def status_here(self, request: WebhookStatusRequest) -> WebhookStatuses:
        return WebhookStatuses(self.runners.statuses(request.webhook))

    # --- changes ------------------------------------------------------------------------------------------

    async def put(
        self, name: str, changes: Mapping[str, Change], *, latest: bool = False, timeout: float = 15.0
    ) -> tuple[WebhookInfo, bool]:
        """Makes the webhook, or changes it: None puts a field back to its default, those not named stay. The webhook,
        and whether it was made. `latest`: one that is made begins at the ends of its topic's partitions, not at their
        beginnings."""
        deadline = asyncio.get_running_loop().time() + timeout
        await self._topics.barrier(timeout)
        self._check_feature()
        current = self._context.control.webhook(name)
        drawn = f"{self._context.random.getrandbits(64):016x}"
        wanted = _sound(current or Webhook(name, drawn, 0, 0), changes)
        for field in ("queue", "dead_letter_queue"):
            _check_queue(getattr(wanted, field), field)
        if "url" in changes and self.sender is not None:
            await self.sender.check(wanted.url)
        topic_id, starts = await self._source(wanted, latest, timeout) if current is None else ("", ())
        if wanted.dead_letter_queue and (current is None or current.dead_letter_queue != wanted.dead_letter_queue):
            await self._queues.put(wanted.dead_letter_queue, {}, timeout=timeout)
        request = PutWebhookRequest(name, drawn, True, topic_id, starts, dict(changes), timeout)
        await self._change(request, deadline)
        made = self._context.control.webhook(name)
        return await self.get(name, timeout=max(1.0, _left(deadline))), made is not None and made.id == drawn

    async def pause(self, name: str, paused: bool, *, timeout: float = 15.0) -> WebhookInfo:
        """What is under way is cut off, and delivered again later."""
        deadline = asyncio.get_running_loop().time() + timeout
        await self._change(PutWebhookRequest(name, "", False, "", (), {"paused": paused}, timeout), deadline)
        return await self.get(name, timeout=max(1.0, _left(deadline)))

    async def delete(self, name: str, *, timeout: float = 15.0) -> None:
        """With its position."""
        deadline = asyncio.get_running_loop().time() + timeout
        await self._topics.barrier(timeout)
        webhook = self._known(name)
        index = await self._router.at_leader(
            CONTROL,
            DELETE_WEBHOOK,
            lambda left: DeleteWebhookRequest(name, webhook.id, left),
            self.delete_here,
            deadline,
            Mode.REPEATABLE,
        )
        await self._visible(index, deadline, f"webhook {name} was deleted")
        if webhook.topic:
            try:
                await self._groups.delete(webhook.group, timeout=max(1.0, _left(deadline)))
            except BrokerError as error:  # another webhook of this name does not take them for its own
                log.warning("the offsets of webhook %s, which has been deleted, are still there: %s", name, error)

    def _check_feature(self) -> None:
        if self._context.control.feature < WEBHOOKS_FEATURE:
            raise Unavailable(
                "webhooks need a newer raftbroker on every node of the cluster: install it, or wait a moment after that"
            )

    async def _source(self, webhook: Webhook, latest: bool, timeout: float) -> tuple[str, tuple[int, ...]]:
        """The topic's id, and where to begin in its partitions. Raises UnknownTopic, UnknownQueue."""
        if webhook.queue:
            if latest:
                raise InvalidRequest("start is for topics: a queue's messages are all delivered", field="start")
            await self._queues.get(webhook.queue, timeout=timeout)
            return "", ()
        topic = await self._topics.state(webhook.topic, timeout)
        if not latest:
            return topic.topic_id, ()
        if len(topic.partitions) > STARTS_MAX:
            raise InvalidRequest(
                f"start is latest, but topic {topic.name} has more than {STARTS_MAX} partitions: begin at the earliest",
                field="start",
            )
        found = [await self._offsets.offsets(topic.name, number, timeout) for number in range(len(topic.partitions))]
        return topic.topic_id, tuple(view.end for view in found)

    async def _change(self, request: PutWebhookRequest, deadline: float) -> None:
        index = await self._router.at_leader(
            CONTROL,
            PUT_WEBHOOK,
            lambda left: msgspec.structs.replace(request, timeout=left),
            self.put_here,
            deadline,
            Mode.REPEATABLE,
        )
        await self._visible(index, deadline, f"webhook {request.name} was changed")

    async def _visible(self, index: int, deadline: float, done: str) -> None:
        try:
            await self._context.control_reached(index, max(0.1, _left(deadline)))
        except Refused as error:
            raise UnknownOutcome(f"{done}, but this node has not seen it yet: {error}") from error

    # --- on the control leader ----------------------------------------------------------------------------

    async def put_here(self, request: PutWebhookRequest) -> int:
        def make() -> ControlCommand | None:
            self._check_feature()
            current = self._context.control.webhook(request.name)
            if current is None and not request.make:
                raise UnknownWebhook(f"there is no webhook {request.name[:200]}", field="webhook")
            fresh = Webhook(
                request.name, request.id, 0, self._context.wall(), topic_id=request.topic_id, starts=request.starts
            )
            made = _sound(current or fresh, request.changes)
            return PutWebhook(made) if made != current else None

        return await self._controller.change(request.timeout, make)

    async def delete_here(self, request: DeleteWebhookRequest) -> int:
        def make() -> ControlCommand | None:
            current = self._context.control.webhook(request.name)
            there = current is not None and current.id == request.id
            return DeleteWebhook(request.name, request.id) if there else None

        return await self._controller.change(request.timeout, make)


def _sound(current: Webhook, changes: Mapping[str, Change]) -> Webhook:
    """Raises InvalidRequest, which names the field."""
    try:
        check_name(current.name)
        return changed(current, changes)
    except InvalidWebhook as error:
        raise InvalidRequest(str(error), field=error.field) from None


def _check_queue(name: str, field: str) -> None:
    try:
        check_queue_name(name or "none", field)
    except InvalidRequest as error:
        raise InvalidRequest(f"{field}: {error.message}", field=field) from None


def _left(deadline: float) -> float:
    return deadline - asyncio.get_running_loop().time()


__all__ = ["SOURCES", "WebhookInfo", "Webhooks"]
