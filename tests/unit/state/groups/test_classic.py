"""The classic protocol, case by case, as Kafka's coordinator answers."""

import pytest

from raftbroker.state.groups import ops as asked
from raftbroker.state.groups.terms import GroupError, GroupState, Phase
from tests.unit.state.groups.world import NAME, World


@pytest.fixture
def world() -> World:
    return World()


def test_a_first_member_forms_a_generation_and_leads_it(world: World) -> None:
    joined = world.join(new_id="a")
    assert (joined.error, joined.member_id, joined.wait) == (None, "a", True)
    assert world.classic.phase is Phase.COMPLETING
    assert (world.classic.row.generation, world.classic.row.leader, world.classic.row.protocol) == (1, "a", "range")
    assert world.do(world.sync_op("a", 1, {"a": b"all"})).error is None
    assert world.classic.members["a"].assignment == b"all"
    assert world.group.state is GroupState.STABLE


def test_a_new_member_is_told_its_id_first_where_it_must_know_it(world: World) -> None:
    told = world.join(new_id="a", id_required=True)
    assert (told.error, told.member_id) == (GroupError.MEMBER_ID_REQUIRED, "a")
    world.restart_other()
    assert world.join("a").wait
    assert list(world.classic.members) == ["a"]
    assert not world.classic.pending
    assert world.join("never given").error is GroupError.UNKNOWN_MEMBER_ID


def test_nobody_joins_by_id_a_group_that_is_not_there(world: World) -> None:
    assert world.join("a").error is GroupError.UNKNOWN_MEMBER_ID
    assert NAME not in world.part.groups


def test_a_join_repeated_with_the_same_new_id_makes_one_member(world: World) -> None:
    world.join(new_id="a")
    world.join(new_id="a")
    assert list(world.classic.members) == ["a"]


def test_an_empty_group_waits_a_little_for_more_members() -> None:
    world = World(delay_ms=500)
    world.join(new_id="a")
    world.pass_ms(400)
    world.join(new_id="b")
    world.pass_ms(400)
    assert world.classic.phase is Phase.PREPARING, "the second member moved the deadline"
    world.restart_other()
    world.pass_ms(100)
    assert world.classic.phase is Phase.COMPLETING
    assert list(world.classic.members) == ["a", "b"]


def test_the_wait_for_more_members_ends_with_the_rebalance_timeout() -> None:
    world = World(delay_ms=500)
    world.join(new_id="a", rebalance_ms=1_000)
    for number in range(3):
        world.pass_ms(400)
        world.join(new_id=f"b{number}", rebalance_ms=1_000)
    assert world.classic.phase is Phase.COMPLETING or world.classic.row.generation == 1


def test_members_that_do_not_join_again_are_left_behind(world: World) -> None:
    world.stable("a", "b")
    world.join(new_id="c")
    world.join("a")
    assert world.classic.phase is Phase.PREPARING
    assert world.do(world.sync_op("a", 2)).error is GroupError.REBALANCE_IN_PROGRESS
    world.pass_ms(60_000)
    assert world.classic.phase is Phase.COMPLETING
    assert list(world.classic.members) == ["a", "c"]
    assert world.join("b").error is GroupError.UNKNOWN_MEMBER_ID


def test_static_members_that_do_not_join_again_stay(world: World) -> None:
    world.join(new_id="a")
    world.join(new_id="s", instance="one")
    world.join("a")
    world.join(new_id="c")
    world.join("a")
    world.pass_ms(60_000)
    assert set(world.classic.members) == {"a", "s", "c"}


def test_a_rebalance_that_nobody_joins_waits_for_sessions_to_end(world: World) -> None:
    world.join(new_id="s", instance="one")
    world.join(new_id="t", instance="two")
    world.join("s", instance="one")
    world.do(world.sync_op(world.classic.row.leader, 2))
    assert world.do(asked.LeaveGroup(NAME, (asked.Leaving("", "one"),))).errors == (None,)
    assert world.classic.phase is Phase.PREPARING
    world.pass_ms(60_000)
    assert world.classic.phase is Phase.PREPARING
    assert list(world.classic.members) == ["t"]
    mark = world.classic.members["t"].round
    world.do(asked.ExpireMembers(NAME, (asked.Lapsed("t", mark),)))
    assert world.group.state is GroupState.EMPTY
    assert world.group.empty


