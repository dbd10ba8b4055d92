"""A trace of system calls: no acknowledgement without an fsync on a majority, and one fsync serves many writes."""

import asyncio
import contextlib
import itertools
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.cluster.dev import DevCluster, dev_cluster
from tests.cluster.workload import JSON_V2, TOPIC, create_topic

pytestmark = pytest.mark.cluster

SYNC = re.compile(r"^\d+ +(?P<began>[\d.]+) (?:fsync|fdatasync)\(\d+\) += 0 <(?P<took>[\d.]+)>")
RESUMED = re.compile(r"^\d+ +(?P<ended>[\d.]+) <\.\.\. (?:fsync|fdatasync) resumed>\) += 0")


def _completed_syncs(trace: Path) -> list[float]:
    """When each fsync or fdatasync of the process had returned, seconds since 1970."""
    times = []
    for line in trace.read_text().splitlines():
        if match := SYNC.match(line):
            times.append(float(match["began"]) + float(match["took"]))
        elif match := RESUMED.match(line):
            times.append(float(match["ended"]))
    return times


@contextlib.contextmanager
def _traced(cluster: DevCluster) -> Iterator[list[Path]]:
    """Traces every node's fsyncs into a file each."""
    with contextlib.ExitStack() as stack:
        traces = []
        for node in range(1, cluster.nodes + 1):
            trace = cluster.folder / f"strace-{node}"
            command = ["strace", "-f", "-ttt", "-T", "-e", "trace=fsync,fdatasync", "-o", str(trace)]
            process = subprocess.Popen(
                [*command, "-p", str(cluster.pid(node))], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
            assert process.stderr is not None
            said = process.stderr.readline().decode()
            if "attached" not in said:
                pytest.skip(f"strace may not attach here: {said.strip()}")
            traces.append(trace)
        yield traces


async def _produce(session: aiohttp.ClientSession, url: str, number: int) -> tuple[float, float]:
    """One record; (when it was sent, when it was acknowledged), seconds since 1970."""
    sent = time.time()
    body = {"records": [{"value": f"record {number}"}]}
    async with session.post(f"{url}/topics/{TOPIC}", json=body, headers=JSON_V2) as answer:
        assert answer.status == 200, await answer.text()
        await answer.read()
    return sent, time.time()


async def _one_by_one(url: str, count: int) -> list[tuple[float, float]]:
    async with aiohttp.ClientSession() as session:
        return [await _produce(session, url, n) for n in range(count)]


async def _together(url: str, clients: int, each: int) -> int:
    numbers = itertools.count()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=clients)) as session:

        async def client() -> int:
            return len([await _produce(session, url, next(numbers)) for _ in range(each)])

        return sum(await asyncio.gather(*(client() for _ in range(clients))))


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_acknowledgements_wait_for_the_fsync_of_a_majority_and_share_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with dev_cluster(tmp_path, 3) as cluster:
        asyncio.run(create_topic(cluster.urls, 1, 3))
        with _traced(cluster) as traces:
            windows = asyncio.run(_one_by_one(cluster.url(1), 60))
            began = time.time()
            acknowledged = asyncio.run(_together(cluster.url(1), 64, 20))
            ended = time.time()
        synced = [_completed_syncs(trace) for trace in traces]
    for sent, answered in windows:
        nodes = sum(any(sent <= at <= answered for at in node) for node in synced)
        assert nodes >= 2, f"acknowledged after {answered - sent:.4f} s with a completed fsync on {nodes} nodes"
    counts = [sum(began <= at <= ended for at in node) for node in synced]
    with capsys.disabled():
        print(
            f"\n{len(windows)} records one by one, each acknowledged after completed fsyncs on a majority; "
            f"{acknowledged} records from 64 clients: {counts} fsyncs on the three nodes"
        )
    assert min(counts) > 0
    assert max(counts) * 3 < acknowledged
