"""Testing a cluster that somebody else started: here `raftbroker dev`, which restarts what a command kills."""

import asyncio
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from jepsen.cluster import ROOT
from jepsen.faults import Fault, Field, Skipped, Stuck
from jepsen.faults.command import SYSTEMD, commands, filled
from jepsen.running import RunningCluster
from jepsen.store import read_json
from jepsen.view import View
from tests.cluster.dev import DevCluster, dev_cluster

URLS = ("http://a.example:8082", "http://b.example:8082", "http://c.example:8082")


def test_a_command_is_filled_in_for_a_node_and_keeps_the_shells_braces() -> None:
    told = filled("ssh {host} 'curl {url}; kill -9 ${PID}; echo {node}'", 2, URLS[1])
    assert told == "ssh b.example 'curl http://b.example:8082; kill -9 ${PID}; echo 2'"


def test_with_a_way_to_the_nodes_a_systemd_unit_can_be_broken() -> None:
    kinds = commands({"clock": "date -s tomorrow"}, {}, "root@{host}")
    assert kinds.keys() == {*SYSTEMD, "clock"}
    assert kinds["clock"].breaking == "ssh -o BatchMode=yes root@{host} 'date -s tomorrow'"  # type: ignore[attr-defined]
    assert kinds["restart"].healing == ""  # type: ignore[attr-defined]


def test_healing_what_cannot_be_broken_is_refused() -> None:
    with pytest.raises(ValueError, match="cut can be healed but not broken"):
        commands({}, {"cut": "true"}, "")


def fault(folder: Path, variant: str, breaking: str, healing: str = "") -> Fault:
    field = Field(RunningCluster(folder, URLS, ()), View(list(URLS)), Random(1), 3)
    return commands({"it": breaking}, {"it": healing} if healing else {}, "")["it"](field, variant)


def test_each_victim_is_broken_and_healed(tmp_path: Path) -> None:
    def victims() -> list[int]:
        return sorted(int(path.name) for path in tmp_path.iterdir())

    async def run() -> None:
        one = fault(tmp_path, "majority", f"touch {tmp_path}/{{node}}", f"rm {tmp_path}/{{node}}")
        assert await one.begin() == f"nodes {victims()}"
        assert len(victims()) == 2
        await one.end()

    asyncio.run(run())
    assert victims() == []


def test_a_command_that_fails_is_skipped_with_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(Skipped, match="no way in"):
        asyncio.run(fault(tmp_path, "one", "echo no way in; false").begin())


def test_one_that_fails_to_heal_is_a_finding(tmp_path: Path) -> None:
    async def run() -> None:
        one = fault(tmp_path, "one", "true", "echo still down; exit 3")
        await one.begin()
        await one.end()

    with pytest.raises(Stuck, match="still down"):
        asyncio.run(run())


@pytest.mark.cluster
def test_a_cluster_that_runs_is_tested_once(tmp_path: Path) -> None:
    """A second run would read what the first has sent."""
    with dev_cluster(tmp_path, 3) as cluster:
        cluster.wait_whole()
        first = run_against(cluster, tmp_path / "first")
        assert first.returncode == 0, first.stdout + first.stderr
        second = run_against(cluster, tmp_path / "second")
    assert second.returncode == 2
    assert "which a test would make: delete them first" in " ".join(second.stdout.split())
    (folder,) = (path.parent for path in (tmp_path / "first").glob("*/*/test.json"))
    results = read_json(folder / "results.json")
    assert results["valid"] is True
    assert [kind["fault"] for kind in results["availability"]["by_kind"]] == ["kill:one"]  # type: ignore[index]
    assert results["skipped"] == {"node logs": "they are with the nodes, which were not started here"}


def run_against(cluster: DevCluster, store: Path) -> subprocess.CompletedProcess[str]:
    pid_file = cluster.folder / "data" / "node-{node}" / "node.pid"
    command = [
        *(sys.executable, "-m", "jepsen", "test", f"--store={store}", "--time-limit=8", "--rate=50", "--concurrency=6"),
        *(f"--fault-command=kill=kill -9 $(cat {pid_file})", "--faults=kill:one", "--hold=2", "--quiet=1.5"),
        *(f"--url={url}" for url in cluster.urls),
    ]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
