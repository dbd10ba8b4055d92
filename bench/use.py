"""What the nodes' processes take while nobody asks anything of them: CPU and memory."""

import time

from bench.cluster import Cluster
from bench.processes import cpu_seconds, resident_megabytes
from bench.results import IdleResult, MemoryResult, NodeUse


def measure_idle(cluster: Cluster, settle: float, seconds: float) -> IdleResult:
    time.sleep(settle)
    pids = {node: cluster.pid(node) for node in cluster.addresses}
    before = {node: cpu_seconds(pid) for node, pid in pids.items()}
    began = time.perf_counter()
    time.sleep(seconds)
    took = time.perf_counter() - began
    return IdleResult(
        took,
        tuple(
            NodeUse(node, 100 * (cpu_seconds(pid) - before[node]) / took, resident_megabytes(pid))
            for node, pid in pids.items()
        ),
    )


def measure_memory(cluster: Cluster, earlier: MemoryResult | None = None) -> MemoryResult:
    """What each node's process holds now, or held at an `earlier` look if that was more."""
    known = {use.node: use.resident_megabytes for use in earlier.nodes} if earlier is not None else {}
    return MemoryResult(
        tuple(
            NodeUse(node, 0.0, max(resident_megabytes(cluster.pid(node)), known.get(node, 0.0)))
            for node in cluster.addresses
        )
    )
