"""The Raft group alone: three processes of consensus and storage, entries proposed on the leader.

Payload bytes are those of a record batch: stored once, in the same write as their entry, fsynced on a majority before
they count. Nothing of HTTP or of the broker is in it.
"""

import sys
from pathlib import Path

import msgspec

from bench.processes import Failed, Started, free_base_port
from bench.results import RaftCase, RaftResult
from bench.settings import Settings

CASES = ((200, 1), (200, 64), (16 << 10, 16), (1 << 20, 16))
"""(payload bytes, entries in flight)"""


def make_case(size: int, in_flight: int, settings: Settings) -> RaftCase:
    seconds = settings.raft_large if size > 1024 else settings.raft
    return RaftCase(size, in_flight, seconds, settings.warm_up)


class RaftGroup:
    """The three processes; node 1 leads."""

    def __init__(self, started: Started, folder: Path, nodes: int, environment: dict[str, str] | None = None) -> None:
        self._started = started
        folder.mkdir(parents=True, exist_ok=True)
        numbers = range(1, nodes + 1)
        port = free_base_port(numbers, range(20_000, 30_000, 16))
        self._processes = [
            started.start(
                [sys.executable, "-m", "bench.raft_node", str(number), str(nodes), str(folder), str(port)],
                environment=environment,
            )
            for number in numbers
        ]
        self._line()  # it leads

    @property
    def leader_pid(self) -> int:
        return self._processes[0].pid

    def measure(self, case: RaftCase) -> RaftResult:
        """Raises Failed."""
        leader = self._processes[0]
        assert leader.stdin is not None
        leader.stdin.write(msgspec.json.encode(case) + b"\n")
        leader.stdin.flush()
        return msgspec.json.decode(self._line(), type=RaftResult)

    def _line(self) -> bytes:
        output = self._processes[0].stdout
        assert output is not None
        line = output.readline()
        if not line:
            raise Failed("the leading process of the Raft case has ended; what it said stands above")
        return line

    def stop(self) -> None:
        self._started.stop(self._processes)
