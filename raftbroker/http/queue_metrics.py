"""What `/metrics` says of the queues that this node coordinates.

Their names are labels, so their number is bounded here; how many do not fit is told by a sample of its own.
"""

from raftbroker.broker.broker import Broker
from raftbroker.http.metrics import TextWriter

QUEUES_MAX = 2_000

_GAUGES = (
    ("depth", "Messages that are neither consumed nor dead."),
    ("available", "Messages that can be received."),
    ("locked", "Messages that a consumer holds."),
    ("delayed", "Messages whose delay is not over."),
    ("blocked", "Messages behind another of their key."),
    ("dead", "Dead messages kept aside in the queue."),
    ("moving", "Messages on their way to another queue."),
    ("receipts", "Receipts that wait to be delivered."),
    ("size_bytes", "Bytes of the messages' bodies, roughly."),
)
_COUNTERS = (
    ("sent", "Messages sent."),
    ("delivered", "Deliveries; a message may have several."),
    ("acknowledged", "Messages consumed."),
    ("expired", "Messages whose time to live or retention ended."),
    ("died", "Messages rejected or delivered too often."),
    ("redriven", "Dead messages brought back."),
    ("purged", "Messages purged."),
    ("receipts_lost", "Receipts that could not be delivered for a day."),
)


def write_queues(writer: TextWriter, broker: Broker) -> None:
    queues = broker.queues.infos()
    writer.gauge("raftbroker_queues", "Queues that this node coordinates.", len(queues))
    hidden = max(0, len(queues) - QUEUES_MAX)
    writer.gauge("raftbroker_queues_not_shown", "Queues beyond those shown.", hidden)
    del queues[QUEUES_MAX:]
    labels = [(("queue", queue.name),) for queue in queues]
    for kind, suffix, families in (("gauge", "", _GAUGES), ("counter", "_total", _COUNTERS)):
        for name, help_ in families:
            samples = ((label, getattr(queue, name)) for label, queue in zip(labels, queues, strict=True))
            writer.family(f"raftbroker_queue_{name}{suffix}", kind, help_, samples)
    writer.family(
        "raftbroker_queue_oldest_age_seconds",
        "gauge",
        "Age of the oldest message that is neither consumed nor dead.",
        ((label, queue.oldest_age_ms / 1000) for label, queue in zip(labels, queues, strict=True)),
    )
