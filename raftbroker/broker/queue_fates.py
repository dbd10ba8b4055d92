"""From what the state knows to what people are told: times of the wall clock, words for states."""

from collections.abc import Sequence

import msgspec

from raftbroker.broker.queue_views import MessageFate, PastDelivery, QueueInfo
from raftbroker.state.queues.fates import NAMES, Fate
from raftbroker.state.queues.messages import ENDS, Delivery
from raftbroker.state.queues.views import MessageView, QueueView


class Times(msgspec.Struct, frozen=True):
    """`ahead_ms`: how far the wall clock is ahead of the shard's time."""

    ahead_ms: int

    def wall(self, time_ms: int) -> int:
        """0 stays 0: it says that there is no such time."""
        return time_ms + self.ahead_ms if time_ms else 0


def history_of(history: Sequence[Delivery], times: Times) -> tuple[PastDelivery, ...]:
    return tuple(
        PastDelivery(past.consumer, times.wall(past.at_ms), times.wall(past.ended_ms), ENDS[past.end])
        for past in history
    )


def fate_of_message(queue: str, view: MessageView, times: Times) -> MessageFate:
    """Of one that is in the queue; one that is dead has come to its end, as far as its sender is concerned."""
    last = view.history[-1] if view.state == "dead" and view.history else None
    return MessageFate(
        queue=queue,
        id=str(view.number),
        state=view.state,
        delivery_count=view.deliveries,
        sent_at=times.wall(view.sent_ms),
        at=times.wall(last.ended_ms) if last is not None else None,
        consumer=view.consumer or (last.consumer if last is not None else None),
        until=times.wall(view.until_ms) or None,
        reason=view.reason or None,
        history=history_of(view.history, times),
    )


def fate_of_gone(queue: str, fate: Fate, history: Sequence[Delivery], times: Times) -> MessageFate:
    return MessageFate(
        queue=queue,
        id=str(fate.number),
        state=NAMES[fate.kind],
        delivery_count=fate.deliveries,
        at=times.wall(fate.at_ms),
        consumer=fate.consumer or None,
        reason=fate.reason or None,
        moved_to=fate.to or None,
        moved_id=str(fate.as_number) if fate.as_number else None,
        history=history_of(history, times),
    )


def info_of(view: QueueView, times: Times) -> QueueInfo:
    totals = view.totals
    return QueueInfo(
        name=view.name,
        configs=view.configs,
        created_at=times.wall(view.created_ms),
        depth=view.depth,
        available=view.available,
        delayed=view.delayed,
        blocked=view.blocked,
        locked=view.locked,
        dead=view.dead,
        moving=view.moving,
        receipts=view.receipts,
        size_bytes=view.size_bytes,
        oldest_age_ms=max(0, view.time_ms - view.oldest_ms) if view.oldest_ms else 0,
        sent=totals.sent,
        delivered=totals.delivered,
        acknowledged=totals.acknowledged,
        expired=totals.expired,
        died=totals.died,
        redriven=totals.redriven,
        purged=totals.purged,
        receipts_lost=totals.receipts_lost,
        sent_per_second=view.sent_per_second,
        delivered_per_second=view.delivered_per_second,
        acknowledged_per_second=view.acknowledged_per_second,
    )
