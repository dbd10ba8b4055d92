"""The run as tables for people, and as a Markdown table for the README."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.results import (
    DepthResult,
    Disk,
    FailoverResult,
    HttpResult,
    KafkaResult,
    NodeUse,
    Profile,
    QueueRate,
    RaftResult,
    Run,
    amount,
    median,
)
from bench.targets import describe, drift_percent

PROFILE_LINES = 25


def show(run: Run, console: Console) -> None:
    machine = run.machine
    console.print(
        f"{run.started}, {machine.cores} cores ({machine.processor}), {machine.memory_gigabytes:.1f} GB, "
        f"{machine.system}, Python {machine.python}, {machine.file_system}, "
        f"load average before: {machine.load_before:.2f}",
        highlight=False,
        soft_wrap=True,
    )
    if run.disk_before is not None:
        console.print(_disk(run.disk_before, run.disk_after))
    if run.raft:
        console.print(_raft(run.raft))
    if run.http:
        console.print(_http(run.http))
    if run.kafka:
        console.print(_kafka(run.kafka))
    if run.queues is not None:
        console.print(_queue_rates(run.queues.rates))
        console.print(_queue_depths(run.queues.depths))
    if run.failover is not None:
        console.print(_failover(run.failover))
    if run.idle is not None:
        console.print(_use(f"Idle cluster, over {run.idle.seconds:.0f} s", run.idle.nodes, cpu=True))
    if run.memory is not None:
        console.print(_use("After all load", run.memory.nodes, cpu=False))
    if run.start is not None:
        console.print("From command to ready: " + ", ".join(f"{took:.2f} s" for took in run.start.seconds))
    for profile in run.profiles:
        console.print(_profile(profile))
    if run.targets:
        console.print(_targets(run))


def _table(title: str, columns: Sequence[str], numbers_from: int = 1) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for position, column in enumerate(columns):
        table.add_column(column, justify="right" if position >= numbers_from else "left")
    return table


def _disk(before: Disk, after: Disk | None) -> Table:
    table = _table("The disk itself", ("", "before", "after", "drift", "p99 before"))
    for position, one in enumerate(before.latencies):
        later = after.latencies[position].median_ms if after is not None else None
        name = f"fdatasync of {amount(one.size)}, {one.writers} at once: median"
        table.add_row(name, *_twice(one.median_ms, later, "ms"), f"{one.p99_ms:.2f} ms")
    later = after.bandwidth.megabytes_per_second if after is not None else None
    name = f"1 MiB blocks with fdatasync, {before.bandwidth.writers} at once"
    table.add_row(name, *_twice(before.bandwidth.megabytes_per_second, later, "MB/s"), "")
    return table


def _twice(before: float, after: float | None, unit: str) -> tuple[str, str, str]:
    if after is None:
        return f"{before:.2f} {unit}", "", ""
    return f"{before:.2f} {unit}", f"{after:.2f} {unit}", f"{drift_percent(before, after):+.0f} %"


def _raft(results: list[RaftResult]) -> Table:
    columns = ("in flight", "entries/s", "median", "p99", "MB/s on 3 disks", "entries/fsync", "entries/CPU-s", "us CPU")
    table = _table("The Raft group alone", ("entry", *columns))
    for one in results:
        table.add_row(
            amount(one.size),
            str(one.in_flight),
            f"{one.per_second:,.0f}",
            f"{one.median_ms:.2f} ms",
            f"{one.p99_ms:.2f} ms",
            f"{one.disk_megabytes_per_second:.1f}",
            f"{one.entries / one.syncs:.1f}" if one.syncs else "",
            f"{one.entries_per_cpu_second:,.0f}",
            " + ".join(f"{1e6 * used / one.entries:.0f}" for used in one.cpu_seconds),
        )
    table.caption = "us CPU: of each node for an entry, the leader first"
    return table


def _http(results: list[HttpResult]) -> Table:
    columns = ("MB/s", "records/s", "median", "p99", "MB per leader CPU-s", "us CPU a request", "429")
    table = _table("HTTP, at the leader", ("case", "connections", *columns))
    for one in results:
        leader = one.leader_microseconds_per_request
        others = 1e6 * (sum(one.cpu_seconds) - one.leader_cpu_seconds) / one.requests
        table.add_row(
            one.case.name,
            str(one.case.connections),
            f"{one.megabytes / one.seconds:.2f}",
            f"{one.records / one.seconds:,.0f}",
            f"{one.median_ms:.2f} ms",
            f"{one.p99_ms:.2f} ms",
            f"{one.megabytes_per_leader_second:.1f}",
            f"{leader:,.0f} + {others:,.0f}",
            str(one.throttled),
        )
    table.caption = "MB: values alone; us CPU: of the leader's process + of all others"
    return table


KAFKA_COLUMNS = (
    "records/s",
    "MB/s",
    "median",
    "p99",
    "CPU-s for a million: client",
    "busiest node",
    "all nodes",
    "waited",
    "retries",
)


def _kafka(results: list[KafkaResult]) -> Table:
    table = _table("Through librdkafka", ("case", *KAFKA_COLUMNS))
    for one in results:
        table.add_row(*_kafka_row(one))
    table.caption = "MB: values alone; median, p99: end to end; waited: for the cluster, of the time"
    return table


def _kafka_row(one: KafkaResult) -> tuple[str, ...]:
    timed = one.case.what == "latency"
    return (
        one.case.name,
        f"{one.records / one.seconds:,.0f}",
        f"{one.megabytes / one.seconds:.1f}",
        f"{one.median_ms:.1f} ms" if timed else "",
        f"{one.p99_ms:.1f} ms" if timed else "",
        f"{one.cpu_for_a_million(one.client_cpu_seconds):.1f}",
        f"{one.cpu_for_a_million(max(one.cpu_seconds)):.1f}",
        f"{one.cpu_for_a_million(sum(one.cpu_seconds)):.1f}",
        f"{100 * one.waited / one.seconds:.0f} %" if one.case.what == "produce" else "",
        str(one.retries),
    )


def _queue_rates(rates: Sequence[QueueRate]) -> Table:
    columns = ("clients", "in a request", "messages/s", "median", "p99", "us CPU a message", "429")
    table = _table("Queues, at the leader, messages of 100 B", ("", *columns))
    for one in rates:
        table.add_row(
            one.phase.verb,
            str(one.phase.clients),
            str(one.phase.batch),
            f"{one.per_second:,.0f}",
            f"{one.median_ms:.2f} ms",
            f"{one.p99_ms:.2f} ms",
            f"{one.leader_microseconds_per_message:,.0f}",
            str(one.throttled),
        )
    table.caption = "us CPU: of the leader's process"
    return table


def _queue_depths(depths: Sequence[DepthResult]) -> Table:
    verbs = ("send", "receive", "acknowledge")
    columns = (*(f"{verb}/s" for verb in verbs), "us CPU a message", "RSS of the nodes")
    table = _table("A queue with little and with much in it", ("messages in it", *columns))
    for one in depths:
        table.add_row(
            f"{one.depth:,}",
            *(", ".join(f"{rate.per_second:,.0f}" for rate in one.of(verb)) for verb in verbs),
            " + ".join(f"{median([r.leader_microseconds_per_message for r in one.of(verb)]):.0f}" for verb in verbs),
            ", ".join(f"{use.resident_megabytes:.0f}" for use in one.nodes) + " MB",
        )
    table.caption = "in the order in which they were measured; every round's rate, by 4 clients, 100 messages a request"
    return table


def _failover(result: FailoverResult) -> Table:
    table = _table("Until the next acknowledged write", ("", "tries", "median", "least", "most"))
    for name, times in (("kill -9 of the leader", result.kill_ms), ("planned transfer", result.transfer_ms)):
        if times:
            figures = (f"{value:.0f} ms" for value in (median(times), min(times), max(times)))
            table.add_row(name, str(len(times)), *figures)
    return table


def _use(title: str, nodes: Sequence[NodeUse], *, cpu: bool) -> Table:
    table = _table(title, ("node", "CPU of one core", "RSS") if cpu else ("node", "RSS"))
    for use in nodes:
        percent = (f"{use.cpu_percent:.2f} %",) if cpu else ()
        table.add_row(str(use.node), *percent, f"{use.resident_megabytes:.0f} MB")
    return table


def _profile(profile: Profile) -> Table:
    table = _table(f"Profile of the leader: {profile.case} ({profile.cpu_seconds:.2f} CPU-s)", ("", "share", "CPU-s"))
    for title, lines in (
        ("by thread", profile.threads),
        ("by line, with the C code it calls", profile.lines[:PROFILE_LINES]),
        ("by function, with all it calls", profile.functions[:PROFILE_LINES]),
    ):
        table.add_section()
        table.add_row(Text(title, style="italic"))
        for line in lines:
            table.add_row(line.where, f"{100 * line.seconds / profile.cpu_seconds:.1f} %", f"{line.seconds:.3f}")
    return table


def _targets(run: Run) -> Table:
    table = _table("Targets", ("", "measured", "target", "", "from"))
    table.columns[3].justify = table.columns[4].justify = "left"
    for target in run.targets:
        verdict = Text("pass", style="green") if target.passed else Text("missed", style="bold red")
        table.add_row(target.name, *describe(target), verdict, target.basis)
    return table


def markdown(run: Run) -> str:
    """The targets, with the date and the machine, as the README shows them."""
    machine = run.machine
    lines = [
        f"{run.started[:10]}, {machine.cores} cores ({machine.processor}), {machine.system}, Python {machine.python}:",
        "",
        "| | measured | target | |",
        "|---|---|---|---|",
    ]
    for target in run.targets:
        measured, demanded = describe(target)
        basis = f" ({target.basis})" if target.basis else ""
        lines.append(
            f"| {target.name} | {measured} | {demanded}{basis} | {'pass' if target.passed else '**missed**'} |"
        )
    if run.kafka:
        lines += ["", f"| Through librdkafka | {' | '.join(KAFKA_COLUMNS)} |", "|---" * (1 + len(KAFKA_COLUMNS)) + "|"]
        lines += [f"| {' | '.join(_kafka_row(one))} |" for one in run.kafka]
    return "\n".join(lines) + "\n"
