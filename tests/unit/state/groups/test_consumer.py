"""KIP-848, case by case."""

import pytest

from raftbroker.state.groups import ops as asked
from raftbroker.state.groups import views
from raftbroker.state.groups.assignors import ASSIGNORS, Subscriber
from raftbroker.state.groups.consumer import AWAY
from raftbroker.state.groups.rows import Assignment, Topics
from raftbroker.state.groups.terms import GroupError, GroupState
from tests.unit.state.groups.world import NAME, World

TOPICS: Topics = {"t": ("id-t", 4)}


@pytest.fixture
def world() -> World:
    return World()


def assign(world: World, topics: Topics = TOPICS) -> None:
    """What the shard's leader does when the group's epoch has risen."""
    group = world.consumer
    subscribers = [
        Subscriber(member.id, member.instance_id, frozenset(member.names), group.targets.get(member.id, {}))
        for member in group.members.values()
    ]
    targets = ASSIGNORS[group.assignor](subscribers, topics)
    world.do(asked.SetTargets(NAME, group.row.epoch, topics != group.topics and bool(group.topics), topics, targets))


def join(world: World, member_id: str, **kwargs: object) -> asked.Reconciled:
    assert world.do(world.subscribe_op(member_id, **kwargs)).error is None  # type: ignore[arg-type]
    assign(world)
    return world.do(world.reconcile_op(member_id, 0, {}, kwargs.get("instance")))  # type: ignore[arg-type]


def beat(world: World, member_id: str, owned: Assignment | None = None) -> asked.Reconciled:
    return world.do(world.reconcile_op(member_id, world.consumer.members[member_id].epoch, owned))


def test_the_first_member_is_given_everything(world: World) -> None:
    given = join(world, "c1")
    assert (given.error, given.epoch, given.assigned) == (None, 1, {"id-t": (0, 1, 2, 3)})
    assert world.group.state is GroupState.STABLE
    world.restart_other()


def test_nothing_is_given_before_there_is_a_target(world: World) -> None:
    world.do(world.subscribe_op("c1"))
    assert world.do(world.reconcile_op("c1", 0, {})).error is GroupError.COORDINATOR_NOT_AVAILABLE


def test_a_partition_changes_hands_only_once_it_was_given_up(world: World) -> None:
    join(world, "c1")
    second = join(world, "c2")
    assert (second.epoch, second.assigned) == (2, {}), "all of its target is still the first one's"
    assert world.consumer.members["c2"].unreleased
    asked_back = beat(world, "c1")
    assert (asked_back.epoch, asked_back.assigned) == (1, {"id-t": (0, 1)})
    assert beat(world, "c2").assigned == {}
    assert beat(world, "c1", {"id-t": (0, 1, 2, 3)}).epoch == 1, "it has not given anything up yet"
    assert beat(world, "c1", None).epoch == 1, "it does not say"
    world.restart_other()
    assert beat(world, "c2").assigned == {}
    assert beat(world, "c1", {"id-t": (0, 1)}).epoch == 2
    last = beat(world, "c2")
    assert (last.epoch, last.changed, last.assigned) == (2, True, {"id-t": (2, 3)})
    assert world.group.state is GroupState.STABLE


def test_a_member_that_leaves_frees_its_partitions_at_once(world: World) -> None:
    join(world, "c1")
    join(world, "c2")
    beat(world, "c1")
    world.do(asked.LeaveConsumer(NAME, "c1", None, away=False))
    assign(world)
    assert beat(world, "c2").assigned == {"id-t": (0, 1, 2, 3)}
    world.do(asked.LeaveConsumer(NAME, "c2", None, away=False))
    assert world.group.state is GroupState.EMPTY


