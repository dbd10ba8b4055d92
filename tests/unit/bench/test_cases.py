"""A tiny run of every case with real processes: it measures something, and leaves nothing behind."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from bench import http, kafka, queues
from bench.processes import Failed, Started
from bench.results import HttpCase, KafkaCase, Run
from bench.runner import Plan, carry_out
from bench.settings import QUICK

TINY = msgspec.structs.replace(
    QUICK,
    latency=0.1,
    bandwidth=0.1,
    warm_up=0.1,
    raft=0.3,
    raft_large=0.3,
    http=0.3,
    kafka=0.3,
    queue=0.3,
    queue_rounds=1,
    queue_depth=3_000,
    idle=0.3,
    settle=0.1,
    starts=1,
    kills=1,
    transfers=1,
)
pytestmark = pytest.mark.cluster


@pytest.fixture(autouse=True)
def nothing_left_behind(tmp_path: Path) -> Iterator[None]:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    assert left == []
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("work-")] == []


def tiny(folder: Path, *cases: str, profile: bool = False) -> Run:
    return carry_out(Plan(cases, folder, profile=profile), TINY, lambda text: None)


def test_raft_and_the_disk(tmp_path: Path) -> None:
    run = tiny(tmp_path, "raft", profile=True)
    assert run.disk_before is not None
    assert run.disk_after is not None
    assert [(one.size, one.writers) for one in run.disk_before.latencies] == [
        (200, 1),
        (200, 3),
        (16384, 1),
        (16384, 3),
    ]
    assert all(0 < one.median_ms <= one.p99_ms for one in run.disk_before.latencies)
    assert run.disk_before.bandwidth.megabytes_per_second > 0
    assert [(one.size, one.in_flight) for one in run.raft] == [(200, 1), (200, 64), (16384, 16), (1 << 20, 16)]
    for result in run.raft:
        assert result.entries > 0
        assert result.syncs > 0
        assert len(result.cpu_seconds) == 3
        assert sum(result.cpu_seconds) > 0
        assert 0 < result.median_ms <= result.p99_ms
    assert [profile.case for profile in run.profiles] == [result.name for result in run.raft]
    assert any("Group.propose" in line.where for profile in run.profiles for line in profile.functions)
    assert len(run.targets) == 4


def test_a_cluster_idle_under_load_and_losing_leaders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = (
        HttpCase(True, 1024, 500, "binary", 2),
        HttpCase(True, 1024, 500, "json", 2),
        HttpCase(True, 1024, 1, "binary", 2),
        HttpCase(False, 1024, 500, "binary", 2),
        HttpCase(False, 1024, 500, "json", 2),
        HttpCase(False, 1024, 1, "binary", 2),
    )
    monkeypatch.setattr(http, "CASES", cases)
    run = tiny(tmp_path, "start", "idle", "http", "failover")
    assert [result.case for result in run.http] == list(cases)
    for result in run.http:
        assert result.records >= result.requests > 0
        assert result.leader_cpu_seconds in result.cpu_seconds
        assert sum(result.cpu_seconds) > 0
    assert run.http[0].records == 500 * run.http[0].requests
    assert run.failover is not None
    assert [len(run.failover.kill_ms), len(run.failover.transfer_ms)] == [1, 1]
    assert run.idle is not None
    assert run.memory is not None
    assert all(use.resident_megabytes > 10 for use in (*run.idle.nodes, *run.memory.nodes))
    assert run.start is not None
    assert 0 < run.start.seconds[0] < 60
    assert len(run.targets) == 8


def test_librdkafka(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = tuple(KafkaCase(what, 1024, 2) for what in ("produce", "read", "latency"))
    monkeypatch.setattr(kafka, "CASES", cases)
    run = tiny(tmp_path, "kafka")
    assert [result.case for result in run.kafka] == list(cases)
    produce, read, latency = run.kafka
    assert read.records >= produce.records > 0, "what was read is what warmed up, and what was produced"
    assert latency.records == 300
    assert 0 < latency.median_ms <= latency.p99_ms
    assert all(result.client_cpu_seconds > 0 and len(result.cpu_seconds) == 3 for result in run.kafka)
    assert run.memory is not None
    assert len(run.targets) == 2


def test_queues_with_little_and_much_in_them(tmp_path: Path) -> None:
    run = tiny(tmp_path, "queues", profile=True)
    assert run.queues is not None
    verbs = ["send", "receive", "acknowledge"]
    assert [(rate.phase.clients, rate.phase.batch, rate.phase.verb) for rate in run.queues.rates] == [
        (*case, verb) for case in queues.CASES for verb in verbs
    ]
    assert [depth.depth for depth in run.queues.depths] == [1_000, 3_000, 1_000]
    for rate in (*run.queues.rates, *(rate for depth in run.queues.depths for rate in depth.rates)):
        assert rate.messages >= rate.requests > 0
        assert 0 < rate.median_ms <= rate.p99_ms
    for depth in run.queues.depths:
        sent, received, acknowledged = depth.rates
        assert sent.messages == received.messages == acknowledged.messages
        assert all(use.resident_megabytes > 10 for use in depth.nodes)
    assert len(run.profiles) == len(queues.CASES) + 3
    assert len(run.targets) == 3


def test_what_was_started_ends_when_something_fails(tmp_path: Path) -> None:
    found: list[subprocess.Popen[bytes]] = []

    def fail() -> None:
        with Started() as started:
            found.append(started.start([sys.executable, "-c", "import time; time.sleep(600)"], log=tmp_path / "log"))
            raise Failed("no reason")

    with pytest.raises(Failed, match="no reason"):
        fail()
    assert found[0].poll() is not None


def test_a_cluster_that_is_not_there(tmp_path: Path) -> None:
    began = time.monotonic()
    command = [
        sys.executable,
        "-m",
        "bench",
        "--url",
        "http://127.0.0.1:1",
        "--only",
        "idle",
        "--folder",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "raftbroker dev" in done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - began < 10
