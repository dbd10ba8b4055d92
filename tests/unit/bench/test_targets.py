"""The report's arithmetic: ratios to the disk and to CPU time, and on which side of a limit a figure lies."""

import io

import msgspec
import pytest
from rich.console import Console

from bench.__main__ import make_parser
from bench.processes import Failed
from bench.report import markdown, show
from bench.results import (
    Bandwidth,
    DepthResult,
    Disk,
    FailoverResult,
    HttpCase,
    HttpResult,
    IdleResult,
    KafkaCase,
    KafkaResult,
    Latency,
    Machine,
    MemoryResult,
    NodeUse,
    Profile,
    ProfileLine,
    QueuePhase,
    QueueRate,
    QueueResult,
    RaftResult,
    Run,
    StartResult,
    Target,
    amount,
    quantile,
)
from bench.runner import CASES, choose_cases
from bench.targets import drift_percent, judge

MACHINE = Machine(4, "a processor", 16.0, "Linux 6", "3.11.7", "ext4", 0.1)
DISK = Disk(
    (
        Latency(200, 1, 1000, 0.5, 1.0),
        Latency(200, 3, 1000, 1.5, 3.0),
        Latency(16384, 1, 1000, 0.6, 1.2),
        Latency(16384, 3, 1000, 1.8, 3.6),
    ),
    Bandwidth(3, 10.0, 600.0),
)


def raft(size: int, in_flight: int, entries: int, median_ms: float = 1.0) -> RaftResult:
    return RaftResult(size, in_flight, 10.0, entries, median_ms, 9.0, (2.0, 1.0, 1.0), 100)


def http(size: int, records: int, leader_cpu: float, *, produce: bool = True) -> HttpResult:
    case = HttpCase(produce, size, records, "binary", 4)
    return HttpResult(case, 10.0, 1000, 1000 * records, 5.0, 9.0, 0, leader_cpu, (leader_cpu, 1.0, 1.0))


def depth(count: int, *sent: int) -> DepthResult:
    """Rounds in each of which so many messages were sent, received and acknowledged in a second."""
    rates = [
        QueueRate(QueuePhase(verb, 4, 100, 1.0), 1.0, 10, messages, 1.0, 2.0, 0, 0.5)
        for messages in sent
        for verb in ("send", "receive", "acknowledge")
    ]
    return DepthResult(count, tuple(rates), (NodeUse(1, 0.0, 100.0),))


def run(**parts: object) -> Run:
    return msgspec.structs.replace(Run("2026-01-02T03:04:05+00:00", MACHINE), **parts)


def kafka(what: str, size: int, waited: float) -> KafkaResult:
    return KafkaResult(KafkaCase(what, size, 1), 10.0, 2_000_000, 4.0, (1.0, 3.0, 1.0), 5.0, 9.0, waited, 0)


def only(made: Run) -> Target:
    (target,) = judge(made)
    return target


@pytest.mark.parametrize(("median_ms", "passed"), [(3.99, True), (4.0, True), (4.01, False)])
def test_one_at_a_time_against_as_many_raw_writers(median_ms: float, passed: bool) -> None:
    target = only(run(disk_before=DISK, raft=[raft(200, 1, 1000, median_ms)]))
    assert (target.measured, target.limit, target.passed) == (median_ms, 4.0, passed)


@pytest.mark.parametrize(("entries", "passed"), [(10_000, True), (9_999, False)])
def test_many_in_flight_against_one_at_a_time(entries: int, passed: bool) -> None:
    targets = judge(run(disk_before=DISK, raft=[raft(200, 1, 1000), raft(200, 64, entries)]))
    assert [(t.measured, t.limit, t.passed) for t in targets[1:]] == [(entries / 10, 1000.0, passed)]


@pytest.mark.parametrize(("size", "entries", "passed"), [(1 << 20, 954, True), (1 << 20, 953, False)])
def test_large_entries_count_once_for_each_disk(size: int, entries: int, passed: bool) -> None:
    target = only(run(disk_before=DISK, raft=[raft(size, 16, entries)]))
    assert target.measured == pytest.approx(entries * size * 3 / 10 / 1e6)
    assert (target.limit, target.passed) == (300.0, passed)


def test_no_target_without_the_disk_in_the_same_run() -> None:
    assert judge(run(raft=[raft(200, 1, 1000)])) == []


@pytest.mark.parametrize(("cpu", "passed"), [(8.5, True), (8.6, False)])
def test_produce_counts_values_against_the_leaders_cpu(cpu: float, passed: bool) -> None:
    target = only(run(http=[http(1024, 500, cpu), http(100, 500, 1.0), http(1024, 1, 1.0)]))
    assert target.measured == pytest.approx(512.0 / cpu)
    assert (target.limit, target.passed) == (60.0, passed)


def test_reads_have_no_target() -> None:
    assert judge(run(http=[http(1024, 500, 1.0, produce=False)])) == []


