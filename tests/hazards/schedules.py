"""What happens to a cluster in each hazard, whoever replicates in it. Nobody's disk is lost and no majority dies."""

from tests.hazards.network import Cluster, heal, isolate, lost


def slow_resend(cluster: Cluster) -> list[str]:
    """Twelve writes while cut off for a moment, on a network with a round trip longer than the heartbeat, so that
    entries are sent again before they are acknowledged. The leader dies when a follower's log has become shorter than
    what is committed, or when all is acknowledged and nothing more happens. What is lost."""
    network = cluster.network
    network.delay, network.jitter, network.bandwidth = 0.15, 0.0, 2.5e6
    cluster.elect(0)
    cluster.run(1)
    isolate(cluster, 0)
    for number in range(12):
        cluster.put(0, f"{number:02}" + "x" * 30_000)
    cluster.run(0.25)
    isolate(cluster, 2)
    cluster.run(4, lambda: len(cluster.acknowledged) == 12 and cluster.last(1) < cluster.commit(0))
    cluster.kill(0)
    network.lose_all_under_way()
    heal(cluster)
    return lost(cluster)


def fast_resend(cluster: Cluster) -> list[str]:
    """The same within a rack, under a write every 2 ms."""
    network = cluster.network
    network.delay, network.jitter, network.bandwidth = 0.0005, 0.0, 125e6
    cluster.elect(0)
    cluster.run(1)
    isolate(cluster, 0)
    for number in range(40):
        cluster.put(0, f"{number:03}" + "x" * 30_000)
    cluster.run(0.25)
    isolate(cluster, 2)
    for number in range(40, 240):
        cluster.put(0, f"{number:03}" + "x" * 30_000)
        if cluster.run(0.002, lambda: len(cluster.acknowledged) >= 40 and cluster.last(1) < cluster.commit(0), 0.0005):
            break
    cluster.kill(0)
    network.lose_all_under_way()
    heal(cluster)
    return lost(cluster)


def late_acknowledgement(cluster: Cluster) -> tuple[list[str], list[str]]:
    """Five nodes. Node 1 acknowledges entries of node 0 that node 2, leading a later term, replaces; the
    acknowledgements are late, and arrive when node 0 leads again, with other entries, reaching node 2 alone. What of
    these was acknowledged then, and what of it is lost when nodes 0 and 2 die."""
    network = cluster.network
    cluster.elect(0)
    cluster.run(0.5)
    network.held[(1, 0)] = []
    isolate(cluster, 0, 1)
    for number in range(8):
        cluster.put(0, f"discarded {number}")
    cluster.run(0.3)
    cluster.elect(2)
    heal(cluster)
    cluster.run(0.6)
    cluster.elect(0)
    network.cut = {(0, 1), (0, 3), (3, 0), (0, 4), (4, 0)}
    network.release((1, 0))
    for number in range(3):
        cluster.put(0, f"kept {number}")
    cluster.run(0.4)
    acknowledged = list(cluster.acknowledged)
    cluster.kill(0, 2)
    heal(cluster)
    return acknowledged, lost(cluster)


def _divergence(cluster: Cluster) -> None:
    """Node 1 has 30 entries that nobody else has; node 0 leads since, and needs a snapshot to serve it."""
    cluster.network.jitter = 0.02
    cluster.elect(0)
    cluster.run(0.3)
    cluster.elect(1)
    cluster.run(0.3)
    isolate(cluster, 1)
    for number in range(30):
        cluster.put(1, f"divergent {number}")
    cluster.run(0.2)
    cluster.elect(0)
    for number in range(10):
        cluster.put(0, f"agreed {number}")
    cluster.run(0.5)
    cluster.compact(0)


def snapshot_over_divergence(cluster: Cluster) -> list[str]:
    """The snapshot comes in many pieces. Which divergent values were acknowledged."""
    _divergence(cluster)
    isolate(cluster, 2)
    cluster.run(1)
    heal(cluster)
    cluster.run(2)
    assert all("agreed 9" in cluster.values(node) for node in cluster.ids)
    assert not any("divergent" in value for node in cluster.ids for value in cluster.values(node))
    return [value for value in cluster.acknowledged if value.startswith("divergent")]


def snapshot_alone(cluster: Cluster, *, loads: bool) -> tuple[list[str], int]:
    """Only node 1, which needs the snapshot and may fail to load it, can help the leader to a majority. What was
    acknowledged of what was written then, and how many nodes have the leader's last committed entry."""
    _divergence(cluster)
    if not loads:
        cluster.break_loading(1)
    isolate(cluster, 2)
    cluster.run(1)
    for number in range(4):
        cluster.put(0, f"later {number}")
    cluster.run(0.6)
    later = [value for value in cluster.acknowledged if value.startswith("later")]
    return later, cluster.holders(0, cluster.commit(0))


def ordinary_faults(cluster: Cluster, rounds: int = 120) -> list[str]:
    """Partitions and delays drawn at random, nobody dies. What a leader that has committed its no-op lacks of what was
    acknowledged."""
    network, draw = cluster.network, cluster.network.random
    network.delay, network.jitter = draw.choice([0.001, 0.02, 0.08, 0.15]), draw.choice([0, 0.02, 0.1])
    network.bandwidth = draw.choice([None, 3e5, 2e6])
    written = 0
    for _ in range(rounds):
        chance = draw.random()
        if chance < 0.12:
            a, b = draw.sample(cluster.ids, 2)
            network.cut |= {(a, b), (b, a)}
        elif chance < 0.2:
            a = draw.choice(cluster.ids)
            network.cut |= {wire for b in cluster.ids for wire in ((a, b), (b, a))}
        elif chance < 0.45:
            heal(cluster)
        for _ in range(draw.randrange(6)):
            leaders = cluster.leaders()
            if leaders:
                written += 1
                cluster.put(draw.choice(leaders), f"{written}x" + "y" * draw.choice([10, 900]))
        cluster.run(draw.choice([0.05, 0.2, 0.6]))
        for leader in cluster.serving():
            have = set(cluster.values(leader))
            missing = [value for value in cluster.acknowledged if value not in have]
            if missing:
                return missing
    return []