def test_the_protocol_is_one_all_members_offer_and_most_prefer(world: World) -> None:
    sticky, ranged, own = ("sticky", b"s"), ("range", b"r"), ("own", b"o")
    world.join(new_id="a", protocols=(own, sticky, ranged))
    world.join(new_id="b", protocols=(ranged, sticky))
    world.join("a", protocols=(own, sticky, ranged))
    assert world.classic.row.protocol == "sticky"
    assert world.join(new_id="c", protocols=(("other", b""),)).error is GroupError.INCONSISTENT_GROUP_PROTOCOL
    assert world.join(new_id="c", kind="connect").error is GroupError.INCONSISTENT_GROUP_PROTOCOL
    assert world.classic.metadata(world.classic.members["b"]) == b"s"


def test_a_lost_answer_to_a_join_is_given_again(world: World) -> None:
    generation = world.stable("a", "b")
    for member_id in ("b",):
        again = world.join(member_id)
        assert (again.error, again.wait) == (None, False)
    assert world.classic.row.generation == generation
    assert world.join("a").wait, "the generation's leader asks for a rebalance by joining again"
    assert world.classic.phase is Phase.PREPARING


def test_a_member_that_offers_something_else_begins_a_rebalance(world: World) -> None:
    world.stable("a", "b")
    assert world.join("b", protocols=(("range", b"other topics"),)).wait
    assert world.classic.phase is Phase.PREPARING


def test_a_group_that_is_full_takes_no_more(world: World) -> None:
    world.stable("a", "b")
    assert world.join(new_id="c", size_max=2).error is GroupError.GROUP_MAX_SIZE_REACHED
    assert world.join(new_id="c", size_max=2, id_required=True).error is GroupError.GROUP_MAX_SIZE_REACHED
    assert world.join("b", size_max=2).error is None


def test_ids_that_are_given_out_and_not_used_are_bounded(world: World) -> None:
    for number in range(5):
        told = world.join(new_id=f"p{number}", id_required=True, size_max=3)
        assert told.error is (GroupError.MEMBER_ID_REQUIRED if number < 3 else GroupError.GROUP_MAX_SIZE_REACHED)
    world.do(asked.ExpireMembers(NAME, tuple(asked.Lapsed(f"p{number}", 0) for number in range(3))))
    assert not world.classic.pending


def test_a_rebalance_waits_for_an_id_that_was_given_out(world: World) -> None:
    world.stable("a", "b")
    world.join(new_id="c", id_required=True)
    assert world.classic.phase is Phase.STABLE
    world.join("a")
    world.join("b")
    assert world.classic.phase is Phase.PREPARING
    world.join("c")
    assert world.classic.phase is Phase.COMPLETING
    assert len(world.classic.members) == 3


def test_leaving_starts_a_rebalance_and_the_last_one_empties_the_group(world: World) -> None:
    generation = world.stable("a", "b")
    left = world.do(asked.LeaveGroup(NAME, (asked.Leaving("b", None), asked.Leaving("x", None))))
    assert left.errors == (None, GroupError.UNKNOWN_MEMBER_ID)
    assert world.classic.phase is Phase.PREPARING
    world.join("a")
    assert world.classic.row.generation == generation + 1
    world.do(asked.LeaveGroup(NAME, (asked.Leaving("a", None),)))
    assert world.group.state is GroupState.EMPTY
    assert world.do(asked.LeaveGroup("other", (asked.Leaving("a", None),))).error is GroupError.UNKNOWN_MEMBER_ID


def test_a_member_that_joined_again_meanwhile_does_not_expire(world: World) -> None:
    world.stable("a", "b")
    stale = asked.Lapsed("b", world.classic.members["b"].round)
    world.join("a")
    world.join("b")
    world.do(asked.ExpireMembers(NAME, (stale,)))
    assert "b" in world.classic.members
    world.do(asked.ExpireMembers(NAME, (asked.Lapsed("b", world.classic.members["b"].round),)))
    assert "b" not in world.classic.members
    assert world.classic.phase is Phase.PREPARING


# --- static members ---------------------------------------------------------------------------------------------


def static_pair(world: World) -> int:
    world.join(new_id="a")
    world.join(new_id="s1", instance="one")
    world.join("a")
    world.do(world.sync_op("a", 2, {"a": b"left", "s1": b"right"}))
    return 2


