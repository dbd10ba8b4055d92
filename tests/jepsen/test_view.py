"""When a group counts as whole: what the harness waits for before it breaks the next thing."""

import pytest

from jepsen.view import _group

VOTER = {"voter": True, "role": "follower", "damaged": None}
LEARNER = {"voter": False, "role": "learner", "damaged": None}
ABSENT = {"voter": True, "role": "absent", "damaged": None}
DAMAGED = {"voter": True, "role": "follower", "damaged": "an entry does not match its CRC"}


def complete(number: int, replicas: list[dict[str, object]], factor: int, nodes: int) -> bool:
    found = {"group": number, "leader": 1, "partitions": 1, "replication_factor": factor, "replicas": replicas}
    return _group(found, nodes).complete


@pytest.mark.parametrize("lacking", [LEARNER, ABSENT, DAMAGED])
@pytest.mark.parametrize("number", [0, 3])
def test_a_group_with_too_few_sound_voters_is_not_whole(number: int, lacking: dict[str, object]) -> None:
    assert not complete(number, [VOTER, VOTER, lacking], 3, nodes=3)
    assert complete(number, [VOTER, VOTER, VOTER], 3, nodes=3)


def test_a_cluster_of_fewer_nodes_than_replicas_wanted_is_whole_with_what_there_is() -> None:
    assert complete(0, [VOTER, VOTER, VOTER], 5, nodes=3)
    assert not complete(0, [VOTER, VOTER, VOTER], 5, nodes=4)


def test_a_sixth_node_learns_in_the_control_group_for_good() -> None:
    assert complete(0, [VOTER] * 5 + [LEARNER], 5, nodes=6)
    assert not complete(0, [VOTER] * 5 + [ABSENT], 5, nodes=6)


def test_how_many_replicas_a_group_has_bounds_what_it_may_lose() -> None:
    found = {"group": 2, "leader": 1, "partitions": 0, "replication_factor": 3, "replicas": [VOTER] * 3}
    assert _group(found, 5).replicas == 3


def test_elsewhere_a_learner_is_on_its_way_to_vote_or_to_go() -> None:
    assert not complete(3, [VOTER] * 3 + [LEARNER], 3, nodes=5)