@pytest.mark.parametrize(("waited", "passed"), [(1.0, True), (1.1, False)])
def test_a_client_that_waits_with_a_full_queue_does_not_limit(waited: float, passed: bool) -> None:
    results = [kafka("produce", 1024, waited), kafka("produce", 100, 9.0), kafka("read", 1024, 9.0)]
    target = only(run(kafka=results))
    assert target.measured == pytest.approx(10 * waited)
    assert (target.limit, target.passed) == (10.0, passed)
    assert results[0].cpu_for_a_million(sum(results[0].cpu_seconds)) == 2.5


@pytest.mark.parametrize(("rate", "passed"), [(80, True), (79, False)])
def test_a_deep_queue_is_held_against_the_shallow_one_before_and_after(rate: int, passed: bool) -> None:
    depths = (depth(1000, 110, 90, 100), depth(1_000_000, 10, rate, 1000), depth(1000, 120, 80, 100))
    targets = judge(run(queues=QueueResult((), depths)))
    assert [(t.measured, t.limit, t.passed) for t in targets] == [(rate / 100, 0.8, passed)] * 3


def test_failover_takes_medians() -> None:
    made = run(failover=FailoverResult((200.0, 5000.0, 900.0), (10.0, 20.0, 101.0, 102.0)))
    assert [(t.measured, t.passed) for t in judge(made)] == [(900.0, True), (101.0, False)]


def test_the_worst_node_counts() -> None:
    uses = (NodeUse(1, 1.0, 100.0), NodeUse(2, 3.5, 119.0), NodeUse(3, 0.5, 90.0))
    cpu, memory = judge(run(idle=IdleResult(30.0, uses)))
    assert (cpu.measured, cpu.passed, memory.measured, memory.passed) == (3.5, False, 119.0, True)
    assert "5.00 %" in cpu.basis
    after = only(run(memory=MemoryResult((NodeUse(1, 0, 251.0), NodeUse(2, 0, 10.0)))))
    assert (after.measured, after.passed) == (251.0, False)


def test_start_takes_the_median() -> None:
    target = only(run(start=StartResult((2.0, 9.0, 2.9))))
    assert (target.measured, target.passed) == (2.9, True)


def test_figures_made_from_others() -> None:
    result = raft(1024, 16, 4000)
    assert result.per_second == 400
    assert result.entries_per_cpu_second == 1000
    assert http(1024, 500, 2.0).leader_microseconds_per_request == 2000
    assert drift_percent(2.0, 3.0) == 50
    assert [quantile([3.0, 1.0, 2.0], share) for share in (0.0, 0.5, 0.99)] == [1.0, 2.0, 3.0]
    assert [amount(size) for size in (200, 1024, 16384, 1 << 20, 1500)] == [
        "200 B",
        "1 KiB",
        "16 KiB",
        "1 MiB",
        "1500 B",
    ]


def full_run() -> Run:
    uses = (NodeUse(1, 1.0, 100.0),)
    lines = (ProfileLine("consensus/group.py Group.turn:1", 0.5),)
    made = run(
        disk_before=DISK,
        disk_after=DISK,
        raft=[raft(200, 1, 1000), raft(200, 64, 10)],
        start=StartResult((1.0,)),
        idle=IdleResult(30.0, uses),
        http=[http(1024, 500, 1.0), http(100, 1, 1.0, produce=False)],
        kafka=[kafka("produce", 1024, 0.5), kafka("latency", 1024, 0.0)],
        memory=MemoryResult(uses),
        queues=QueueResult(depth(0, 1).rates, (depth(1000, 100), depth(10_000, 90), depth(1000, 100))),
        failover=FailoverResult((500.0,), (50.0,)),
        profiles=[Profile("200 B x1", 1.0, lines, lines, lines)],
    )
    made.targets = judge(made)
    return made


def test_the_report_shows_every_part_and_verdict() -> None:
    made, out = full_run(), io.StringIO()
    show(made, Console(file=out, width=200))
    text = out.getvalue()
    for target in made.targets:
        assert target.name in text
    for part in (
        "The disk itself",
        "Raft group alone",
        "at the leader",
        "acknowledged",
        "librdkafka",
        "Idle",
        "Profile",
        "ext4",
        "10,000",
    ):
        assert part in text
    assert text.count("missed") == 1
    assert text.count(" pass ") == len(made.targets) - 1


def test_the_markdown_has_a_row_for_each_target() -> None:
    made = full_run()
    text = markdown(made)
    assert text.startswith("2026-01-02, 4 cores")
    assert text.count("**missed**") == 1
    assert text.count("| pass |") == len(made.targets) - 1


def test_the_file_brings_back_the_run() -> None:
    made = full_run()
    assert msgspec.json.decode(msgspec.json.encode(made), type=Run) == made


def test_cases_are_chosen_by_name() -> None:
    assert choose_cases(None, None) == CASES
    assert choose_cases("http, raft", None) == ("http", "raft")
    assert "failover" not in choose_cases(None, "http://127.0.0.1:8082"), "nobody asked to kill a running cluster"
    for wrong in ("htp", "", ","):
        with pytest.raises(Failed, match="raft, start, idle"):
            choose_cases(wrong, None)


def test_help_names_every_case() -> None:
    text = make_parser().format_help()
    for case in CASES:
        assert f"  {case} " in text
