"""One test from start to verdict: a cluster, clients, faults, the last reads, the judgement, and a folder that holds
it all."""

import asyncio
import contextlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from random import Random

from jepsen import availability, plots, report, store, timeline
from jepsen.cluster import READY_SECONDS, ROOT, SETTINGS, Cluster, Exit, Node
from jepsen.faults import FAULTS, Fault, Field, chosen
from jepsen.faults.command import commands
from jepsen.judge import Judgement, judge
from jepsen.nemesis import Nemesis, Rhythm
from jepsen.net import choose
from jepsen.options import Options
from jepsen.recorder import Recorder
from jepsen.running import RunningCluster
from jepsen.view import View
from jepsen.watch import Watch
from jepsen.workers import Worker
from jepsen.workloads import WORKLOADS
from jepsen.workloads.base import Setting, Workload

FINAL_SECONDS = 180.0
LAG_SECONDS = 1.0
OK_MIN = 10
"""With fewer operations that ended ok, a run says nothing."""

log = logging.getLogger(__name__)


@dataclass
class Run:
    """What is known of a run while it runs, for whoever shows it."""

    options: Options
    folder: Path
    phase: str = "starting"
    recorder: Recorder | None = None
    nemesis: Nemesis | None = None
    problems: dict[str, list[str]] = field(default_factory=dict)
    """What went wrong that no history shows, by name; any of it makes the run invalid."""
    skipped: dict[str, str] = field(default_factory=dict)
    lag: list[tuple[float, dict[int, int]]] = field(default_factory=list)
    judgement: Judgement | None = None
    results: dict[str, object] = field(default_factory=dict)

    def problem(self, name: str, text: str) -> None:
        self.problems.setdefault(name, []).append(text)


@dataclass(frozen=True)
class Plan:
    """What is to be broken: forms by the fault's name, and what each is."""

    variants: dict[str, tuple[str, ...]]
    kinds: Mapping[str, type[Fault]]


async def run_test(options: Options, show: Callable[[Run], None] = lambda run: None) -> Run:
    """Runs it and writes its folder. `show` is told when a new phase begins.

    Raises ValueError for options that cannot be had, TimeoutError and OSError where no cluster came to be."""
    kinds = faults_of(options)
    variants = chosen(options.faults, kinds)
    run = Run(options, store.new_run(options.test_name, options.store))
    store.write_json(run.folder / store.TEST, _about(options))
    async with _running(run) if options.urls else _started(run, variants) as (cluster, view):
        recorder = run.recorder = Recorder(run.folder / store.HISTORY)
        try:
            workload = WORKLOADS[options.workload](_setting(options, cluster, variants))
            if options.urls:
                await workload.refuse_leftovers()
            await workload.setup()
            missing = await view.recovered(READY_SECONDS)
            if missing is not None:
                raise TimeoutError(f"the topics did not get their replicas: {missing}")
            await _work(run, workload, cluster, view, Plan(variants, kinds), show)
        finally:
            recorder.close()
    run.phase = "judging"
    show(run)
    run.skipped |= {f"workload {options.workload}": remark for remark in workload.remarks}
    run.judgement = await judge(run.folder / store.HISTORY)
    _finish(run, workload)
    run.phase = "done"
    show(run)
    return run


def faults_of(options: Options) -> Mapping[str, type[Fault]]:
    """What can be broken, by name. Raises ValueError."""
    if not options.urls:
        return FAULTS
    return commands(options.fault_commands, options.heal_commands, options.ssh)


@contextlib.asynccontextmanager
async def _running(run: Run) -> AsyncIterator[tuple[Cluster, View]]:
    """A cluster that is somebody else's."""
    options = run.options
    run.skipped["node logs"] = "they are with the nodes, which were not started here"
    cluster = RunningCluster(run.folder, options.urls, options.kafka)
    view = View(cluster.urls)
    try:
        missing = await view.recovered(READY_SECONDS)
        if missing is not None:
            raise TimeoutError(f"the cluster is not well to begin with: {missing}")
        yield cluster, view
    finally:
        await view.close()


@contextlib.asynccontextmanager
async def _started(run: Run, variants: dict[str, tuple[str, ...]]) -> AsyncIterator[tuple[Cluster, View]]:
    options = run.options
    network = choose(options.net, shaping=not {"slow", "lossy"}.isdisjoint(variants))
    settings = {section: dict(keys) for section, keys in SETTINGS.items()}
    if "membership" in variants:
        settings["log"]["default_replication_factor"] = 5
    cluster = Cluster(run.folder / "cluster", network, settings, lambda ended: _on_exit(run, ended))
    if options.plant:
        cluster.environment["RAFTBROKER_PLANT"] = options.plant
    preparing = [kind for name, kind in FAULTS.items() if name in variants and not kind.unavailable(network.kind)]

    def prepare(node: Node) -> None:
        for kind in preparing:
            kind.prepare(node)

    try:
        await cluster.start(options.nodes, prepare)
        view = View(cluster.urls)
        try:
            missing = await view.recovered(READY_SECONDS)
            if missing is not None:
                raise TimeoutError(f"the cluster did not come to be: {missing}")
            yield cluster, view
        finally:
            await view.close()
    finally:
        await cluster.stop()
        for node in cluster.nodes.values():
            _keep(node.log, run.folder / f"node-{node.number}.log")
            for kind in preparing:
                kind.clean_up(node)
        if not options.keep_data and not run.problems:
            shutil.rmtree(cluster.folder, ignore_errors=True)


def _on_exit(run: Run, ended: Exit) -> None:
    if run.recorder is not None:
        run.recorder.nemesis("node-ended", f"node {ended.node}, status {ended.status}: {ended.last_line[:300]}")


