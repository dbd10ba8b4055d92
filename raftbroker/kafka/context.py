"""What every handler of the Kafka front door is given, and what that door is told by whoever composes the node."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from raftbroker.broker.broker import Broker
from raftbroker.kafka.answers import AnswerCache

_MIB = 1 << 20


class NodeConfig(NamedTuple):
    """One key of this node's configuration, under Kafka's name for it where Kafka has one."""

    name: str
    value: str | None
    """None where it must not be shown."""
    default: str
    kind: str
    """integer, boolean, string, path, secret or list."""
    documentation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaOptions:
    """Bounds and settings of the listener. Sizes are in bytes, times in seconds."""

    random: random.Random
    advertised: tuple[str, int] = ("127.0.0.1", 9092)
    """Where clients reach this node: host and port."""
    frame_bytes_max: int = 36 * _MIB
    """No larger request is taken; a little more than the largest batch."""
    connections_max: int = 2000
    requests_max: int = 128
    """Of one connection, read and not yet answered; beyond it the connection is not read."""
    request_bytes_max: int = 256 * _MIB
    """Of all requests that are being read or served, together; beyond it further ones wait in their clients."""
    answer_bytes_max: int = 256 * _MIB
    """Of all answers that their clients have not taken yet; beyond it the one that has waited longest is cut off."""
    idle_timeout: float = 600.0
    """A connection that sends nothing and waits for nothing this long is closed."""
    frame_timeout: float = 60.0
    """A request must have arrived whole this long after its first byte."""
    send_timeout: float = 60.0
    """A client that takes nothing of its answers for this long is cut off."""
    stop_timeout: float = 3.0
    """How long requests under way may take to end when the listener stops."""
    request_timeout: float = 30.0
    """How long a request may wait for the cluster where it names no time of its own."""
    auto_create_topics: bool = True
    """Metadata for a topic that does not exist creates it, where the client allows it."""
    log_dir: str = "data"
    """What DescribeLogDirs calls this node's directory."""
    disk_bytes: Callable[[], tuple[int, int]] = lambda: (-1, -1)
    """The disk's size and what is free on it; -1: unknown."""
    node_configs: Sequence[NodeConfig] = ()
    """What DescribeConfigs shows of this node."""


class Served(NamedTuple):
    """One line of ApiVersions."""

    key: int
    min_version: int
    max_version: int


@dataclass(slots=True)
class KafkaContext:
    broker: Broker
    options: KafkaOptions
    served: tuple[Served, ...]
    """Every API that is advertised, by key."""
    metadata_answers: AnswerCache = field(default_factory=AnswerCache)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set as soon as the node begins to stop: who waits for something to happen should answer with what there is."""
