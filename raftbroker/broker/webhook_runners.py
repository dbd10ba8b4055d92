"""Which deliveries of webhooks run on this node: one for each partition that it leads, or queue whose shard it leads.

Derived anew from the control state and from who leads, whenever either changes; nothing is remembered. Another node
that takes the lead takes the delivery with it, from the position that is committed. A delivery begins only when the one
before of the same place has ended here.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

from consensus.group import Group
from raftbroker.broker.context import CONTROL, Context
from raftbroker.broker.errors import Unavailable
from raftbroker.broker.shards import Shards
from raftbroker.broker.webhook_queues import QueueRun
from raftbroker.broker.webhook_runs import QUEUE, Means, RunStatus, Turns
from raftbroker.broker.webhook_topics import TopicRun
from raftbroker.state.webhooks import Webhook

log = logging.getLogger(__name__)

RUNS_MAX = 5_000
"""Deliveries on one node."""
LOOK_SECONDS = 5.0
AFTER_FAULT_SECONDS = 5.0


class Place(NamedTuple):
    """What a delivery is of: another version or another term is another delivery."""

    webhook: str
    version: int
    partition_id: int
    """0 for a queue."""
    term: int


class Runners:
    def __init__(self, context: Context, shards: Shards, means: Callable[[], Means | None]) -> None:
        self._context = context
        self._means = means
        self._shards = shards
        self._turns = Turns()
        self._runs: dict[Place, TopicRun | QueueRun] = {}
        self._tasks: dict[Place, asyncio.Task[None]] = {}
        self._ending: dict[tuple[str, int], set[asyncio.Task[None]]] = {}
        """By webhook and partition id: those that were told to end."""
        self._changed = asyncio.Event()
        self._told_full = False
        shards.on_led(lambda _: self._changed.set())
        shards.on_unled(lambda _: self._changed.set())

    # --- what is to run -----------------------------------------------------------------------------------

    def applied(self, group: Group) -> None:
        if group.id == CONTROL:
            self._changed.set()

    def role_changed(self, group: Group) -> None:
        self._changed.set()

    async def run(self) -> None:
        while True:
            self._changed.clear()
            self.settle()
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def settle(self) -> None:
        """Ends and begins deliveries as the state asks for."""
        means = self._means()
        wanted = self._wanted(means) if means is not None else {}
        for place in self._tasks.keys() - wanted.keys():
            self._end(place)
        for place, make in wanted.items():
            if place not in self._tasks and len(self._tasks) < RUNS_MAX:
                self._begin(place, make())
        if len(wanted) > RUNS_MAX and not self._told_full:
            log.warning("%d deliveries of webhooks are wanted here, %d run: the rest waits", len(wanted), RUNS_MAX)
        self._told_full = len(wanted) > RUNS_MAX

    def _wanted(self, means: Means) -> Mapping[Place, Callable[[], TopicRun | QueueRun]]:
        found: dict[Place, Callable[[], TopicRun | QueueRun]] = {}
        for webhook in self._context.control.webhooks():
            if webhook.paused:
                continue
            if webhook.queue:
                if self._leads_queue(webhook.queue):
                    term = self._context.host.groups[self._shards.shard_of(webhook.queue)].term
                    place = Place(webhook.id, webhook.version, 0, term)
                    found[place] = lambda webhook=webhook: QueueRun(means, webhook)  # type: ignore[misc]
            else:
                self._want_partitions(found, means, webhook)
        return found

    def _want_partitions(
        self, found: dict[Place, Callable[[], TopicRun | QueueRun]], means: Means, webhook: Webhook
    ) -> None:
        topic = self._context.control.topic(webhook.topic)
        for number, at in enumerate(topic.partitions if topic is not None else ()):
            group = self._context.host.groups.get(at.group)
            if topic is not None and group is not None and group.leading:
                place = Place(webhook.id, webhook.version, at.id, group.term)
                found[place] = lambda topic=topic, number=number, at=at: TopicRun(  # type: ignore[misc]
                    means, self._turns, webhook, topic, number, at
                )

    def _leads_queue(self, queue: str) -> bool:
        try:
            return self._shards.leads(queue)
        except Unavailable:
            return False

    # --- running ------------------------------------------------------------------------------------------

    def _begin(self, place: Place, run: TopicRun | QueueRun) -> None:
        before = self._ending.get((place.webhook, place.partition_id), set())
        self._runs[place] = run
        task = asyncio.get_running_loop().create_task(_run(run, set(before)), name=f"webhook {place.webhook}")
        self._tasks[place] = task

    def _end(self, place: Place) -> None:
        task = self._tasks.pop(place)
        del self._runs[place]
        task.cancel()
        ending = self._ending.setdefault((place.webhook, place.partition_id), set())
        ending.add(task)

        def ended(done: "asyncio.Task[None]") -> None:
            ending.discard(done)
            if not ending:
                self._ending.pop((place.webhook, place.partition_id), None)
            if not any(other.webhook == place.webhook for other in self._tasks):
                self._turns.forget(place.webhook)

        task.add_done_callback(ended)

    def statuses(self, webhook: str = "") -> tuple[RunStatus, ...]:
        """Of this node's deliveries: of one webhook, by its id, or of all."""
        runs = ((place, run) for place, run in self._runs.items() if webhook in ("", place.webhook))
        return tuple(run.progress.status for _, run in runs)

    async def stop(self) -> None:
        tasks = [*self._tasks.values(), *(task for ending in self._ending.values() for task in ending)]
        for place in list(self._tasks):
            self._end(place)
        await asyncio.gather(*tasks, return_exceptions=True)


async def _run(run: TopicRun | QueueRun, before: "set[asyncio.Task[None]]") -> None:
    if before:
        await asyncio.wait(before)
    while True:
        try:
            await run.run()
        except Exception as error:
            log.exception("the delivery of a webhook failed; it starts anew")
            run.progress.failed(error)
        await asyncio.sleep(AFTER_FAULT_SECONDS)


__all__ = ["QUEUE", "Runners"]
