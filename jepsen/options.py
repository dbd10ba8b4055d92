"""What a test is told: `python -m jepsen test --help` has the same words."""

from dataclasses import dataclass, field
from pathlib import Path

from jepsen.store import STORE


@dataclass(frozen=True)
class Options:
    """One test. Seconds throughout; `rate` is operations a second, of all workers together."""

    workload: str = "log"
    nodes: int = 3
    faults: tuple[str, ...] = ("all",)
    time_limit: float = 120.0
    rate: float = 200.0
    concurrency: int = 20
    seed: int = 0
    client: str = "http"
    sub_via: str = "assign"
    net: str = "auto"
    hold: float = 6.0
    quiet: float = 5.0
    store: Path = STORE
    name: str = ""
    """Of the test's folder; made of workload, nodes and faults where it is empty."""
    plant: str = ""
    """A bug to plant into every node: see `jepsen.plants`."""
    urls: tuple[str, ...] = ()
    """Of a cluster that runs already."""
    kafka: tuple[str, ...] = ()
    """host:port of each of its nodes, for workloads whose clients speak Kafka's protocol."""
    ssh: str = ""
    """How to reach a node's machine; {host} stands for its host."""
    fault_commands: dict[str, str] = field(default_factory=dict)
    heal_commands: dict[str, str] = field(default_factory=dict)
    keep_data: bool = False
    """Whether the nodes' data directories stay in the run's folder."""

    @property
    def test_name(self) -> str:
        if self.name:
            return self.name
        faults = "+".join(name.replace(":", "-") for name in self.faults) or "none"
        planted = f"-{self.plant}" if self.plant else ""
        return f"{self.workload}-{len(self.urls) or self.nodes}n-{faults[:60]}{planted}"
