"""The control group's state machine: every command, its refusals, restore and grouping."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.errors import UnknownCommand
from consensus.model import Entry, EntryKind, Member
from raftbroker.state.commands import Command, encode_command
from raftbroker.state.control import OUTCOMES_MAX, ControlMachine
from raftbroker.state.control_commands import (
    AddPartitions,
    AllocateProducerIds,
    AlterConfigs,
    CreateGroup,
    CreateTopic,
    DeleteTopic,
    DeleteWebhook,
    ForgetNode,
    FormCluster,
    Outcome,
    OutcomeError,
    PartitionPlace,
    PartitionsDropped,
    PutWebhook,
    RaiseFeature,
    RegisterNode,
    SetPlacement,
)
from raftbroker.state.webhooks import WEBHOOKS_MAX, Webhook
from tests.unit.state.strategies import entries, entry, groupings

NODES = [RegisterNode(n, f"uuid-{n}", f"h:{n}", f"h:1{n}", f"h:2{n}", 1) for n in (1, 2, 3)]
MEMBERS = tuple(Member(n, f"uuid-{n}") for n in (1, 2, 3))
GROUP = CreateGroup(1, 3, MEMBERS)
TOPIC = CreateTopic("t", "a" * 32, 3, {"retention.ms": "5"}, (PartitionPlace(1, 1), PartitionPlace(2, 1)), (GROUP,), 99)


class Driver:
    """Applies commands one at a time and keeps the rows as a store would."""

    def __init__(self) -> None:
        self.machine = ControlMachine()
        self.rows: dict[bytes, bytes] = {}
        self.index = 0

    def __call__(self, command: Command) -> Outcome:
        self.index += 1
        for key, value in self.machine.apply([entry(self.index, command)]).rows.items():
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value
        assert self.machine.view.rows() == self.rows
        outcome = self.machine.outcome(self.index)
        assert outcome is not None
        return outcome

    def refused(self, command: Command) -> OutcomeError | None:
        before, version = picture(self.machine), self.machine.version
        outcome = self(command)
        assert not outcome.ok
        assert outcome.message
        assert picture(self.machine) == before
        assert self.machine.version == version
        return outcome.error


def picture(machine: ControlMachine) -> tuple[Any, ...]:
    """All that can be read."""
    return (
        (machine.cluster_id, machine.created_ms, machine.feature, machine.next_partition_id, machine.next_group_id),
        machine.nodes(),
        machine.groups(),
        machine.topics(),
        [machine.partition(partition_id) for partition_id in range(40)],
        [machine.dropped(group_id) for group_id in range(10)],
        machine.webhooks(),
        machine.view.rows(),
    )


@pytest.fixture
def drive() -> Driver:
    driver = Driver()
    for node in NODES:
        assert driver(node).ok
    return driver


def test_the_cluster_is_formed_once(drive: Driver) -> None:
    assert drive.machine.cluster_id == ""
    assert drive(FormCluster("c-1", 5)).ok
    assert drive(FormCluster("c-1", 6)).ok
    assert (drive.machine.cluster_id, drive.machine.created_ms) == ("c-1", 5)
    assert drive.refused(FormCluster("c-2", 7)) is OutcomeError.CLUSTER_EXISTS
    assert drive.refused(FormCluster("", 7)) is OutcomeError.INVALID


def test_nodes_register_move_and_are_forgotten(drive: Driver) -> None:
    assert drive(RegisterNode(2, "other", "new:1", "", "", 1)).ok
    node = drive.machine.node(2)
    assert node is not None
    assert (node.member, node.peer) == (Member(2, "other"), "new:1")
    assert [n.id for n in drive.machine.nodes()] == [1, 2, 3]
    assert drive.refused(ForgetNode(4)) is OutcomeError.UNKNOWN_NODE
    assert drive(TOPIC).ok
    assert drive.refused(ForgetNode(2)) is OutcomeError.NODE_IN_USE
    assert drive(SetPlacement(1, (3, 1))).ok
    assert drive(ForgetNode(2)).ok
    assert drive.machine.node(2) is None


def test_registering_again_without_a_change_changes_nothing(drive: Driver) -> None:
    version = drive.machine.version
    assert drive(NODES[0]).ok
    assert drive.machine.version == version


def test_features_rise_only_when_every_node_can(drive: Driver) -> None:
    assert drive.refused(RaiseFeature(2)) is OutcomeError.FEATURE
    assert drive(RaiseFeature(1)).ok
    assert drive(RaiseFeature(0)).ok
    assert drive.machine.feature == 1
    assert drive.refused(RegisterNode(4, "u", "", "", "", 0)) is OutcomeError.FEATURE


def test_producer_ids_are_given_once(drive: Driver) -> None:
    assert [drive(AllocateProducerIds(1, 1000)).value, drive(AllocateProducerIds(2, 5)).value] == [0, 1000]
    assert drive(AllocateProducerIds(1, 1)).value == 1005
    for count in (0, -1, 10**7):
        assert drive.refused(AllocateProducerIds(1, count)) is OutcomeError.INVALID


def test_groups(drive: Driver) -> None:
    assert drive(GROUP).ok
    assert drive(GROUP).ok  # the same again
    group = drive.machine.group(1)
    assert group is not None
    assert (group.initial, group.nodes, group.replication_factor) == (MEMBERS, (1, 2, 3), 3)
    assert drive.machine.next_group_id == 2
    assert drive.refused(CreateGroup(1, 3, MEMBERS[:1])) is OutcomeError.IDS_TAKEN
    assert drive.refused(CreateGroup(2, 6, MEMBERS)) is OutcomeError.INVALID
    assert drive.refused(CreateGroup(2, 3, ())) is OutcomeError.INVALID
    assert drive.refused(CreateGroup(2, 3, (MEMBERS[0], Member(1, "x")))) is OutcomeError.INVALID
    assert drive.refused(CreateGroup(2, 3, (Member(9, "x"),))) is OutcomeError.UNKNOWN_NODE
    assert drive.refused(SetPlacement(2, (1,))) is OutcomeError.UNKNOWN_GROUP
    assert drive.refused(SetPlacement(1, (1, 9))) is OutcomeError.UNKNOWN_NODE
    assert drive.refused(SetPlacement(1, ())) is OutcomeError.INVALID


def test_a_topic_lives_and_dies(drive: Driver) -> None:
    assert drive(TOPIC).ok
    topic = drive.machine.topic("t")
    assert topic is not None
    assert topic is drive.machine.topic_by_id("a" * 32)
    location = drive.machine.partition(2)
    assert location is not None
    assert (location.topic.name, location.number, location.group) == ("t", 1, 1)
    assert (drive.machine.next_partition_id, drive.machine.next_group_id) == (3, 2)

    assert drive(AddPartitions("a" * 32, (PartitionPlace(3, 1),), ())).ok
    assert drive(AddPartitions("a" * 32, (PartitionPlace(3, 1),), ())).ok  # the same again
    topic = drive.machine.topic("t")
    assert topic is not None
    assert [place.id for place in topic.partitions] == [1, 2, 3]

    assert drive(AlterConfigs("a" * 32, {})).ok
    topic = drive.machine.topic("t")
    assert topic is not None
    assert topic.configs == {}

    assert drive.refused(AlterConfigs("a" * 32, {"segment.ms": "9"}, {"segment.ms": "8"})) is OutcomeError.IDS_TAKEN
    assert drive(AlterConfigs("a" * 32, {"segment.ms": "9"}, {})).ok
    topic = drive.machine.topic("t")
    assert topic is not None
    assert topic.configs == {"segment.ms": "9"}

    assert drive(DeleteTopic("a" * 32)).ok
    assert drive.machine.topics() == ()
    assert drive.machine.partition(2) is None
    assert drive.machine.dropped(1) == (1, 2, 3)
    assert drive(PartitionsDropped(1, (1, 3, 77))).ok
    assert drive.machine.dropped(1) == (2,)
    assert drive(PartitionsDropped(1, (2,))).ok
    assert drive.machine.dropped(1) == ()
    again = msgspec.structs.replace(TOPIC, topic_id="b" * 32, new_groups=())
    assert drive.refused(again) is OutcomeError.IDS_TAKEN
    assert drive(msgspec.structs.replace(again, partitions=(PartitionPlace(4, 1),))).ok


def test_a_topic_is_created_whole_or_not_at_all(drive: Driver) -> None:
    def variant(**changes: object) -> CreateTopic:
        return msgspec.structs.replace(TOPIC, **changes)

    place = (PartitionPlace(1, 1),)
    assert drive.refused(variant(partitions=())) is OutcomeError.INVALID
    assert drive.refused(variant(partitions=(PartitionPlace(1, 2),))) is OutcomeError.UNKNOWN_GROUP
    assert drive.refused(variant(partitions=place * 2)) is OutcomeError.IDS_TAKEN
    assert drive.refused(variant(partitions=(PartitionPlace(0, 1),))) is OutcomeError.IDS_TAKEN
    assert drive.refused(variant(replication_factor=1)) is OutcomeError.INVALID
    assert drive.refused(variant(new_groups=(GROUP, GROUP))) is OutcomeError.IDS_TAKEN
    assert drive(TOPIC).ok
    assert drive(TOPIC).ok  # the same again
    assert drive.refused(variant(topic_id="b" * 32)) is OutcomeError.TOPIC_EXISTS
    assert drive.refused(variant(name="u")) is OutcomeError.IDS_TAKEN
    assert drive.refused(variant(name="u", topic_id="b" * 32)) is OutcomeError.IDS_TAKEN
    late = AddPartitions("a" * 32, (PartitionPlace(2, 1), PartitionPlace(3, 1)), ())
    assert drive.refused(late) is OutcomeError.IDS_TAKEN
    assert drive.refused(AddPartitions("b" * 32, place, ())) is OutcomeError.UNKNOWN_TOPIC
    assert drive.refused(AlterConfigs("b" * 32, {})) is OutcomeError.UNKNOWN_TOPIC
    assert drive.refused(DeleteTopic("b" * 32)) is OutcomeError.UNKNOWN_TOPIC


def test_a_webhook_lives_and_dies(drive: Driver) -> None:
    hook = Webhook("h", "1", 1, 5, topic="t", url="http://a.b/", secret="s" * 16)
    assert drive(PutWebhook(hook)).ok
    assert drive(PutWebhook(hook)).ok, "the same again"
    paused = msgspec.structs.replace(hook, version=2, paused=True)
    assert drive.refused(PutWebhook(msgspec.structs.replace(paused, version=3))) is OutcomeError.IDS_TAKEN
    assert drive.refused(PutWebhook(msgspec.structs.replace(paused, id="2"))) is OutcomeError.IDS_TAKEN
    assert drive(PutWebhook(paused)).ok
    assert drive.machine.webhook("h") == paused
    assert drive(DeleteWebhook("h", "2")).ok
    assert drive.machine.webhooks() == (paused,), "another one of its name was meant"
    assert drive(DeleteWebhook("h", "1")).ok
    assert drive(DeleteWebhook("h", "1")).ok
    assert drive.machine.webhooks() == ()
    assert drive.refused(PutWebhook(msgspec.structs.replace(paused, version=3))) is OutcomeError.IDS_TAKEN


def test_webhooks_are_bounded(drive: Driver) -> None:
    for number in range(WEBHOOKS_MAX):
        assert drive(PutWebhook(Webhook(f"h{number}", "1", 1, 5))).ok
    assert drive.refused(PutWebhook(Webhook("one-more", "1", 1, 5))) is OutcomeError.INVALID
    assert drive(PutWebhook(Webhook("h0", "1", 2, 5))).ok


def test_outcomes_are_bounded_and_not_part_of_the_state(drive: Driver) -> None:
    first = drive.index
    drive.machine.apply(entries([AllocateProducerIds(1, 1)] * OUTCOMES_MAX, drive.index + 1))
    assert drive.machine.outcome(first) is None
    assert drive.machine.outcome(first + 1) is not None
    drive.machine.restore(drive.machine.view.rows(), first + OUTCOMES_MAX)
    assert drive.machine.outcome(first + 1) is None


@pytest.mark.parametrize(
    "command",
    [
        b"",
        b"\x02" + encode_command(TOPIC)[1:],
        b"\x01",
        b"\x01\x91\x63",
        b"\x01\xc1",
        encode_command(TOPIC)[:-1],
        encode_command(TOPIC) + b"x",
    ],
)
def test_a_command_of_another_version_stops_the_node(command: bytes) -> None:
    with pytest.raises(UnknownCommand, match="newer raftbroker"):
        ControlMachine().apply([Entry.of(1, 1, EntryKind.COMMAND, command)])


def test_a_row_of_another_version_stops_the_node() -> None:
    with pytest.raises(UnknownCommand, match="newer raftbroker"):
        ControlMachine().restore({b"x1": b""}, 1)


def test_a_field_added_later_is_read_past() -> None:
    """Decoding takes longer arrays: a newer node's rows with fields at the end can be read back by this one."""
    machine = ControlMachine()
    machine.restore({b"n\0\0\0\1": msgspec.msgpack.encode([1, "u", "p", "h", "k", 1, "later"])}, 1)
    assert machine.node(1) is not None


