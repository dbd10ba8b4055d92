"""What `/metrics` says of the deliveries of webhooks that run on this node; lags are those of their consumer groups.

Names are labels, so their number is bounded here; how many do not fit is told by a sample of its own.
"""

from raftbroker.broker.broker import Broker
from raftbroker.broker.webhook_runs import QUEUE
from raftbroker.http.metrics import TextWriter

DELIVERIES_MAX = 2_000

_COUNTERS = (
    ("delivered", "Records or messages that the receiver has taken, since this node runs the delivery."),
    ("dead", "Records or messages given up."),
    ("skipped", "Offsets that retention deleted before they were delivered."),
)


def write_webhooks(writer: TextWriter, broker: Broker) -> None:
    runs = broker.webhooks.local()
    writer.gauge("raftbroker_webhook_deliveries", "Deliveries of webhooks that run on this node.", len(runs))
    hidden = max(0, len(runs) - DELIVERIES_MAX)
    writer.gauge("raftbroker_webhook_deliveries_not_shown", "Deliveries beyond those shown.", hidden)
    del runs[DELIVERIES_MAX:]
    labels = [
        (("webhook", name), ("partition", "" if status.partition == QUEUE else str(status.partition)))
        for name, status in runs
    ]
    for name, help_ in _COUNTERS:
        samples = ((label, getattr(status, name)) for label, (_, status) in zip(labels, runs, strict=True))
        writer.family(f"raftbroker_webhook_{name}_total", "counter", help_, samples)
    writer.family(
        "raftbroker_webhook_failures",
        "gauge",
        "Failed attempts in a row; 0 while deliveries succeed.",
        ((label, status.failures) for label, (_, status) in zip(labels, runs, strict=True)),
    )
