"""What a run measured: one struct per case, all of it in the JSON file."""

import msgspec


class Latency(msgspec.Struct, frozen=True):
    """Of append + fdatasync, over all writers together."""

    size: int
    """Bytes."""
    writers: int
    count: int
    median_ms: float
    p99_ms: float


class Bandwidth(msgspec.Struct, frozen=True):
    """Appending blocks of 1 MiB with an fdatasync after each, all writers together; MB are 10^6 bytes."""

    writers: int
    seconds: float
    megabytes_per_second: float


class Disk(msgspec.Struct, frozen=True):
    """The disk's own limits."""

    latencies: tuple[Latency, ...]
    bandwidth: Bandwidth

    def median_ms(self, size: int, writers: int) -> float:
        """Raises LookupError where that was not measured."""
        for latency in self.latencies:
            if (latency.size, latency.writers) == (size, writers):
                return latency.median_ms
        raise LookupError(f"no raw latency of {size} B with {writers} writers was measured")


class RaftCase(msgspec.Struct, frozen=True):
    """What the group alone is asked to do."""

    size: int
    """Bytes of one entry's payload."""
    in_flight: int
    seconds: float
    warm_up: float

    @property
    def name(self) -> str:
        return f"{amount(self.size)} x{self.in_flight}"


class RaftResult(msgspec.Struct, frozen=True):
    size: int
    in_flight: int
    seconds: float
    entries: int
    median_ms: float
    """From proposal to applied on the leader."""
    p99_ms: float
    cpu_seconds: tuple[float, ...]
    """User and system, of each node; the first leads."""
    syncs: int
    """fsyncs of the leader."""

    @property
    def name(self) -> str:
        return f"{amount(self.size)} x{self.in_flight}"

    @property
    def per_second(self) -> float:
        return self.entries / self.seconds

    @property
    def entries_per_cpu_second(self) -> float:
        """Of the three nodes together."""
        used = sum(self.cpu_seconds)
        return self.entries / used if used else 0.0

    @property
    def disk_megabytes_per_second(self) -> float:
        """Payload bytes, each entry counted once for every node that stores it."""
        return self.per_second * self.size * len(self.cpu_seconds) / 1e6


class StartResult(msgspec.Struct, frozen=True):
    """From the command to every node ready; the first start of an empty cluster, each time."""

    seconds: tuple[float, ...]


class NodeUse(msgspec.Struct, frozen=True):
    node: int
    cpu_percent: float
    """Of one core."""
    resident_megabytes: float


class IdleResult(msgspec.Struct, frozen=True):
    seconds: float
    nodes: tuple[NodeUse, ...]


class MemoryResult(msgspec.Struct, frozen=True):
    """After all load: the most of the looks taken."""

    nodes: tuple[NodeUse, ...]


class HttpCase(msgspec.Struct, frozen=True):
    """One kind of load."""

    produce: bool
    """Else it reads."""
    size: int
    """Bytes of one record's value."""
    records: int
    """In one request."""
    format: str
    """binary or json"""
    connections: int

    @property
    def name(self) -> str:
        what = "produce" if self.produce else "read"
        many = "single" if self.records == 1 else f"by {self.records}"
        return f"{what} {amount(self.size)} {many}, {self.format}"


class HttpResult(msgspec.Struct, frozen=True):
    case: HttpCase
    seconds: float
    requests: int
    records: int
    median_ms: float
    """Of one request, answered in full."""
    p99_ms: float
    throttled: int
    """Requests answered 429 and sent again; not in the figures above."""
    leader_cpu_seconds: float
    cpu_seconds: tuple[float, ...]
    """Of each node's process."""

    @property
    def megabytes(self) -> float:
        """Of the records' values alone."""
        return self.records * self.case.size / 1e6

    @property
    def megabytes_per_leader_second(self) -> float:
        return self.megabytes / self.leader_cpu_seconds if self.leader_cpu_seconds else 0.0

    @property
    def leader_microseconds_per_request(self) -> float:
        return self.leader_cpu_seconds * 1e6 / self.requests if self.requests else 0.0


class KafkaCase(msgspec.Struct, frozen=True):
    """One kind of load through librdkafka."""

    what: str
    """produce, read, or latency: from end to end at a steady rate"""
    size: int
    """Bytes of one record's value."""
    partitions: int

    @property
    def name(self) -> str:
        many = "1 partition" if self.partitions == 1 else f"{self.partitions} partitions"
        return f"{self.what} {amount(self.size)}, {many}"