small = st.integers(0, 3) | st.just(1)
names = st.sampled_from(["t", "y", "z"])
topic_ids = st.sampled_from(["a" * 32, "b" * 32, "c" * 32])
members = st.lists(st.builds(lambda n: Member(n, f"uuid-{n}"), st.integers(1, 3)), max_size=3).map(tuple)
factors = st.sampled_from([3, 3, 3, 1, 6])
groups = st.builds(CreateGroup, st.integers(1, 9), factors, members)
places = st.lists(
    st.builds(PartitionPlace, st.integers(3, 40), st.just(1) | small),
    min_size=1,
    max_size=3,
    unique_by=lambda place: place.id,
).map(lambda unsorted: tuple(sorted(unsorted, key=lambda place: place.id)))
new_groups = st.sampled_from([(), (), (GROUP,)]) | st.tuples(groups)
commands = st.one_of(
    st.builds(FormCluster, st.sampled_from(["", "c"]), st.just(1)),
    st.builds(RegisterNode, st.integers(1, 3), names, names, names, names, st.integers(0, 2)),
    st.builds(ForgetNode, st.integers(1, 4)),
    groups,
    st.builds(SetPlacement, small, st.lists(st.integers(1, 3), max_size=3).map(tuple)),
    st.builds(CreateTopic, names, topic_ids, factors, st.just({"a": "b"}), places, new_groups, st.just(1)),
    st.builds(AddPartitions, topic_ids, places, st.just(())),
    st.builds(AlterConfigs, topic_ids, st.dictionaries(names, names)),
    st.builds(DeleteTopic, topic_ids),
    st.builds(PartitionsDropped, small, st.lists(st.integers(0, 12), max_size=3).map(tuple)),
    st.builds(AllocateProducerIds, st.integers(1, 3), st.integers(0, 5)),
    st.builds(RaiseFeature, st.integers(0, 2)),
    st.builds(PutWebhook, st.builds(Webhook, names, names, st.integers(1, 3), st.just(1), paused=st.booleans())),
    st.builds(DeleteWebhook, names, names),
)


@settings(max_examples=150)
@given(st.lists(commands, max_size=30), st.lists(st.integers(0, 100), max_size=4))
def test_grouping_changes_nothing_and_rows_restore_the_state(script: list[Command], cuts: list[int]) -> None:
    log = entries([*NODES, TOPIC, *script])
    single = Driver()
    for one in log:
        single.machine.apply([one])
    grouped = ControlMachine()
    stored: dict[bytes, bytes | None] = {}
    for run in groupings(log, cuts):
        stored |= grouped.apply(run).rows
    rows = {key: value for key, value in stored.items() if value is not None}
    assert picture(grouped) == picture(single.machine)
    assert rows == grouped.view.rows()
    assert [grouped.outcome(one.index) for one in log] == [single.machine.outcome(one.index) for one in log]
    restored = ControlMachine()
    restored.restore(rows, len(log))
    assert picture(restored) == picture(grouped)
    more = entries([TOPIC, SetPlacement(1, (2,)), DeleteTopic("a" * 32), AllocateProducerIds(1, 1)], len(log) + 1)
    assert restored.apply(more).rows == grouped.apply(more).rows
