"""pysyncobj 0.3.17's replication loses what it acknowledged. Ours, on the same schedules: `test_ours_holds.py`.

A test that fails here means that a release has mended something: read it again before moving the pin.
"""

from typing import Any

from tests.hazards.upstream import Cluster


def spy_on_shrinking(cluster: Cluster, node: int) -> list[tuple[int, int]]:
    """(last index before, after) of each message that made the node's log shorter."""
    shrunk: list[tuple[int, int]] = []
    replica, receive = cluster.nodes[node], cluster.network.inboxes[node]

    def watched(src: int, message: dict[str, Any]) -> None:
        before = replica.last
        receive(src, message)
        if replica.last < before:
            shrunk.append((before, replica.last))

    cluster.network.inboxes[node] = watched
    return shrunk


def test_a_resend_truncates_what_was_acknowledged() -> None:
    """A round trip longer than the heartbeat: entries sent twice arrive twice, and each append drops all that follows
    it, matching or not. The leader dies at that moment: acknowledged writes are on no majority any more."""
    cluster = Cluster(3, 3)
    network, nodes = cluster.network, cluster.nodes
    network.delay, network.jitter, network.bandwidth = 0.15, 0.0, 2.5e6
    cluster.elect(0)
    cluster.run(1)
    cluster.isolate(0)
    for number in range(12):
        cluster.put(0, f"{number:02}" + "x" * 30_000)
    cluster.run(0.25)
    cluster.isolate(2)
    shrunk = spy_on_shrinking(cluster, 1)
    assert cluster.run(4, lambda: len(cluster.acknowledged) == 12 and nodes[1].last < nodes[0].raftCommitIndex), (
        "the follower no longer truncates below the leader's commit index"
    )
    assert shrunk
    cluster.kill(0)
    network.lose_all_under_way()
    cluster.heal()
    assert len(cluster.lost()) == 9


def test_a_resend_truncates_what_was_acknowledged_on_a_fast_network_too() -> None:
    cluster = Cluster(3, 3, appendEntriesUseBatch=False)
    network, nodes = cluster.network, cluster.nodes
    network.delay, network.jitter, network.bandwidth = 0.0005, 0.0, 125e6
    cluster.elect(0)
    cluster.run(1)
    cluster.isolate(0)
    for number in range(40):
        cluster.put(0, f"{number:03}" + "x" * 30_000)
    cluster.run(0.25)
    cluster.isolate(2)
    written = 40

    def steadily() -> bool:
        nonlocal written
        if written < 300 and round((network.now - 1000) * 2000) % 4 == 0:
            cluster.put(0, f"{written:03}" + "x" * 30_000)
            written += 1
        return len(cluster.acknowledged) >= 40 and nodes[1].last < nodes[0].raftCommitIndex

    assert cluster.run(3, steadily, step=0.0005)
    cluster.kill(0)
    network.lose_all_under_way()
    cluster.heal()
    assert len(cluster.lost()) >= 30


def test_a_late_acknowledgement_counts_in_a_later_term() -> None:
    """Acknowledgements bear no term: those of term t arrive when the same node leads again, for another log."""
    cluster = Cluster(7, 5)
    network, nodes = cluster.network, cluster.nodes
    cluster.elect(0)
    cluster.run(0.5)
    network.held[(1, 0)] = []
    cluster.isolate(0, 1)
    for number in range(8):
        cluster.put(0, f"discarded {number}")
    cluster.run(0.3)
    cluster.elect(2)
    cluster.heal()
    cluster.run(0.6)
    assert cluster.leaders() == [2]
    cluster.elect(0)
    network.cut = {(0, 1), (0, 3), (3, 0), (0, 4), (4, 0)}
    network.release((1, 0))
    for number in range(3):
        cluster.put(0, f"kept {number}")
    cluster.run(0.4)
    assert cluster.acknowledged == ["kept 0", "kept 1", "kept 2"], "with two of five"
    assert sum(node.last >= nodes[0].raftCommitIndex for node in nodes.values()) == 2
    cluster.kill(0, 2)
    cluster.heal()
    assert cluster.lost() == ["kept 0", "kept 1", "kept 2"]


def diverged(**options: Any) -> Cluster:
    """Node 1 has 30 entries that nobody else has; node 0 leads since and has compacted its log."""
    cluster = Cluster(5, 3, **options)
    cluster.network.jitter = 0.02
    cluster.elect(0)
    cluster.run(0.3)
    cluster.elect(1)
    cluster.run(0.3)
    cluster.isolate(1)
    for number in range(30):
        cluster.put(1, f"divergent {number}")
    cluster.run(0.2)
    cluster.elect(0)
    for number in range(10):
        cluster.put(0, f"agreed {number}")
    cluster.run(0.5)
    cluster.nodes[0].forceLogCompaction()
    cluster.run(0.5)
    assert cluster.nodes[0].inner("raftLog")[0][1] > 2
    return cluster


