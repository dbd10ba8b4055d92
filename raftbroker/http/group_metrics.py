"""What `/metrics` says of the consumer groups that this node coordinates.

Group and topic names are labels, so their number is bounded here; what does not fit is told by a count of its own.
"""

from collections import Counter

from raftbroker.broker.broker import Broker
from raftbroker.http.metrics import TextWriter

PARTITIONS_MAX = 10_000
"""Partitions of groups that are shown."""


def write_groups(writer: TextWriter, broker: Broker) -> None:
    states = Counter((group.state.value, group.type.value) for group in broker.group_positions.local_groups())
    writer.family(
        "raftbroker_consumer_groups",
        "gauge",
        "Consumer groups that this node coordinates.",
        (((("state", state), ("type", kind)), count) for (state, kind), count in sorted(states.items())),
    )
    lags = broker.group_positions.local_lags(PARTITIONS_MAX + 1)
    writer.gauge(
        "raftbroker_consumer_group_partitions_not_shown",
        "1 when there are more partitions with committed offsets than are shown.",
        int(len(lags) > PARTITIONS_MAX),
    )
    del lags[PARTITIONS_MAX:]
    names = [(("group", item.group), ("topic", item.topic), ("partition", str(item.partition))) for item in lags]
    writer.family(
        "raftbroker_consumer_group_offset",
        "gauge",
        "The offset a group has committed.",
        ((name, item.committed) for name, item in zip(names, lags, strict=True)),
    )
    writer.family(
        "raftbroker_consumer_group_lag",
        "gauge",
        "Offsets from a group's commit to the high watermark.",
        ((name, item.lag) for name, item in zip(names, lags, strict=True) if item.lag is not None),
    )
