"""What the HTTP front door is told by whoever composes the node: bounds, deadlines, and the outside world.

The front door makes no clock, random number, socket or file of its own. Wall time (for records' timestamps), random
numbers (for request ids) and the process's own usage (for metrics) are handed in here; deadlines use the running event
loop. Every bound has a default that suits one small node.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """What the process has used so far, for `/metrics`."""

    cpu_seconds: float
    resident_bytes: int
    open_files: int | None = None


class Metric(NamedTuple):
    """A family of samples in Prometheus's sense: counter or gauge, each sample with its labels."""

    name: str
    kind: str
    help: str
    samples: Sequence[tuple[tuple[tuple[str, str], ...], float]]


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """Bounds and helpers of the HTTP front door. Sizes are in bytes, times in seconds unless the name says `_ms`."""

    wall: Callable[[], int]
    """Wall time in milliseconds since 1970."""
    random: random.Random
    process_usage: Callable[[], ProcessUsage] | None = None
    more_metrics: Callable[[], Iterable[Metric]] = tuple
    """What others on this node count, for `/metrics`."""
    base_url: str = ""
    """How clients reach this node, without a slash at the end: what links begin with. Empty: the Host header."""
    version: str = "0.1.0"

    body_bytes_max: int = 32 * 1024 * 1024
    body_bytes_in_flight_max: int = 64 * 1024 * 1024
    requests_max: int = 1024
    long_polls_max: int = 1024
    streams_max: int = 256
    pushes_max: int = 1024
    push_heartbeat: float = 15.0
    """A pushed stream that has nothing to say says so this often."""
    allowed_origins: tuple[str, ...] = ("loopback",)
    """Of pages that may use pushed streams: scheme://host[:port], "loopback" for the user's own machine, "*"."""
    consumer_idle_ms: int = 300_000
    """A consumer instance that nothing is asked of for so long is closed."""
    records_max: int = 10_000
    """Records in one produce request that is not streamed."""
    response_bytes_max: int = 16 * 1024 * 1024
    response_bytes_default: int = 1024 * 1024
    header_bytes_max: int = 8190

    request_timeout: float = 30.0
    """How long the cluster may take before a request is answered as unavailable or unknown."""
    poll_ms_max: int = 60_000
    body_timeout: float = 30.0
    """A whole body must have arrived in this time, a streamed one must send something within it."""
    send_timeout: float = 30.0
    """A client must take some of a streamed answer within this time."""
    keepalive_timeout: float = 75.0
    shutdown_timeout: float = 10.0
    access_log: bool = False