def test_chunks_of_a_snapshot_commit_entries_that_never_were() -> None:
    cluster = diverged(logCompactionBatchSize=64)
    cluster.isolate(2)
    cluster.run(1)
    told = [value for value in cluster.acknowledged if value.startswith("divergent")]
    assert len(told) >= 5, "callers are told SUCCESS for what is then thrown away"
    cluster.heal()
    cluster.run(2)
    assert not any(value in node.values for value in told for node in cluster.nodes.values())


def test_a_follower_acknowledges_a_snapshot_it_could_not_load() -> None:
    cluster = diverged()

    def broken() -> None:
        raise OSError("disk")

    cluster.nodes[1].inner("serializer").deserialize = broken
    cluster.isolate(2)
    cluster.run(1)
    before = len(cluster.acknowledged)
    for number in range(4):
        cluster.put(0, f"later {number}")
    cluster.run(0.6)
    assert len(cluster.acknowledged) == before + 4
    commit = cluster.nodes[0].raftCommitIndex
    assert cluster.nodes[0].term_at(commit) != cluster.nodes[1].term_at(commit), "committed with one copy of two"


def fuzz(seed: int) -> list[str]:
    """Ordinary partitions and delays, nobody dies; what a leader that has committed its no-op does not have."""
    cluster = Cluster(seed, 3, appendEntriesUseBatch=seed % 2 == 0, appendEntriesBatchSizeBytes=2000)
    network, draw = cluster.network, cluster.network.random
    network.delay, network.jitter = draw.choice([0.001, 0.02, 0.08, 0.15]), draw.choice([0, 0.02, 0.1])
    network.bandwidth = draw.choice([None, 3e5, 2e6])
    written = 0
    for _ in range(120):
        chance = draw.random()
        if chance < 0.12:
            a, b = draw.sample(cluster.ids, 2)
            network.cut |= {(a, b), (b, a)}
        elif chance < 0.2:
            a = draw.choice(cluster.ids)
            network.cut |= {wire for b in cluster.ids for wire in ((a, b), (b, a))}
        elif chance < 0.45:
            cluster.heal()
        for _ in range(draw.randrange(6)):
            leaders = cluster.leaders()
            if leaders:
                written += 1
                cluster.put(draw.choice(leaders), f"{written}x" + "y" * draw.choice([10, 900]))
        cluster.run(draw.choice([0.05, 0.2, 0.6]))
        term = max(node.raftCurrentTerm for node in cluster.nodes.values())
        for leader in cluster.leaders():
            node = cluster.nodes[leader]
            if node.raftCurrentTerm == term and node.raftLastApplied >= (node.inner("noopIDx") or 10**9):
                missing = [value for value in cluster.acknowledged if value not in node.values]
                if missing:
                    return missing
    return []


def test_ordinary_faults_lose_acknowledged_writes() -> None:
    """About one seed in 200 does; this is one."""
    assert fuzz(100)


# --- what its election lacks (ours: tests/unit/consensus/test_election.py) ----------------------------------


def test_a_one_way_cut_raises_the_term_without_end() -> None:
    cluster = Cluster(1, 3)
    cluster.elect(0)
    cluster.run(1)
    before = max(node.raftCurrentTerm for node in cluster.nodes.values())
    cluster.network.cut = {(0, 1), (2, 1)}
    cluster.run(30)
    assert max(node.raftCurrentTerm for node in cluster.nodes.values()) - before > 10


def test_a_cut_off_leader_believes_in_itself_for_long() -> None:
    cluster = Cluster(1, 3)
    cluster.elect(0)
    cluster.run(1)
    cluster.isolate(0)
    cluster.run(20)
    assert len(cluster.leaders()) == 2


def test_a_repeated_vote_is_counted_again() -> None:
    cluster = Cluster(1, 5)
    cluster.isolate(0, 1)
    node = cluster.nodes[0]
    node.set_inner("raftElectionDeadline", 0)
    assert cluster.run(1, lambda: cluster.nodes[1].inner("votedForNodeId") == 0)
    cluster.run(0.05)
    assert not node._isLeader()
    cluster.network.inboxes[0](1, {"type": "response_vote", "term": node.raftCurrentTerm})
    assert node._isLeader(), "with two votes of five"