def _setting(options: Options, cluster: Cluster, variants: dict[str, tuple[str, ...]]) -> Setting:
    return Setting(
        urls=cluster.urls,
        kafka=[node.kafka for node in cluster.nodes.values()],
        concurrency=options.concurrency,
        replication_factor=None if "membership" in variants or options.urls else min(options.nodes, 5),
        client=options.client,
        sub_via=options.sub_via,
    )


async def _work(
    run: Run,
    workload: Workload,
    cluster: Cluster,
    view: View,
    plan: Plan,
    show: Callable[[Run], None],
) -> None:
    """The main phase, the healing, the last reads."""
    options, recorder = run.options, run.recorder
    assert recorder is not None
    random = Random(f"{options.seed} nemesis")
    possible = [plan.kinds[name] for name in plan.variants]
    preparing = [kind for kind in possible if kind.unavailable(cluster.network.kind) is None]
    around = Field(cluster, view, random, len(cluster.nodes), preparing)
    rhythm = Rhythm(options.hold, options.quiet)
    nemesis = run.nemesis = Nemesis(around, recorder, plan.variants, rhythm, plan.kinds)
    watch = Watch(cluster, run.folder / "raft.jsonl")
    workers = [
        Worker(number, options.concurrency, workload, recorder, options.seed) for number in range(options.concurrency)
    ]
    try:
        async with asyncio.TaskGroup() as group:
            beside = [group.create_task(watch.run()), group.create_task(_measure_lag(run, workload))]
            breaking = group.create_task(nemesis.run())
            run.phase = "running"
            show(run)
            await asyncio.gather(*(worker.work(options.rate, options.time_limit) for worker in workers))
            run.phase = "healing"
            show(run)
            breaking.cancel()
            await asyncio.wait([breaking])
            await nemesis.heal()
            recorder.final = True
            run.phase = "reading everything"
            show(run)
            await _read_everything(run, recorder, workers)
            for task in beside:
                task.cancel()
    finally:
        await asyncio.gather(*(worker.close() for worker in workers), return_exceptions=True)
        await workload.close()
    _collect(run, nemesis, cluster, watch)


async def _read_everything(run: Run, recorder: Recorder, workers: list[Worker]) -> None:
    until = recorder.now + FINAL_SECONDS
    finished = await asyncio.gather(*(worker.finish(until) for worker in workers))
    for number, done in enumerate(finished):
        if not done:
            run.problem("unfinished-reads", f"worker {number} had not read everything after {FINAL_SECONDS:.0f} s")


async def _measure_lag(run: Run, workload: Workload) -> None:
    while True:
        assert run.recorder is not None
        run.lag.append((round(run.recorder.now, 1), workload.lag()))
        await asyncio.sleep(LAG_SECONDS)


def _collect(run: Run, nemesis: Nemesis, cluster: Cluster, watch: Watch) -> None:
    for text in nemesis.problems:
        run.problem("stuck", text)
    for ended in cluster.exits:
        run.problem("node-ended", f"node {ended.node} ended by itself, status {ended.status}: {ended.last_line[:300]}")
    for name, examples in watch.anomalies.items():
        for example in examples:
            run.problem(name, example)
    run.skipped |= nemesis.skipped


def _finish(run: Run, workload: Workload) -> None:
    """The verdict, the figures, the pictures."""
    recorder, judgement = run.recorder, run.judgement
    assert recorder is not None
    assert judgement is not None
    counts: dict[str, Counter[str]] = {}
    for sample in recorder.samples:
        counts.setdefault(sample.f, Counter())[sample.type] += 1
    ok = sum(1 for sample in recorder.samples if sample.type == "ok" and not sample.final)
    valid = judgement.valid
    if valid and ok < OK_MIN:
        valid, judgement.unknown = None, [*judgement.unknown, f"only {ok} operations ended ok"]
    if run.problems:
        valid = False
    figures = availability.measure(
        recorder.samples, recorder.faults, workload.writes, workload.keys, run.options.time_limit
    )
    run.results = {
        "valid": valid,
        "anomalies": judgement.anomalies,
        "bad": judgement.bad,
        "allowed": judgement.allowed,
        "unknown": judgement.unknown,
        "problems": run.problems,
        "skipped": run.skipped,
        "operations": {f: dict(count) for f, count in sorted(counts.items())},
        "seconds": run.options.time_limit,
        "availability": figures,
    }
    store.write_json(run.folder / store.RESULTS, run.results)  # before the pictures: they may take long, or fail
    missing = plots.draw_all(run.folder, recorder.samples, recorder.faults, run.lag, run.options.time_limit)
    if missing is not None:
        run.skipped["plots"] = missing
    missing = timeline.draw(run.folder, recorder.path, recorder.faults, run.options.concurrency)
    if missing is not None:
        run.skipped["timeline"] = missing
    store.write_json(run.folder / store.RESULTS, run.results)
    (run.folder / "index.html").write_text(report.one_run(run.folder), encoding="utf-8")


def _about(options: Options) -> dict[str, object]:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    packages = ("raftbroker", "pysyncobj", "rocksdict", "aiohttp", "uvloop")
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "workload": options.workload,
        "sub_via": options.sub_via,
        "options": asdict(options),
        "settings": SETTINGS,
        "commit": commit.stdout.strip() or None,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "machine": {"system": platform.platform(), "processors": os.cpu_count()},
        "command": sys.argv,
    }


def _keep(source: Path, target: Path) -> None:
    if source.exists():
        target.write_bytes(source.read_bytes())
