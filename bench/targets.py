"""What the figures are held against: ratios to the disk and to CPU time, so that they hold on any machine."""

from collections.abc import Iterator

from bench.results import (
    Disk,
    FailoverResult,
    HttpResult,
    IdleResult,
    KafkaResult,
    MemoryResult,
    QueueResult,
    RaftResult,
    Run,
    StartResult,
    Target,
    median,
)

MIB = 1 << 20
KIB = 1 << 10


def judge(run: Run) -> list[Target]:
    """A target for each demand that this run has the figures for."""
    return list(_all(run))


def _all(run: Run) -> Iterator[Target]:
    if run.disk_before is not None:
        yield from _raft(run.raft, run.disk_before)
    yield from _http(run.http)
    yield from _kafka(run.kafka)
    if run.queues is not None:
        yield from _queues(run.queues)
    if run.failover is not None:
        yield from _failover(run.failover)
    if run.idle is not None:
        yield from _idle(run.idle)
    if run.memory is not None:
        yield from _memory(run.memory)
    if run.start is not None:
        yield from _start(run.start)


def _raft(results: list[RaftResult], disk: Disk) -> Iterator[Target]:
    by_case = {(result.size, result.in_flight): result for result in results}
    alone, many = by_case.get((200, 1)), by_case.get((200, 64))
    if alone is not None:
        writers = len(alone.cpu_seconds)
        raw = disk.median_ms(200, writers)
        basis = f"2 x {raw:.2f} ms, {writers} writers' raw fdatasync, + 1 ms"
        yield Target("Raft 200 B x1: median commit", alone.median_ms, 2 * raw + 1, "ms", True, basis)
    if alone is not None and many is not None:
        basis = f"10 x the {alone.per_second:.0f}/s of one at a time"
        yield Target("Raft 200 B x64: entries/s", many.per_second, 10 * alone.per_second, "/s", False, basis)
    for size in (16 * KIB, MIB):
        result = by_case.get((size, 16))
        if result is not None:
            raw = disk.bandwidth.megabytes_per_second
            name, basis = f"Raft {result.name}: bytes on the three disks", f"half of the raw {raw:.0f} MB/s"
            yield Target(name, result.disk_megabytes_per_second, raw / 2, "MB/s", False, basis)


def _http(results: list[HttpResult]) -> Iterator[Target]:
    for result in results:
        if result.case.produce and result.case.size == KIB and result.case.records == 500:
            name = f"HTTP {result.case.name}: per core of the leader"
            yield Target(name, result.megabytes_per_leader_second, 60.0, "MB/CPU-s", False)


def _kafka(results: list[KafkaResult]) -> Iterator[Target]:
    for result in results:
        if result.case.what == "produce" and result.case.size == KIB:
            name = f"librdkafka, {result.case.name}: time in which it waited for the cluster"
            yield Target(
                name, 100 * result.waited / result.seconds, 10.0, "%", True, "a client that waits is not what limits"
            )


def _queues(result: QueueResult) -> Iterator[Target]:
    """Rates at depth against those with little in the queue, before and after together."""
    deep = max(result.depths, key=lambda one: one.depth)
    shallow = [one for one in result.depths if one.depth != deep.depth]
    for verb in ("send", "receive", "acknowledge"):
        little = median([rate.per_second for one in shallow for rate in one.of(verb)])
        much = median([rate.per_second for rate in deep.of(verb)])
        name = f"queue, {verb} with {deep.depth:,} messages in it: of the rate with {shallow[0].depth:,}"
        basis = f"{much:,.0f}/s of {little:,.0f}/s"
        yield Target(name, much / little, 0.8, "of it", False, basis)


def _failover(result: FailoverResult) -> Iterator[Target]:
    if result.kill_ms:
        name = f"kill -9 of the leader to the next write: median of {len(result.kill_ms)}"
        yield Target(name, median(result.kill_ms), 1000.0, "ms", True)
    if result.transfer_ms:
        name = f"planned transfer to the next write: median of {len(result.transfer_ms)}"
        yield Target(name, median(result.transfer_ms), 100.0, "ms", True)


def _idle(result: IdleResult) -> Iterator[Target]:
    cpu = max(use.cpu_percent for use in result.nodes)
    together = sum(use.cpu_percent for use in result.nodes)
    basis = f"of one core, the busiest node; all nodes together {together:.2f} %"
    yield Target("idle node: CPU", cpu, 3.0, "%", True, basis)
    yield Target("idle node: RSS", max(use.resident_megabytes for use in result.nodes), 120.0, "MB", True)


def _memory(result: MemoryResult) -> Iterator[Target]:
    yield Target("node after all load: RSS", max(use.resident_megabytes for use in result.nodes), 250.0, "MB", True)


def _start(result: StartResult) -> Iterator[Target]:
    name = f"from command to ready: median of {len(result.seconds)}"
    yield Target(name, median(result.seconds), 3.0, "s", True)


def drift_percent(before: float, after: float) -> float:
    """How far a figure of the disk moved between the two looks; the targets mean little when it is large."""
    return 100 * (after - before) / before if before else 0.0


def describe(target: Target) -> tuple[str, str]:
    """(measured, demanded) as text."""
    sign = "<=" if target.at_most else ">="
    return f"{_number(target.measured)} {target.unit}", f"{sign} {_number(target.limit)} {target.unit}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"