def test_a_static_member_takes_its_own_place_without_a_rebalance(world: World) -> None:
    generation = static_pair(world)
    joined = world.join(new_id="s2", instance="one")
    assert (joined.error, joined.member_id, joined.wait, joined.replaced) == (None, "s2", False, "s1")
    assert (world.classic.phase, world.classic.row.generation) == (Phase.STABLE, generation)
    assert world.classic.members["s2"].assignment == b"right"
    assert world.do(world.sync_op("s1", generation, instance="one")).error is GroupError.FENCED_INSTANCE_ID
    assert world.join("s1", instance="one").error is GroupError.FENCED_INSTANCE_ID
    old = world.commit_op(member_id="s1", instance="one", generation=generation)
    assert world.do(old).error is GroupError.FENCED_INSTANCE_ID
    assert world.do(world.commit_op(member_id="s2", instance="one", generation=generation)).error is None


def test_a_static_leader_that_is_back_leads_on(world: World) -> None:
    world.join(new_id="s1", instance="one")
    world.do(world.sync_op("s1", 1, {"s1": b"all"}))
    assert not world.join(new_id="s2", instance="one").wait
    assert world.classic.row.leader == "s2"
    assert world.classic.phase is Phase.STABLE


def test_a_static_member_that_is_back_before_the_assignment_starts_anew(world: World) -> None:
    world.join(new_id="s1", instance="one")
    assert world.classic.phase is Phase.COMPLETING
    joined = world.join(new_id="s2", instance="one")
    assert joined.wait
    assert list(world.classic.members) == ["s2"]
    assert world.do(world.sync_op("s2", 2)).error is None


def test_a_static_member_back_with_other_protocols_starts_a_rebalance(world: World) -> None:
    world.join(new_id="s1", instance="one", protocols=(("range", b""), ("sticky", b"")))
    world.do(world.sync_op("s1", 1))
    assert world.join(new_id="s2", instance="one", protocols=(("sticky", b""), ("range", b""))).wait
    assert world.classic.row.protocol == "sticky"


def test_an_administrator_removes_a_static_member_by_its_instance(world: World) -> None:
    static_pair(world)
    left = world.do(asked.LeaveGroup(NAME, (asked.Leaving("", "one"), asked.Leaving("", "two"))))
    assert left.errors == (None, GroupError.UNKNOWN_MEMBER_ID)
    assert "s1" not in world.classic.members


# --- a new leader of the shard ------------------------------------------------------------------------------------


def test_a_rebalance_goes_on_with_its_full_time_under_a_new_leader(world: World) -> None:
    world.stable("a", "b")
    world.join("a")
    world.pass_ms(59_000)
    world.restart_other()
    world.do(asked.ResumeRebalance(NAME))
    world.pass_ms(2_000)
    assert world.classic.phase is Phase.PREPARING
    world.join("b")
    assert world.classic.phase is Phase.COMPLETING
    assert set(world.classic.members) == {"a", "b"}


def test_members_keep_their_order_when_they_are_read_from_disk(world: World) -> None:
    world.stable("z", "a")
    world.restart_other()
    world.swap()
    assert list(world.classic.members) == ["z", "a"]
    world.do(asked.LeaveGroup(NAME, (asked.Leaving("z", None),)))
    assert world.classic.row.leader == "a"


def test_sync_refuses_what_is_of_another_generation_or_member(world: World) -> None:
    generation = world.stable("a", "b")
    assert world.do(world.sync_op("a", generation - 1)).error is GroupError.ILLEGAL_GENERATION
    assert world.do(world.sync_op("x", generation)).error is GroupError.UNKNOWN_MEMBER_ID
    assert world.do(world.sync_op("b", generation, {"b": b"all of it"})).error is None
    assert world.classic.members["b"].assignment == b"b", "only the leader assigns"


def test_a_group_with_members_is_not_deleted(world: World) -> None:
    world.stable("a")
    assert world.do(asked.DeleteGroup(NAME)).error is GroupError.NON_EMPTY_GROUP
    world.do(asked.LeaveGroup(NAME, (asked.Leaving("a", None),)))
    assert world.do(asked.DeleteGroup(NAME)).error is None
    assert world.do(asked.DeleteGroup(NAME)).error is GroupError.GROUP_ID_NOT_FOUND
    assert set(world.disk) == {b"t"}
