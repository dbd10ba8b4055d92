"""One run: the cases asked for, in an order in which none disturbs the next.

The disk first, then the Raft group alone, so that its figures are near those of the disk in time; then the cluster: how
soon it is ready, what it takes idle, under load, after it, and with its leaders killed; the disk again at the end.
"""

import datetime
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from bench import disk, failover, http, kafka, machine, queues, raft
from bench.cluster import Cluster, OwnCluster, measure_starts
from bench.processes import Failed, Started
from bench.profile import Profiling
from bench.results import MemoryResult, Run
from bench.settings import Settings
from bench.targets import judge
from bench.use import measure_idle, measure_memory

CASES = ("raft", "start", "idle", "http", "kafka", "queues", "failover")


class Plan(msgspec.Struct, frozen=True):
    """What a run shall do."""

    cases: tuple[str, ...]
    """Of CASES."""
    folder: Path
    """On the disk to measure; what is written goes into a new folder in it, which is removed in the end."""
    url: str | None = None
    """A running cluster to measure instead of our own."""
    profile: bool = False


def carry_out(plan: Plan, settings: Settings, tell: Callable[[str], None]) -> Run:
    """Raises Failed."""
    check(plan)
    plan.folder.mkdir(parents=True, exist_ok=True)
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    run = Run(started, machine.describe(plan.folder))
    folder = Path(tempfile.mkdtemp(prefix="work-", dir=plan.folder))
    try:
        with Started() as processes:
            _Runner(plan, settings, tell, run, folder, processes).run_all()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    run.targets = judge(run)
    return run


class _Runner:
    def __init__(
        self, plan: Plan, settings: Settings, tell: Callable[[str], None], run: Run, folder: Path, started: Started
    ) -> None:
        self._plan = plan
        self._settings = settings
        self._tell = tell
        self._run = run
        self._folder = folder
        self._started = started
        self._profiling = Profiling(folder / "profile") if plan.profile else None

    def run_all(self) -> None:
        cases, settings, run = self._plan.cases, self._settings, self._run
        measures_disk = "raft" in cases
        if measures_disk:
            self._tell("the disk itself")
            run.disk_before = disk.measure(self._started, self._folder, settings)
            self._raft()
        if "start" in cases:
            self._tell(f"from command to ready, {settings.starts} times")
            run.start = measure_starts(self._started, self._folder, settings.nodes, settings.starts)
        if {"idle", "http", "kafka", "queues", "failover"} & set(cases):
            self._with_cluster()
        if measures_disk:
            self._tell("the disk itself, again")
            run.disk_after = disk.measure(self._started, self._folder, settings)

    @property
    def _environment(self) -> dict[str, str]:
        return self._profiling.environment if self._profiling is not None else {}

    def _raft(self) -> None:
        group = raft.RaftGroup(self._started, self._folder / "raft", self._settings.nodes, self._environment)
        for size, in_flight in raft.CASES:
            case = raft.make_case(size, in_flight, self._settings)
            self._tell(f"Raft alone, {case.name}, {case.seconds:g} s")
            self._window(case.name)
            self._run.raft.append(group.measure(case))
            self._window("")
            self._keep_profile(group.leader_pid, case.name)
        group.stop()

    def _with_cluster(self) -> None:
        cases, settings, run = self._plan.cases, self._settings, self._run
        cluster = self._cluster()
        if "idle" in cases:
            self._tell(f"the idle cluster, {settings.idle:g} s")
            run.idle = measure_idle(cluster, settings.settle, settings.idle)
        if "http" in cases:
            self._http(cluster)
        if "kafka" in cases:
            self._kafka(cluster)
        if "queues" in cases:
            bench = queues.QueueBench(self._started, cluster, settings, self._tell, self._window)
            run.queues = bench.run(self._keep_profile)
        if "failover" in cases:
            run.failover = failover.run(cluster, settings.kills, settings.transfers, self._tell)
            run.memory = self._memory(cluster)
        if isinstance(cluster, OwnCluster):
            cluster.stop()

    def _cluster(self) -> Cluster:
        if self._plan.url is not None:
            return Cluster.running(self._plan.url)
        self._tell(f"starting a cluster of {self._settings.nodes} nodes")
        return OwnCluster(self._started, self._folder / "cluster", self._settings.nodes, self._environment)

    def _http(self, cluster: Cluster) -> None:
        load = http.HttpLoad(self._started, cluster, self._settings, self._window)
        for case in http.CASES:
            self._tell(f"HTTP, {case.name}, {case.connections} connections, {self._settings.http:g} s")
            self._run.http.append(load.measure(case))
            self._keep_profile(load.leader_pid, case.name)
        self._run.memory = self._memory(cluster)

    def _kafka(self, cluster: Cluster) -> None:
        load = kafka.KafkaBench(self._started, cluster, self._settings, self._window)
        for case in kafka.CASES:
            self._tell(f"librdkafka, {case.name}, {self._settings.kafka:g} s")
            self._run.kafka.append(load.measure(case))
            self._keep_profile(load.leader_pid, case.name)
        self._run.memory = self._memory(cluster)

    def _memory(self, cluster: Cluster) -> MemoryResult | None:
        """Only load makes it worth a look."""
        return measure_memory(cluster, self._run.memory) if self._run.http or self._run.kafka else None

    def _window(self, name: str) -> None:
        if self._profiling is not None:
            self._profiling.window(name)

    def _keep_profile(self, pid: int, name: str) -> None:
        if self._profiling is not None:
            self._run.profiles.append(self._profiling.profile(pid, name))


def check(plan: Plan) -> None:
    """Raises Failed for what does not go together."""
    if plan.profile and plan.url is not None and plan.cases != ("raft",):
        raise Failed("--profile needs a cluster of our own, whose processes start with the sampler: leave --url away")


def choose_cases(only: str | None, url: str | None) -> tuple[str, ...]:
    """The cases that `--only` names, or all that suit. Raises Failed for one that there is not."""
    if only is None:
        return CASES if url is None else ("raft", "idle", "http", "kafka", "queues")
    chosen = tuple(name.strip() for name in only.split(",") if name.strip())
    unknown = [name for name in chosen if name not in CASES]
    if unknown or not chosen:
        raise Failed(f"--only takes some of {', '.join(CASES)}, with commas between; got {only!r}")
    return chosen
