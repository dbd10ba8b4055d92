"""Consumer groups over a socket, on a real node: what each API answers, in each version, and how it refuses."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from kafka.protocol import admin, consumer, metadata

from raftbroker.kafka.definitions import consumer_groups as modern
from raftbroker.kafka.errors import ErrorCode
from raftbroker.kafka.handlers import APIS
from raftbroker.node import Node
from raftbroker.state.groups.protocol import Subscription, encode_subscription
from tests.http.harness import LoopThread
from tests.unit.broker.nodes import until
from tests.unit.kafka.conftest import Wire

_groups = itertools.count(1)


def versions(key: int) -> range:
    return range(APIS[key].min_version, APIS[key].max_version + 1)


@pytest.fixture
def group(thread: LoopThread, node: Node) -> str:
    """Of a group that is not there; who coordinates it is ready to."""
    name = f"group-{next(_groups)}"
    thread.run(_coordinated(node, name))
    return name


async def _coordinated(node: Node, name: str) -> None:
    assert node.core is not None
    face = node.core.broker.consumer_groups
    await until(lambda: face.elected(name) and face.leads(name))


@pytest.fixture
def topic(thread: LoopThread, node: Node, name: str) -> str:
    assert node.core is not None
    thread.run(node.core.broker.create_topic(name, 4, 1))
    return name


class Member:
    """A classic member that speaks the protocol itself, in one version of each API."""

    def __init__(self, wire: Wire, group: str, topic: str, instance: str | None = None) -> None:
        self.wire = wire
        self.group = group
        self.metadata = encode_subscription(Subscription((topic,)))
        self.instance = instance
        self.id = ""
        self.generation = -1

    def join(self, version: int = 9, *, session_ms: int = 10_000, kind: str = "consumer", offer: str = "range") -> Any:
        request = consumer.JoinGroupRequest(
            group_id=self.group,
            session_timeout_ms=session_ms,
            rebalance_timeout_ms=10_000,
            member_id=self.id,
            group_instance_id=self.instance,
            protocol_type=kind,
            protocols=[consumer.JoinGroupRequest.JoinGroupRequestProtocol(name=offer, metadata=self.metadata)],
            reason=None,
        )
        answer = self.wire.ask(request, version)
        if answer.error_code in (0, ErrorCode.MEMBER_ID_REQUIRED):
            self.id = answer.member_id
        if not answer.error_code:
            self.generation = answer.generation_id
        return answer

    def sync(self, version: int = 5, *, generation: int | None = None, protocol: str = "range", **given: bytes) -> Any:
        kind = consumer.SyncGroupRequest.SyncGroupRequestAssignment
        request = consumer.SyncGroupRequest(
            group_id=self.group,
            generation_id=self.generation if generation is None else generation,
            member_id=self.id,
            group_instance_id=self.instance,
            protocol_type="consumer",
            protocol_name=protocol,
            assignments=[kind(member_id=self.id, assignment=given.get("mine", b"all"))],
        )
        return self.wire.ask(request, version)

    def become_stable(self) -> None:
        if self.join().error_code == ErrorCode.MEMBER_ID_REQUIRED:
            assert self.join().error_code == 0
        assert self.sync().error_code == 0

    def beat(self, version: int = 4, *, generation: int | None = None, member_id: str | None = None) -> int:
        request = consumer.HeartbeatRequest(
            group_id=self.group,
            generation_id=self.generation if generation is None else generation,
            member_id=self.id if member_id is None else member_id,
            group_instance_id=self.instance,
        )
        return int(self.wire.ask(request, version).error_code)

    def leave(self, version: int = 5) -> Any:
        kind = consumer.LeaveGroupRequest.MemberIdentity
        request = consumer.LeaveGroupRequest(
            group_id=self.group,
            member_id=self.id,
            members=[kind(member_id=self.id, group_instance_id=self.instance, reason=None)],
        )
        return self.wire.ask(request, version)

    def commit(
        self,
        version: int,
        topic: str,
        partitions: Sequence[int] = (0,),
        *,
        generation: int | None = None,
        **fields: Any,
    ) -> list[int]:
        kind = consumer.OffsetCommitRequest.OffsetCommitRequestTopic
        one = kind.OffsetCommitRequestPartition
        request = consumer.OffsetCommitRequest(
            group_id=self.group,
            generation_id_or_member_epoch=self.generation if generation is None else generation,
            member_id=fields.get("member_id", self.id),
            group_instance_id=self.instance,
            retention_time_ms=-1,
            topics=[
                kind(
                    name=topic,
                    partitions=[
                        one(
                            partition_index=number,
                            committed_offset=100 + version,
                            committed_leader_epoch=3,
                            committed_metadata=fields.get("metadata", "mark"),
                        )
                        for number in partitions
                    ],
                )
            ],
        )
        answer = self.wire.ask(request, version)
        return [part.error_code for found in answer.topics for part in found.partitions]

    def fetch(self, version: int, topic: str | None, partitions: Sequence[int] = (0,), **fields: Any) -> list[Any]:
        """The partitions answered, or the error of all."""
        old = consumer.OffsetFetchRequest.OffsetFetchRequestTopic
        kind = consumer.OffsetFetchRequest.OffsetFetchRequestGroup
        new = kind.OffsetFetchRequestTopics
        made = (
            None if topic is None else [(old if version < 8 else new)(name=topic, partition_indexes=list(partitions))]
        )
        request = consumer.OffsetFetchRequest(
            group_id=self.group,
            topics=made if version < 8 else [],
            groups=[kind(group_id=self.group, member_id=None, member_epoch=-1, topics=made)] if version >= 8 else [],
            require_stable=fields.get("stable", False),
        )
        answer = self.wire.ask(request, version)
        found = answer if version < 8 else answer.groups[0]
        if version >= 2 and found.error_code:
            return [found.error_code]
        return [part for one in found.topics for part in one.partitions]


# --- the classic protocol ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", versions(11))
def test_joining(wire: Wire, group: str, topic: str, version: int) -> None:
    member = Member(wire, group, topic)
    first = member.join(version)
    if version >= 4:
        assert (first.error_code, first.members) == (ErrorCode.MEMBER_ID_REQUIRED, [])
        first = member.join(version)
    assert (first.error_code, first.generation_id, first.protocol_name) == (0, 1, "range")
    assert first.leader == first.member_id == member.id
    assert [(one.member_id, bytes(one.metadata)) for one in first.members] == [(member.id, member.metadata)]
    if version >= 7:
        assert first.protocol_type == "consumer"
    stranger = Member(wire, group, topic)
    assert stranger.join(version, offer="other").error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert stranger.join(version, kind="connect").error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert stranger.join(version, session_ms=1).error_code == ErrorCode.INVALID_SESSION_TIMEOUT
    stranger.id = "nobody"
    assert stranger.join(version).error_code == ErrorCode.UNKNOWN_MEMBER_ID
    assert Member(wire, "", topic).join(version).error_code == ErrorCode.INVALID_GROUP_ID


@pytest.mark.parametrize("version", versions(14))
def test_syncing(wire: Wire, group: str, topic: str, version: int) -> None:
    member = Member(wire, group, topic)
    assert member.sync(version).error_code == ErrorCode.UNKNOWN_MEMBER_ID
    member.join(3)
    assert member.sync(version, generation=7).error_code == ErrorCode.ILLEGAL_GENERATION
    if version >= 5:
        assert member.sync(version, protocol="other").error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    answer = member.sync(version, mine=b"these")
    assert (answer.error_code, bytes(answer.assignment)) == (0, b"these")
    if version >= 5:
        assert (answer.protocol_type, answer.protocol_name) == ("consumer", "range")


@pytest.mark.parametrize("version", versions(12))
def test_heartbeats(wire: Wire, group: str, topic: str, version: int) -> None:
    member = Member(wire, group, topic)
    assert member.beat(version) == ErrorCode.UNKNOWN_MEMBER_ID
    member.become_stable()
    assert member.beat(version) == 0
    assert member.beat(version, generation=9) == ErrorCode.ILLEGAL_GENERATION
    assert member.beat(version, member_id="nobody") == ErrorCode.UNKNOWN_MEMBER_ID


@pytest.mark.parametrize("version", versions(13))
def test_leaving(wire: Wire, group: str, topic: str, version: int) -> None:
    member = Member(wire, group, topic)
    assert member.leave(version).error_code == ErrorCode.UNKNOWN_MEMBER_ID
    member.become_stable()
    first, again = member.leave(version), member.leave(version)
    assert first.error_code == 0
    if version < 3:
        assert again.error_code == ErrorCode.UNKNOWN_MEMBER_ID
    else:
        assert [one.error_code for one in (*first.members, *again.members)] == [0, ErrorCode.UNKNOWN_MEMBER_ID]


def test_a_static_member_that_comes_back(wire: Wire, group: str, topic: str) -> None:
    first = Member(wire, group, topic, "one")
    first.become_stable()
    back = Member(wire, group, topic, "one")
    answer = back.join(9)
    assert (answer.error_code, answer.generation_id, answer.leader) == (0, first.generation, back.id)
    assert answer.skip_assignment
    assert [member.group_instance_id for member in answer.members] == ["one"]
    assert bytes(back.sync().assignment) == b"all"
    assert first.beat() == ErrorCode.FENCED_INSTANCE_ID
    assert first.commit(9, topic) == [ErrorCode.FENCED_INSTANCE_ID]
    older = Member(wire, group, topic, "one")
    answer = older.join(8)
    assert (answer.error_code, answer.leader, answer.members) == (0, back.id, []), "it must not think that it leads"


# --- offsets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", versions(8))
def test_committing(wire: Wire, group: str, topic: str, version: int) -> None:
    member = Member(wire, group, topic)
    late = ErrorCode.GROUP_ID_NOT_FOUND if version >= 9 else ErrorCode.ILLEGAL_GENERATION
    assert member.commit(version, topic, generation=3, member_id="nobody") == [late]
    member.become_stable()
    assert member.commit(version, topic, (0, 1, 99)) == [0, 0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
    assert member.commit(version, "no-such-topic") == [ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
    assert member.commit(version, topic, generation=9) == [ErrorCode.ILLEGAL_GENERATION]
    assert member.commit(version, topic, member_id="nobody") == [ErrorCode.UNKNOWN_MEMBER_ID]
    assert member.commit(version, topic, member_id="", generation=-1) == [ErrorCode.UNKNOWN_MEMBER_ID]
    assert member.commit(version, topic, metadata="x" * 4097) == [ErrorCode.OFFSET_METADATA_TOO_LARGE]
    (found,) = member.fetch(9, topic)
    expected = (100 + version, 3 if version >= 6 else -1, "mark")
    assert (found.committed_offset, found.committed_leader_epoch, found.metadata) == expected
    assert member.commit(version, topic, metadata=None) == [0]
    assert member.fetch(9, topic)[0].metadata == ""


@pytest.mark.parametrize("version", versions(9))
def test_fetching(wire: Wire, group: str, topic: str, version: int) -> None:
    member = Member(wire, group, topic)
    (nothing,) = member.fetch(version, topic)
    assert (nothing.committed_offset, nothing.metadata, nothing.error_code) == (-1, "", 0)
    assert member.commit(9, topic, (0, 2)) == [0, 0]
    found = member.fetch(version, topic, (2, 1), stable=version >= 7)
    assert [(one.partition_index, one.committed_offset) for one in found] == [(2, 109), (1, -1)]
    if version >= 2:
        assert [one.partition_index for one in member.fetch(version, None)] == [0, 2]


def test_fetching_of_many_groups(wire: Wire, group: str, topic: str) -> None:
    Member(wire, group, topic).commit(9, topic)
    kind = consumer.OffsetFetchRequest.OffsetFetchRequestGroup
    asked = [kind(group_id=name, member_id=None, member_epoch=-1, topics=None) for name in (group, "", "none")]
    answer = wire.ask(consumer.OffsetFetchRequest(groups=asked, require_stable=False), 9)
    assert [(one.group_id, one.error_code, len(one.topics)) for one in answer.groups] == [
        (group, 0, 1),
        ("", 0, 0),
        ("none", 0, 0),
    ]


def test_deleting_offsets(wire: Wire, group: str, topic: str) -> None:
    member = Member(wire, group, topic)

    def delete(*names: str) -> Any:
        kind = consumer.OffsetDeleteRequest.OffsetDeleteRequestTopic
        one = kind.OffsetDeleteRequestPartition
        topics = [kind(name=name, partitions=[one(partition_index=0)]) for name in names]
        return wire.ask(consumer.OffsetDeleteRequest(group_id=group, topics=topics), 0)

    assert delete(topic).error_code == ErrorCode.GROUP_ID_NOT_FOUND
    member.become_stable()
    member.commit(9, topic)
    answer = delete(topic, "other")
    codes = [part.error_code for one in answer.topics for part in one.partitions]
    assert (answer.error_code, codes) == (0, [ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC, 0])
    member.leave()
    assert delete(topic).error_code == 0
    assert member.fetch(9, topic)[0].committed_offset == -1


# --- what tools ask ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", versions(15))
def test_describing(wire: Wire, group: str, topic: str, version: int) -> None:
    member = Member(wire, group, topic, "one")
    member.become_stable()
    asked = admin.DescribeGroupsRequest(groups=[group, "none"], include_authorized_operations=version >= 3)
    found, missing = wire.ask(asked, version).groups
    assert (found.error_code, found.group_state, found.protocol_type, found.protocol_data) == (
        0,
        "Stable",
        "consumer",
        "range",
    )
    (one,) = found.members
    assert (one.member_id, one.client_id, one.client_host) == (member.id, "wire", "/127.0.0.1")
    assert (bytes(one.member_metadata), bytes(one.member_assignment)) == (member.metadata, b"all")
    if version >= 4:
        assert one.group_instance_id == "one"
    assert (missing.error_code, missing.group_state) == (69 if version >= 6 else 0, "Dead")


@pytest.mark.parametrize("version", versions(16))
def test_listing(wire: Wire, group: str, topic: str, version: int) -> None:
    member = Member(wire, group, topic)
    member.become_stable()

    def names(**filters: Any) -> dict[str, Any]:
        answer = wire.ask(admin.ListGroupsRequest(**{"states_filter": [], "types_filter": [], **filters}), version)
        assert answer.error_code == 0
        return {one.group_id: one for one in answer.groups}

    found = names()[group]
    assert found.protocol_type == "consumer"
    if version >= 4:
        assert found.group_state == "Stable"
        assert group in names(states_filter=["stable"])
        assert group not in names(states_filter=["Empty"])
    if version >= 5:
        assert found.group_type == "classic"
        assert group not in names(types_filter=["consumer"])


@pytest.mark.parametrize("version", versions(42))
def test_deleting(wire: Wire, group: str, topic: str, version: int) -> None:
    member = Member(wire, group, topic)

    def delete() -> list[int]:
        return [one.error_code for one in wire.ask(admin.DeleteGroupsRequest(groups_names=[group]), version).results]

    assert delete() == [ErrorCode.GROUP_ID_NOT_FOUND]
    member.become_stable()
    assert delete() == [ErrorCode.NON_EMPTY_GROUP]
    member.leave()
    assert delete() == [0]


@pytest.mark.parametrize("version", versions(10))
def test_finding_coordinators(wire: Wire, node: Node, group: str, version: int) -> None:
    port = int(node.config.kafka.listen.rpartition(":")[2])
    for kind in (0, 1) if version else (0,):
        asked = metadata.FindCoordinatorRequest(key=group, key_type=kind, coordinator_keys=[group, "other"])
        answer = wire.ask(asked, version)
        found = [answer] if version < 4 else answer.coordinators
        assert [(one.error_code, one.node_id, one.host, one.port) for one in found] == [
            (0, 1, "127.0.0.1", port) for _ in found
        ]
    if version >= 4:
        assert [one.key for one in found] == [group, "other"]
        unknown = wire.ask(metadata.FindCoordinatorRequest(key_type=9, coordinator_keys=["x"]), version)
        assert [one.error_code for one in unknown.coordinators] == [ErrorCode.INVALID_REQUEST]


# --- KIP-848 ----------------------------------------------------------------------------------------------------


def beat(wire: Wire, version: int, group: str, **fields: Any) -> Any:
    given: dict[str, Any] = {
        "group_id": group,
        "member_id": "m",
        "member_epoch": 0,
        "instance_id": None,
        "rack_id": None,
        "rebalance_timeout_ms": 10_000,
        "subscribed_topic_names": None,
        "subscribed_topic_regex": None,
        "server_assignor": None,
        "topic_partitions": [],
    }
    return wire.ask(modern.ConsumerGroupHeartbeatRequest(**given | fields), version)


@pytest.mark.parametrize("version", versions(68))
def test_consumer_heartbeats(wire: Wire, group: str, topic: str, version: int) -> None:
    asked = {"subscribed_topic_names": [topic], "member_id": "m" if version else ""}
    first = beat(wire, version, group, **asked)
    assert (first.error_code, first.member_epoch, first.heartbeat_interval_ms) == (0, 1, 5000)
    (given,) = first.assignment.topic_partitions
    assert given.partitions == [0, 1, 2, 3]
    again = beat(
        wire,
        version,
        group,
        member_id=first.member_id,
        member_epoch=1,
        rebalance_timeout_ms=-1,
        topic_partitions=None,
    )
    assert (again.error_code, again.member_epoch, again.assignment) == (0, 1, None)
    describe = modern.ConsumerGroupDescribeRequest(group_ids=[group, "none"], include_authorized_operations=True)
    found, missing = wire.ask(describe, version).groups
    assert (found.group_state, found.group_epoch, found.assignor_name) == ("Stable", 1, "uniform")
    (member,) = found.members
    assert [(one.topic_name, one.partitions) for one in member.assignment.topic_partitions] == [(topic, [0, 1, 2, 3])]
    assert missing.error_code == ErrorCode.GROUP_ID_NOT_FOUND
    left = beat(wire, version, group, member_id=first.member_id, member_epoch=-1)
    assert (left.error_code, left.member_epoch) == (0, -1)


def test_consumer_heartbeats_that_are_refused(wire: Wire, group: str, topic: str) -> None:
    def refused(**fields: Any) -> int:
        return int(beat(wire, 1, group, **fields).error_code)

    names = {"subscribed_topic_names": [topic]}
    assert refused(**names, member_id="") == ErrorCode.INVALID_REQUEST
    assert refused() == ErrorCode.INVALID_REQUEST
    assert refused(**names, rebalance_timeout_ms=-1) == ErrorCode.INVALID_REQUEST
    assert refused(member_epoch=-3) == ErrorCode.INVALID_REQUEST
    assert refused(member_epoch=-2) == ErrorCode.INVALID_REQUEST
    assert refused(**names, server_assignor="magic") == ErrorCode.UNSUPPORTED_ASSIGNOR
    assert refused(subscribed_topic_regex="(") == ErrorCode.INVALID_REGULAR_EXPRESSION
    assert refused(member_epoch=4) == ErrorCode.GROUP_ID_NOT_FOUND
    assert refused(**names) == 0
    assert refused(member_epoch=4) == ErrorCode.FENCED_MEMBER_EPOCH
    assert refused(member_epoch=1, member_id="nobody") == ErrorCode.UNKNOWN_MEMBER_ID
    classic = Member(wire, group, topic)
    assert classic.join().error_code == ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    classic.id = "m"
    assert classic.commit(8, topic, generation=1) == [ErrorCode.UNSUPPORTED_VERSION]
    assert classic.commit(9, topic, generation=0) == [ErrorCode.STALE_MEMBER_EPOCH]
    assert classic.commit(9, topic, generation=1) == [0]
    described = wire.ask(admin.DescribeGroupsRequest(groups=[group]), 6).groups[0]
    assert described.error_code == ErrorCode.GROUP_ID_NOT_FOUND


def test_a_pattern_finds_topics(wire: Wire, group: str, topic: str) -> None:
    answer = beat(wire, 1, group, subscribed_topic_regex=f"{topic}|nothing-.*")
    assert [one.partitions for one in answer.assignment.topic_partitions] == [[0, 1, 2, 3]]
