"""A `raftbroker dev` cluster of real processes for a test: started, killed into, asked, and ended with the test."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.ports import free_offset

READY_SECONDS = 60.0


def _ports(offset: int, nodes: int) -> list[int]:
    return [base + i + offset for base in (7081, 8081, 9091) for i in range(1, nodes + 1)]


class DevCluster:
    """Nodes 1..n, restarted by `dev` when they die."""

    def __init__(self, folder: Path, nodes: int, restart: bool = True) -> None:
        self.folder = folder
        self.nodes = nodes
        self.offset = free_offset(_ports(0, nodes))
        self.log = (folder / "dev.log").open("wb")
        self.process = subprocess.Popen(
            [
                *(str(Path(sys.executable).with_name("raftbroker")), "dev", "--nodes", str(nodes)),
                *("--data", str(folder / "data"), "--port-offset", str(self.offset)),
                *(() if restart else ("--no-restart",)),
            ],
            stdout=self.log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )

    def url(self, node: int) -> str:
        return f"http://127.0.0.1:{8081 + node + self.offset}"

    @property
    def urls(self) -> list[str]:
        return [self.url(node) for node in range(1, self.nodes + 1)]

    def pid(self, node: int) -> int:
        return int((self.folder / "data" / f"node-{node}" / "node.pid").read_text())

    def kill(self, node: int) -> None:
        """kill -9, by its own pid."""
        os.kill(self.pid(node), signal.SIGKILL)

    def ready(self, node: int) -> bool:
        try:
            with urllib.request.urlopen(self.url(node) + "/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def wait_ready(self, *nodes: int) -> None:
        deadline = time.monotonic() + READY_SECONDS
        waiting = list(nodes or range(1, self.nodes + 1))
        while waiting := [node for node in waiting if not self.ready(node)]:
            if self.process.poll() is not None:
                raise RuntimeError(f"dev ended with status {self.process.returncode}:\n{self.output()}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"nodes {waiting} are not ready after {READY_SECONDS:.0f} s:\n{self.output()}")
            time.sleep(0.05)

    def wait_whole(self) -> None:
        """Returns once every node is ready and sees all others."""
        self.wait_ready()
        deadline = time.monotonic() + READY_SECONDS
        for url in self.urls:
            while self._nodes_down(url) != []:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{url} misses {self._nodes_down(url)} after {READY_SECONDS:.0f} s")
                time.sleep(0.05)

    def _nodes_down(self, url: str) -> list[int] | None:
        """None while nobody answers."""
        try:
            with urllib.request.urlopen(f"{url}/v1/cluster/health_overview", timeout=5) as answer:
                down: list[int] = json.load(answer)["nodes_down"]
                return down
        except (urllib.error.URLError, OSError):
            return None

    def output(self) -> str:
        """What dev said, and the end of every node's log."""
        parts = [(self.folder / "dev.log").read_text(errors="replace")]
        logs = sorted((self.folder / "data").glob("node-*/node.log"))
        parts += [
            f"--- {log.parent.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-30:]) for log in logs
        ]
        return "\n".join(parts)

    def stop(self) -> int:
        """Ends in order; returns dev's exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()
        return int(self.process.returncode)


@contextlib.contextmanager
def dev_cluster(folder: Path, nodes: int, restart: bool = True) -> Iterator[DevCluster]:
    cluster = DevCluster(folder, nodes, restart)
    try:
        cluster.wait_ready()
        yield cluster
    finally:
        cluster.stop()