def test_epochs_fence(world: World) -> None:
    join(world, "c1")
    join(world, "c2")
    beat(world, "c1")
    beat(world, "c1", {"id-t": (0, 1)})
    member = world.consumer.members["c1"]
    assert (member.epoch, member.previous_epoch) == (2, 1)
    assert world.do(world.reconcile_op("c1", 3)).error is GroupError.FENCED_MEMBER_EPOCH
    assert world.do(world.reconcile_op("c1", 1)).error is GroupError.FENCED_MEMBER_EPOCH, "it does not say what it owns"
    assert world.do(world.reconcile_op("c1", 1, {"id-t": (0, 1, 2)})).error is GroupError.FENCED_MEMBER_EPOCH
    lost = world.do(world.reconcile_op("c1", 1, {"id-t": (0,)}))
    assert (lost.error, lost.epoch) == (None, 2), "its answer was lost"
    assert world.do(world.reconcile_op("x", 1)).error is GroupError.UNKNOWN_MEMBER_ID
    assert world.do(world.subscribe_op("x", 5)).error is GroupError.UNKNOWN_MEMBER_ID
    other = asked.Reconcile("other", member_id="x", epoch=1, instance_id=None, owned=None)
    assert world.do(other).error is GroupError.GROUP_ID_NOT_FOUND


def test_a_join_that_is_repeated_is_the_same_member(world: World) -> None:
    first = join(world, "c1")
    again = world.do(world.subscribe_op("c1"))
    assert (again.error, again.epoch) == (None, 1)
    assert world.do(world.reconcile_op("c1", 0, {})).assigned == first.assigned


def test_a_member_that_begins_anew_owns_nothing(world: World) -> None:
    join(world, "c1")
    join(world, "c2")
    beat(world, "c1")
    beat(world, "c1", {"id-t": (0, 1)})
    beat(world, "c2")
    world.do(world.subscribe_op("c1"))
    assert world.consumer.members["c1"].assigned == {}
    assert world.do(world.reconcile_op("c1", 0, {})).assigned == {"id-t": (0, 1)}


def test_commits_name_the_member_epoch(world: World) -> None:
    join(world, "c1")
    assert world.do(world.commit_op(member_id="c1", generation=1)).error is None
    stale = world.do(world.commit_op(member_id="c1", generation=0))
    assert stale.error is GroupError.STALE_MEMBER_EPOCH
    assert world.do(world.commit_op(member_id="c1", generation=2)).error is GroupError.STALE_MEMBER_EPOCH
    assert world.do(world.commit_op(member_id="x", generation=1)).error is GroupError.UNKNOWN_MEMBER_ID
    assert world.do(world.commit_op()).error is GroupError.UNKNOWN_MEMBER_ID
    old = world.do(world.commit_op(member_id="c1", generation=1, modern=False))
    assert old.error is GroupError.UNSUPPORTED_VERSION
    fetch = views.FetchOffsets(NAME, partitions=None, stable=False, member_id="c1", epoch=1)
    assert [item.offset for item in world.ask(fetch).offsets] == [1]
    stale_fetch = views.FetchOffsets(NAME, partitions=None, stable=False, member_id="c1", epoch=0)
    assert world.ask(stale_fetch).error is GroupError.STALE_MEMBER_EPOCH


def test_a_static_member_that_is_away_keeps_its_partitions(world: World) -> None:
    join(world, "s1", instance="one")
    busy = world.do(world.subscribe_op("s2", instance="one"))
    assert busy.error is GroupError.UNRELEASED_INSTANCE_ID
    world.do(asked.LeaveConsumer(NAME, "s1", "one", away=True))
    assert world.consumer.members["s1"].epoch == AWAY
    join(world, "c2")
    assert beat(world, "c2").assigned == {}, "what it had is still its own"
    back = world.do(world.subscribe_op("s2", instance="one"))
    assert back.error is None
    world.restart_other()
    given = world.do(world.reconcile_op("s2", 0, {}, "one"))
    assert (given.error, given.assigned) == (None, {"id-t": (0, 1)})
    assert world.do(world.reconcile_op("s1", 1, None, "one")).error is GroupError.FENCED_INSTANCE_ID
    assert world.do(asked.LeaveConsumer(NAME, "s1", "one", away=False)).error is GroupError.FENCED_INSTANCE_ID


