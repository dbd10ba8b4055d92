"""A cluster that somebody else runs: its addresses are known, and nothing of its processes, disks and network."""

from pathlib import Path
from urllib.parse import urlsplit

from jepsen.cluster import Cluster, Node
from jepsen.net import Pair, Shape


class NoNetwork:
    """See `jepsen.net.Network`: none that could be cut."""

    kind = "none"
    shapes = False

    async def start(self, nodes: list[int]) -> None: ...

    async def add(self, node: int) -> None: ...

    def host(self, node: int) -> str:
        return ""

    def peers_port(self, node: int) -> tuple[int, str]:
        return 0, ""

    def prefix(self, node: int) -> list[str]:
        return []

    async def cut(self, pairs: frozenset[Pair]) -> None: ...

    async def shape(self, links: dict[Pair, Shape]) -> None: ...

    async def stop(self) -> None: ...


class RunningCluster(Cluster):
    """Nodes are numbered from 1 in the order of `urls`. `kafka` has host:port of each, or nothing."""

    def __init__(self, folder: Path, urls: tuple[str, ...], kafka: tuple[str, ...]) -> None:
        super().__init__(folder, NoNetwork())
        for number, url in enumerate(urls, 1):
            address = kafka[number - 1] if kafka else ""
            self.nodes[number] = Node(number, folder, urlsplit(url).netloc, address, "", {}, [])

    @property
    def alive(self) -> list[int]:
        return list(self.nodes)

    async def stop(self) -> None:
        """It is not ours to stop."""

    async def run(self, number: int, *, wait: bool = True) -> None:
        """Nor to start."""

    async def kill(self, number: int) -> None:
        """Nor to kill: what breaks it heals it."""
