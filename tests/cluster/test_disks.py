"""A disk that is gone, and a cluster that grows from one node: nothing acknowledged is lost or done by hand."""

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.dev import dev_cluster
from tests.cluster.workload import Account, create_topic, produce_while, verify
from tests.ports import free_offset

pytestmark = pytest.mark.cluster

SETTLE_SECONDS = 60.0


def _get(url: str) -> object:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


def _wait(what: str, condition: Callable[[], bool]) -> float:
    began = time.monotonic()
    while True:
        with contextlib.suppress(OSError):
            if condition():
                return time.monotonic() - began
        if time.monotonic() - began > SETTLE_SECONDS:
            raise TimeoutError(f"{what}: not after {SETTLE_SECONDS:.0f} s")
        time.sleep(0.1)


def _all_vote(url: str, nodes: int) -> bool:
    """Whether the cluster is healthy and every group has a voter on each of `nodes` nodes."""
    health = _get(url + "/v1/cluster/health_overview")
    groups = _get(url + "/v1/raft")
    assert isinstance(health, dict)
    assert isinstance(groups, list)
    return bool(health["is_healthy"]) and all(
        sum(replica["voter"] and replica["role"] != "absent" for replica in group["replicas"]) == nodes
        for group in groups
    )


@contextlib.contextmanager
def _server(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "raftbroker.cli.server", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _produce(urls: list[str], records: int, account: Account) -> None:
    asyncio.run(produce_while(urls, 3, account.records + records, lambda: False, account))


def test_a_node_whose_disk_is_gone_rejoins_empty_and_is_promoted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    account = Account()
    with dev_cluster(tmp_path, 3, restart=False) as cluster:
        asyncio.run(create_topic(cluster.urls, 6, 3))
        _produce(cluster.urls, 10_000, account)
        cluster.kill(2)
        shutil.rmtree(cluster.folder / "data" / "node-2" / "data")
        _produce([cluster.url(1), cluster.url(3)], 5_000, account)
        with _server("--config", str(cluster.folder / "data" / "node-2" / "node.toml")):
            took = _wait("node 2 votes in every group again", lambda: _all_vote(cluster.url(1), 3))
            _produce(cluster.urls, 5_000, account)
            cluster.kill(1)  # now the disk that was empty makes the majority
            survivors = [cluster.url(2), cluster.url(3)]
            _produce(survivors, 5_000, account)
            read = asyncio.run(verify(survivors, account))
    with capsys.disabled():
        print(f"\nrejoined and voting {took:.1f} s after it started empty; {read} records read from each survivor")
    assert read == account.records >= 25_000


def test_a_single_node_grows_to_three_online(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    account = Account()
    offset = free_offset([base + node for base in (7081, 8081, 9091) for node in (1, 2, 3)])

    def arguments(node: int) -> list[str]:
        values = {
            "node.id": node,
            "node.data_dir": tmp_path / f"node-{node}",
            "peers.listen": f"127.0.0.1:{7081 + node + offset}",
            "peers.secret": "a secret for this test alone",
            "http.listen": f"127.0.0.1:{8081 + node + offset}",
            "kafka.listen": f"127.0.0.1:{9091 + node + offset}",
        }
        if node > 1:
            values["cluster.join"] = f"127.0.0.1:{7082 + offset}"
        return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]

    urls = [f"http://127.0.0.1:{8081 + node + offset}" for node in (1, 2, 3)]
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(_server(*arguments(1)))
        _wait("the single node is ready", lambda: bool(_get(urls[0] + "/readyz")))
        asyncio.run(create_topic(urls[:1], 4, None))
        _produce(urls[:1], 10_000, account)
        stack.enter_context(_server(*arguments(2)))
        stack.enter_context(_server(*arguments(3)))
        _produce(urls[:1], 5_000, account)  # while it grows
        took = _wait("every group has three voters", lambda: _all_vote(urls[0], 3))
        _produce(urls, 5_000, account)
        first.kill()
        first.wait()
        _produce(urls[1:], 5_000, account)
        read = asyncio.run(verify(urls[1:], account))
    with capsys.disabled():
        print(
            f"\nthree voters everywhere {took:.1f} s after the last of it; {read} records read without the first node"
        )
    assert read == account.records >= 25_000
