"""How long each part of the benchmark takes, and how often it is repeated."""

import msgspec


class Settings(msgspec.Struct, frozen=True):
    """Times in seconds. The defaults are those of the figures in the README."""

    nodes: int = 3
    latency: float = 5.0
    """Each raw latency."""
    bandwidth: float = 10.0
    """The raw bandwidth, each time."""
    warm_up: float = 1.0
    """Of a Raft or HTTP case, before anything is counted."""
    raft: float = 15.0
    """The small entries."""
    raft_large: float = 60.0
    """16 KiB and 1 MiB, long enough for flushes and compaction to keep up or not."""
    http: float = 10.0
    kafka: float = 10.0
    """Each case through librdkafka; reads take as long as what was produced lasts."""
    queue: float = 4.0
    """Sending to a queue; receiving and acknowledging it take what they take."""
    queue_rounds: int = 8
    """At each depth."""
    queue_depth: int = 1_000_000
    idle: float = 30.0
    settle: float = 5.0
    """A new cluster is left alone for so long before it counts as idle."""
    starts: int = 3
    kills: int = 11
    transfers: int = 21


QUICK = Settings(
    latency=0.7,
    bandwidth=1.5,
    warm_up=0.3,
    raft=2.0,
    raft_large=2.0,
    http=1.5,
    kafka=1.5,
    queue=1.0,
    queue_rounds=1,
    queue_depth=50_000,
    idle=4.0,
    settle=2.0,
    starts=1,
    kills=3,
    transfers=5,
)
"""For a look: the figures mean less. RSS and CPU are about right, medians of a few are not."""
