"""What no replica may ever show, judged from what nodes say of each other."""

from pathlib import Path

from msgspec.structs import replace

from jepsen.cluster import Cluster, Node
from jepsen.net import NamespaceNetwork
from jepsen.watch import Group, Replica, Watch

PIDS = {1: 101, 2: 102, 3: 103}


def watch(folder: Path) -> Watch:
    cluster = Cluster(folder, NamespaceNetwork())
    cluster.nodes |= {number: Node(number, folder, "", "", "", {}, []) for number in (1, 2, 3, 4)}
    return Watch(cluster, folder / "raft.jsonl")


def replica(node: int, commit: int, role: str = "follower", term: int = 4, uuid: str = "") -> Replica:
    return Replica(node, uuid or f"uuid {node}", role, term, commit, commit)


def test_a_commit_index_that_goes_back_is_found(tmp_path: Path) -> None:
    one = watch(tmp_path)
    one._judge(1, Group(6, [replica(3, 63)]), PIDS)
    one._judge(1, Group(6, [replica(3, 62)]), PIDS)
    assert one.anomalies.keys() == {"commit-went-back"}


def test_not_what_another_node_had_heard_before(tmp_path: Path) -> None:
    """Nodes tell what they last heard of others: seen in a cover run, while one was slow to answer."""
    one = watch(tmp_path)
    one._judge(3, Group(6, [replica(3, 63), replica(4, 62)]), PIDS)
    one._judge(1, Group(6, [replica(3, 62), replica(4, 62), replica(1, 64)]), PIDS)
    assert one.anomalies == {}


def test_nor_of_a_process_that_was_started_again(tmp_path: Path) -> None:
    one = watch(tmp_path)
    one._judge(1, Group(6, [replica(3, 63)]), PIDS)
    one._judge(1, Group(6, [replica(3, 60)]), PIDS | {3: 203})
    assert one.anomalies == {}


def test_two_leaders_in_a_term_are_found_whoever_tells_of_them(tmp_path: Path) -> None:
    one = watch(tmp_path)
    one._judge(1, Group(6, [replica(3, 63, "leader")]), PIDS)
    one._judge(2, Group(6, [replica(4, 63, "leader", term=5)]), PIDS)
    assert one.anomalies == {}
    one._judge(2, Group(6, [replica(4, 63, "leader")]), PIDS)
    assert one.anomalies.keys() == {"two-leaders"}


def test_a_replica_that_finds_damage_is_found_unless_its_disk_was_damaged_on_purpose(tmp_path: Path) -> None:
    one = watch(tmp_path)
    damaged = replace(replica(3, 63), damaged="partition id 6 has a batch of offsets 89 to 91 at 89")
    one._cluster.nodes[3].damaged = True
    one._judge(1, Group(6, [damaged]), PIDS)
    assert one.anomalies == {}
    one._cluster.nodes[3].damaged = False
    one._judge(1, Group(6, [damaged]), PIDS)
    assert one.anomalies.keys() == {"damaged-replica"}


def test_it_may_start_anew_as_a_learner_in_the_same_process(tmp_path: Path) -> None:
    one = watch(tmp_path)
    for again in (replica(3, 63), replica(3, 0, "learner"), replica(3, 5, "learner"), replica(3, 70)):
        one._judge(1, Group(6, [again]), PIDS)
    assert one.anomalies == {}
    one._judge(1, Group(6, [replica(3, 69)]), PIDS)
    assert one.anomalies.keys() == {"commit-went-back"}