def test_a_static_member_that_does_not_come_back_expires(world: World) -> None:
    join(world, "s1", instance="one")
    join(world, "c2")
    world.do(asked.LeaveConsumer(NAME, "s1", "one", away=True))
    world.do(asked.ExpireMembers(NAME, (asked.Lapsed("s1", 1),)))
    assert "s1" in world.consumer.members, "its epoch has changed since"
    world.do(asked.ExpireMembers(NAME, (asked.Lapsed("s1", AWAY),)))
    assign(world)
    assert beat(world, "c2").assigned == {"id-t": (0, 1, 2, 3)}


def test_targets_made_for_an_older_epoch_change_nothing(world: World) -> None:
    join(world, "c1")
    world.do(world.subscribe_op("c2"))
    world.do(asked.SetTargets(NAME, 1, False, TOPICS, {"c1": {}}))
    assert world.consumer.row.target_epoch == 1
    assert world.consumer.targets["c1"] == {"id-t": (0, 1, 2, 3)}


def test_a_topic_that_grows_or_comes_raises_the_epoch(world: World) -> None:
    join(world, "c1")
    assign(world, {"t": ("id-t", 6)})
    assert world.consumer.row.epoch == world.consumer.row.target_epoch == 2
    assert beat(world, "c1").assigned == {"id-t": (0, 1, 2, 3, 4, 5)}


def test_a_subscription_that_changes_raises_the_epoch_and_the_same_again_does_not(world: World) -> None:
    join(world, "c1")
    same = world.subscribe_op("c1", 1, names=("t", "t"))
    assert world.consumer.says_nothing_new(same)
    assert world.do(same).epoch == 1
    assert world.do(world.subscribe_op("c1", 1, names=("u",))).epoch == 2
    assert world.do(world.subscribe_op("c1", 1, names=None, regex="a.*")).epoch == 3
    assert not world.consumer.says_nothing_new(world.subscribe_op("c1", 1, names=None, regex="b.*"))


def test_a_settled_member_needs_no_op(world: World) -> None:
    join(world, "c1")
    assert world.consumer.settled(world.reconcile_op("c1", 1, None))
    assert not world.consumer.settled(world.reconcile_op("c1", 0, None))
    join(world, "c2")
    assert not world.consumer.settled(world.reconcile_op("c1", 1, None))
    assert world.consumer.settled(world.reconcile_op("c2", 2, None)), "nothing was given up yet"


def test_one_protocol_refuses_the_members_of_the_other_and_an_empty_group_converts(world: World) -> None:
    generation = world.stable("a")
    world.do(world.commit_op(7, member_id="a", generation=generation))
    assert world.do(world.subscribe_op("c1")).error is GroupError.GROUP_ID_NOT_FOUND
    world.do(asked.LeaveGroup(NAME, (asked.Leaving("a", None),)))
    join(world, "c1")
    assert world.offset().offset == 7
    assert world.join(new_id="a").error is GroupError.INCONSISTENT_GROUP_PROTOCOL
    late = world.do(world.commit_op(8, member_id="a", generation=generation))
    assert late.error is GroupError.UNKNOWN_MEMBER_ID
    world.do(asked.LeaveGroup(NAME, (asked.Leaving("c1", None),)))
    assert world.join(new_id="a").error is None
    assert world.offset().offset == 7
    world.restart_other()


def test_a_group_that_is_full_takes_no_more(world: World) -> None:
    join(world, "c1")
    full = world.do(world.subscribe_op("c2", size_max=1))
    assert full.error is GroupError.GROUP_MAX_SIZE_REACHED
    assert world.do(world.subscribe_op("c1", 1, size_max=1)).error is None


def test_the_view_shows_epochs_and_assignments(world: World) -> None:
    join(world, "c1")
    join(world, "c2")
    view = world.ask(views.DescribeGroup(NAME)).group
    assert view is not None
    assert (view.state, view.protocol, view.generation) == (GroupState.RECONCILING, "uniform", 2)
    assert [(member.member_id, member.epoch, member.target) for member in view.members] == [
        ("c1", 1, {"id-t": (0, 1)}),
        ("c2", 2, {"id-t": (2, 3)}),
    ]
    assert world.ask(views.ListGroups("")).groups[0].members == 2
    assert world.ask(views.DescribeGroup("other")).group is None
