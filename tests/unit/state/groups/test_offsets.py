"""Offsets: who may commit, what is kept and for how long, and those of transactions."""

import pytest

from raftbroker.state.groups import ops as asked
from raftbroker.state.groups import views
from raftbroker.state.groups.protocol import Subscription, encode_subscription
from raftbroker.state.groups.terms import COMMIT_METADATA_BYTES_MAX, IDLE_MS, GroupError
from tests.unit.state.groups.world import NAME, RETAIN_MS, World


@pytest.fixture
def world() -> World:
    return World()


def txn_op(world: World, offset: int, *, producer: int = 7, epoch: int = 0, **member: object) -> asked.TxnOffsetCommit:
    items = (asked.CommitItem("t", "id-t", 0, offset, -1, ""),)
    return asked.TxnOffsetCommit(
        NAME,
        producer_id=producer,
        producer_epoch=epoch,
        items=items,
        retain_ms=RETAIN_MS,
        **member,  # type: ignore[arg-type]
    )


def end_op(*, commit: bool, producer: int = 7, epoch: int = 0) -> asked.TxnOffsetsEnd:
    return asked.TxnOffsetsEnd(NAME, producer, epoch, commit)


def test_what_was_committed_comes_back_whole(world: World) -> None:
    assert world.offset().offset == -1
    commit = asked.CommitOffsets(
        NAME,
        member_id="",
        instance_id=None,
        generation=-1,
        modern=True,
        items=(asked.CommitItem("t", "id-t", 3, 42, 5, "ünï"), asked.CommitItem("u", "id-u", 0, 1, -1, "")),
        retain_ms=RETAIN_MS,
    )
    assert world.do(commit) == asked.Committed()
    found = world.offset("t", 3)
    assert (found.offset, found.leader_epoch, found.metadata, found.topic_id) == (42, 5, "ünï", "id-t")
    every = world.ask(views.FetchOffsets(NAME, partitions=None, stable=False))
    assert [(item.topic, item.partition, item.offset) for item in every.offsets] == [("t", 3, 42), ("u", 0, 1)]
    world.restart_other()


