"""The Raft group alone: three processes of consensus and storage, entries proposed on the leader.

Payload bytes are those of a record batch: stored once, in the same write as their entry, fsynced on a majority before
they count. Nothing of HTTP or of the broker is in it.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from bench.processes import Failed, Started, free_base_port
from bench.results import RaftCase, RaftResult
from bench.settings import Settings

CASES = ((200, 1), (200, 64), (16 << 10, 16), (1 << 20, 16))
"""(payload bytes, entries in flight)"""


def run(
    started: Started,
    folder: Path,
    settings: Settings,
    tell: Callable[[str], None],
    cases: tuple[tuple[int, int], ...] = CASES,
    environment: dict[str, str] | None = None,
) -> list[RaftResult]:
    nodes = range(1, settings.nodes + 1)
    port = free_base_port(nodes, range(20_000, 30_000, 16))
    folder.mkdir(parents=True, exist_ok=True)
    processes = [
        started.start(
            [sys.executable, "-m", "bench.raft_node", str(node), str(settings.nodes), str(folder), str(port)],
            environment=environment,
        )
        for node in nodes
    ]
    results = []
    for size, in_flight in cases:
        case = RaftCase(size, in_flight, settings.raft, settings.warm_up)
        tell(f"Raft alone, {case.name}, {case.seconds:g} s")
        results.append(_ask(processes[0], case))
    started.stop(processes)
    return results


def _ask(leader: subprocess.Popen[bytes], case: RaftCase) -> RaftResult:
    assert leader.stdin is not None
    assert leader.stdout is not None
    leader.stdin.write(msgspec.json.encode(case) + b"\n")
    leader.stdin.flush()
    line = leader.stdout.readline()
    if not line:
        raise Failed("the leading process of the Raft case has ended; what it said stands above")
    return msgspec.json.decode(line, type=RaftResult)