class KafkaResult(msgspec.Struct, frozen=True):
    case: KafkaCase
    seconds: float
    records: int
    client_cpu_seconds: float
    cpu_seconds: tuple[float, ...]
    """Of each node's process."""
    median_ms: float
    """From end to end; 0 where that was not looked at."""
    p99_ms: float
    waited: float
    """Seconds in which the client could only wait for the cluster: its queue full, or the last answers missing."""
    retries: int
    """Requests that the client had to send again."""

    @property
    def megabytes(self) -> float:
        """Of the records' values alone."""
        return self.records * self.case.size / 1e6

    def cpu_for_a_million(self, used: float) -> float:
        """CPU seconds."""
        return 1e6 * used / self.records if self.records else 0.0


class FailoverResult(msgspec.Struct, frozen=True):
    """Milliseconds until the next acknowledged write, of each try."""

    kill_ms: tuple[float, ...]
    """From `kill -9` of the partition's leader."""
    transfer_ms: tuple[float, ...]
    """From asking for a planned transfer of leadership."""


class QueuePhase(msgspec.Struct, frozen=True):
    """What clients of a queue are asked to do, each with one request after the other."""

    verb: str
    """send, receive or acknowledge"""
    clients: int
    batch: int
    """Messages in one request."""
    seconds_max: float
    messages_max: int | None = None
    """All clients together; None: as many as they can in the time."""

    @property
    def name(self) -> str:
        return f"{self.verb}, {self.clients} client{'s' if self.clients > 1 else ''} by {self.batch}"


class QueueRate(msgspec.Struct, frozen=True):
    phase: QueuePhase
    seconds: float
    requests: int
    messages: int
    median_ms: float
    """Of one request, answered in full."""
    p99_ms: float
    throttled: int
    leader_cpu_seconds: float = 0.0
    """Of the process of the node that leads the queue's shard."""

    @property
    def per_second(self) -> float:
        return self.messages / self.seconds

    @property
    def leader_microseconds_per_message(self) -> float:
        return self.leader_cpu_seconds * 1e6 / self.messages


class DepthResult(msgspec.Struct, frozen=True):
    """With so many messages in the queue: rounds of sending, receiving and acknowledging."""

    depth: int
    rates: tuple[QueueRate, ...]
    nodes: tuple[NodeUse, ...]
    """Their memory afterwards."""

    def of(self, verb: str) -> list[QueueRate]:
        return [rate for rate in self.rates if rate.phase.verb == verb]


class QueueResult(msgspec.Struct, frozen=True):
    rates: tuple[QueueRate, ...]
    depths: tuple[DepthResult, ...]
    """Shallow, deep, shallow again."""


class ProfileLine(msgspec.Struct, frozen=True):
    where: str
    seconds: float


class Profile(msgspec.Struct, frozen=True):
    """Where a node's process spent CPU time during a case, from samples."""

    case: str
    cpu_seconds: float
    """Of the whole process, the sampler's own included."""
    threads: tuple[ProfileLine, ...]
    """By thread; what no Python thread used was RocksDB's own."""
    lines: tuple[ProfileLine, ...]
    """By line: the time in it and in the C code it calls."""
    functions: tuple[ProfileLine, ...]
    """By function, with all that it calls."""


class Target(msgspec.Struct, frozen=True):
    """One line of the issue's demands, in the measured unit."""

    name: str
    measured: float
    limit: float
    unit: str
    at_most: bool
    """Else the measured value must be at least the limit."""
    basis: str = ""
    """What the limit was made from, where it is a ratio."""

    @property
    def passed(self) -> bool:
        return self.measured <= self.limit if self.at_most else self.measured >= self.limit


class Machine(msgspec.Struct, frozen=True):
    cores: int
    processor: str
    memory_gigabytes: float
    system: str
    python: str
    file_system: str
    load_before: float
    """The load average of the minute before the run: above about 0.2 others were at work."""


class Run(msgspec.Struct):
    """One run of the benchmark; what was not asked for is None."""

    started: str
    machine: Machine
    disk_before: Disk | None = None
    disk_after: Disk | None = None
    raft: list[RaftResult] = []
    start: StartResult | None = None
    idle: IdleResult | None = None
    http: list[HttpResult] = []
    kafka: list[KafkaResult] = []
    memory: MemoryResult | None = None
    queues: QueueResult | None = None
    failover: FailoverResult | None = None
    profiles: list[Profile] = []
    targets: list[Target] = []


def amount(size: int) -> str:
    """A size as people write it."""
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"


def median(values: tuple[float, ...] | list[float]) -> float:
    return quantile(values, 0.5)


def quantile(values: tuple[float, ...] | list[float], share: float) -> float:
    """The value below which `share` of them lie; of an even number's middle two the upper. Raises on none."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("there is nothing to take a quantile of")
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