def test_metadata_that_is_too_long_is_refused_alone(world: World) -> None:
    good = asked.CommitItem("t", "id-t", 0, 1, -1, "x" * COMMIT_METADATA_BYTES_MAX)
    bad = asked.CommitItem("t", "id-t", 1, 1, -1, "é" * (COMMIT_METADATA_BYTES_MAX // 2 + 1))
    commit = asked.CommitOffsets(
        NAME, member_id="", instance_id=None, generation=-1, modern=True, items=(good, bad), retain_ms=RETAIN_MS
    )
    assert world.do(commit).errors == (None, GroupError.OFFSET_METADATA_TOO_LARGE)
    assert (world.offset("t", 0).offset, world.offset("t", 1).offset) == (1, -1)


def test_offsets_of_a_group_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftbroker.state.groups.offsets.OFFSETS_MAX", 3)
    for partition in range(3):
        assert world.do(world.commit_op(partition=partition)).errors == ()
    assert world.do(world.commit_op(partition=3)).errors == (GroupError.INVALID_COMMIT_OFFSET_SIZE,)
    assert world.do(world.commit_op(9, partition=0)).errors == ()


def test_groups_of_a_shard_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftbroker.state.groups.part.GROUPS_MAX", 1)
    world.do(world.commit_op())
    other = asked.CommitOffsets(
        "other", member_id="", instance_id=None, generation=-1, modern=True, items=(), retain_ms=RETAIN_MS
    )
    assert world.do(other).error is GroupError.INVALID_COMMIT_OFFSET_SIZE
    assert world.join(new_id="a").error is None


def test_only_members_of_the_generation_commit_while_there_are_members(world: World) -> None:
    generation = world.stable("a", "b")
    assert world.do(world.commit_op(member_id="a", generation=generation)).error is None
    assert world.do(world.commit_op(member_id="a", generation=generation - 1)).error is GroupError.ILLEGAL_GENERATION
    assert world.do(world.commit_op(member_id="x", generation=generation)).error is GroupError.UNKNOWN_MEMBER_ID
    assert world.do(world.commit_op()).error is GroupError.UNKNOWN_MEMBER_ID
    world.join("a")
    world.join("b")
    moved = world.classic.row.generation
    assert moved == generation + 1
    assert world.do(world.commit_op(member_id="a", generation=generation)).error is GroupError.ILLEGAL_GENERATION
    assert world.do(world.commit_op(member_id="a", generation=moved)).error is GroupError.REBALANCE_IN_PROGRESS


def test_a_member_commits_while_the_next_rebalance_is_prepared(world: World) -> None:
    generation = world.stable("a", "b")
    world.join("b", protocols=(("range", b"other"),))
    assert world.do(world.commit_op(5, member_id="a", generation=generation)).error is None
    assert world.offset().offset == 5


def test_a_generation_of_a_group_that_is_not_there_is_refused(world: World) -> None:
    late = world.commit_op(member_id="a", generation=3)
    assert world.do(late).error is GroupError.GROUP_ID_NOT_FOUND
    assert world.do(world.commit_op(member_id="a", generation=3, modern=False)).error is GroupError.ILLEGAL_GENERATION
    assert world.disk.keys() == {b"t"}


def test_offsets_of_a_group_without_members_expire_with_it(world: World) -> None:
    generation = world.stable("a")
    world.do(world.commit_op(member_id="a", generation=generation))
    world.pass_ms(2 * RETAIN_MS)
    assert world.offset().offset == 1, "while there are members nothing expires"
    world.do(asked.LeaveGroup(NAME, (asked.Leaving("a", None),)))
    world.pass_ms(RETAIN_MS - 1)
    world.do(world.commit_op(2, topic="u"))
    world.pass_ms(RETAIN_MS - 1)
    world.restart_other()
    assert world.offset().offset == 1
    world.pass_ms(1)
    assert NAME not in world.part.groups
    assert set(world.disk) == {b"t"}


def test_a_restored_group_expires_as_long_after_its_last_member_as_any(world: World) -> None:
    generation = world.stable("a")
    world.do(world.commit_op(member_id="a", generation=generation))
    world.pass_ms(5_000)
    world.restart_other()
    world.do(asked.LeaveGroup(NAME, (asked.Leaving("a", None),)))
    assert world.group.due_ms == world.now_ms + RETAIN_MS


def test_an_empty_group_without_offsets_goes_soon(world: World) -> None:
    world.join(new_id="a")
    world.do(asked.LeaveGroup(NAME, (asked.Leaving("a", None),)))
    world.pass_ms(IDLE_MS)
    assert NAME not in world.part.groups


def test_many_groups_that_expire_at_once_go_a_few_with_each_entry(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raftbroker.state.groups.part.EXPIRIES_MAX", 2)
    for number in range(5):
        op = world.commit_op()
        world.do(
            asked.CommitOffsets(
                f"g{number}", member_id="", instance_id=None, generation=-1, modern=True, items=op.items, retain_ms=10
            )
        )
    world.restart_other()
    left = []
    for _ in range(4):
        world.pass_ms(10)
        left.append(len(world.part.groups))
    assert left == [3, 1, 0, 0]


def test_a_topic_made_again_inherits_nothing(world: World) -> None:
    world.do(world.commit_op(5, topic_id="old"))
    world.do(world.commit_op(6, topic="u", topic_id="kept"))
    world.do(txn_op(world, 9))
    world.do(asked.ForgetTopics(NAME, ("old", "id-t")))
    assert (world.offset().offset, world.offset("u").offset) == (-1, 6)
    world.do(end_op(commit=True))
    assert world.offset().offset == -1


def test_offsets_are_deleted_where_no_member_reads_the_topic(world: World) -> None:
    reads = encode_subscription(Subscription(("t",)))
    world.join(new_id="a", protocols=(("range", reads),))
    world.do(world.sync_op("a", 1))
    world.do(world.commit_op(member_id="a", generation=1))
    world.do(world.commit_op(member_id="a", generation=1, topic="u"))
    names = (asked.PartitionName("t", 0), asked.PartitionName("u", 0), asked.PartitionName("u", 9))
    deleted = world.do(asked.DeleteOffsets(NAME, names))
    assert deleted.errors == (GroupError.GROUP_SUBSCRIBED_TO_TOPIC, None, None)
    assert (world.offset("t").offset, world.offset("u").offset) == (1, -1)
    assert world.do(asked.DeleteOffsets("other", names)).error is GroupError.GROUP_ID_NOT_FOUND


def test_offsets_of_a_busy_group_of_another_kind_are_not_deleted(world: World) -> None:
    world.join(new_id="a", kind="connect")
    deleted = world.do(asked.DeleteOffsets(NAME, (asked.PartitionName("t", 0),)))
    assert deleted.error is GroupError.NON_EMPTY_GROUP


# --- transactions -----------------------------------------------------------------------------------------------


def test_offsets_of_a_transaction_count_once_it_is_committed(world: World) -> None:
    world.do(world.commit_op(1))
    assert world.do(txn_op(world, 5)).error is None
    assert world.offset().offset == 1
    assert world.offset(stable=True).error is GroupError.UNSTABLE_OFFSET_COMMIT
    world.restart_other()
    world.do(end_op(commit=True))
    world.do(end_op(commit=True))
    assert (world.offset(stable=True).offset, world.offset(stable=True).error) == (5, None)


def test_offsets_of_a_transaction_that_is_aborted_never_were(world: World) -> None:
    world.do(txn_op(world, 5))
    world.do(end_op(commit=False))
    assert world.offset(stable=True).offset == -1
    assert not world.group.offsets.open


def test_a_producer_that_was_fenced_adds_nothing_any_more(world: World) -> None:
    world.do(txn_op(world, 5, epoch=1))
    world.do(end_op(commit=False, epoch=2))
    assert world.do(txn_op(world, 6, epoch=1)).error is GroupError.INVALID_PRODUCER_EPOCH
    assert world.offset(stable=True).error is None
    world.do(txn_op(world, 7, epoch=2))
    world.do(end_op(commit=True, epoch=1))
    assert world.offset(stable=True).error is GroupError.UNSTABLE_OFFSET_COMMIT, "an older epoch ends nothing newer"
    world.do(end_op(commit=True, epoch=2))
    assert world.offset().offset == 7


def test_an_offset_that_comes_after_its_transactions_end_is_refused_though_the_group_was_not_there(
    world: World,
) -> None:
    world.do(end_op(commit=True, epoch=3))
    assert world.do(txn_op(world, 5, epoch=2)).error is GroupError.INVALID_PRODUCER_EPOCH
    assert world.do(txn_op(world, 5, epoch=4)) == asked.Committed()
    world.do(end_op(commit=True, epoch=3))
    assert world.offset().offset == -1
    world.do(end_op(commit=True, epoch=5))
    assert world.offset().offset == 5


def test_the_later_of_two_commits_counts_whenever_the_transaction_ends(world: World) -> None:
    world.do(txn_op(world, 5))
    world.pass_ms(1)
    world.do(world.commit_op(3))
    world.do(end_op(commit=True))
    assert world.offset().offset == 3


def test_a_zombie_in_a_transaction_is_fenced_by_its_generation(world: World) -> None:
    generation = world.stable("a")
    assert world.do(txn_op(world, 5, member_id="a", generation=generation)).error is None
    stale = txn_op(world, 6, member_id="a", generation=generation - 1)
    assert world.do(stale).error is GroupError.ILLEGAL_GENERATION
    assert world.do(txn_op(world, 6, member_id="x", generation=generation)).error is GroupError.UNKNOWN_MEMBER_ID
    assert world.do(txn_op(world, 6)).error is None, "older clients do not say who they are"


def test_a_group_with_an_open_transaction_does_not_expire(world: World) -> None:
    world.do(txn_op(world, 5))
    world.pass_ms(2 * RETAIN_MS)
    assert NAME in world.part.groups
    world.do(end_op(commit=True))
    world.pass_ms(RETAIN_MS)
    assert NAME not in world.part.groups


def test_ended_transactions_are_forgotten_oldest_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftbroker.state.groups.offsets.TRANSACTIONS_MAX", 2)
    for producer in (2, 1):
        world.do(txn_op(world, 5, producer=producer))
        world.do(end_op(commit=True, producer=producer))
    world.restart_other()
    world.do(txn_op(world, 5, producer=3))
    assert list(world.group.offsets.transactions) == [1, 3]
    world.do(txn_op(world, 5, producer=4))
    refused = world.do(txn_op(world, 5, producer=5))
    assert refused.error is GroupError.INVALID_COMMIT_OFFSET_SIZE
