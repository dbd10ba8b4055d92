"""OffsetFetch (9): what is committed, of one group or (from version 8 on) of many."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from kafka.protocol.consumer.group import OffsetFetchRequest, OffsetFetchResponse

from raftbroker.kafka.api import Api, Request
from raftbroker.kafka.codec import messages
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.errors import ErrorCode
from raftbroker.kafka.handlers.group_forms import FAILURES, code, each, failure
from raftbroker.state.groups.ops import PartitionName
from raftbroker.state.groups.views import CommittedOffset

Asked = OffsetFetchRequest.OffsetFetchRequestGroup
OldTopic = OffsetFetchResponse.OffsetFetchResponseTopic
OldPartition = OldTopic.OffsetFetchResponsePartition
Group = OffsetFetchResponse.OffsetFetchResponseGroup
Topic = Group.OffsetFetchResponseTopics
Partition = Topic.OffsetFetchResponsePartitions

GROUP_ERROR_FROM, STABLE_FROM, MANY_FROM, MEMBER_FROM = 2, 7, 8, 9


class Answer(NamedTuple):
    error: ErrorCode
    offsets: Sequence[CommittedOffset]


async def handle(context: KafkaContext, request: Request[OffsetFetchRequest]) -> OffsetFetchResponse:
    body, version = request.body, request.version
    stable = version >= STABLE_FROM and body.require_stable
    if version < MANY_FROM:
        names = None if body.topics is None else _names(body.topics)
        answer = await _fetch(context, body.group_id, names, stable)
        return _old(version, answer, names or [])

    async def fetch(asked: Asked) -> Group:
        names = None if asked.topics is None else _names(asked.topics)
        member_id, epoch = (asked.member_id, asked.member_epoch) if version >= MEMBER_FROM else (None, -1)
        return _group(asked.group_id, await _fetch(context, asked.group_id, names, stable, member_id, epoch))

    return OffsetFetchResponse(throttle_time_ms=0, groups=await each(body.groups, fetch))


def _names(
    topics: Iterable[OffsetFetchRequest.OffsetFetchRequestTopic | Asked.OffsetFetchRequestTopics],
) -> list[PartitionName]:
    return [PartitionName(topic.name, number) for topic in topics for number in topic.partition_indexes]


async def _fetch(
    context: KafkaContext,
    group: str,
    names: list[PartitionName] | None,
    stable: bool,
    member_id: str | None = None,
    epoch: int = -1,
) -> Answer:
    try:
        answer = await context.broker.consumer_groups.offsets(
            group,
            names,
            stable=stable,
            member_id=member_id,
            epoch=epoch,
            timeout=context.options.request_timeout,
            here_only=True,
        )
    except FAILURES as error:
        return Answer(failure(context, group, error), ())
    return Answer(code(answer.error), answer.offsets)


def _by_topic(offsets: Iterable[CommittedOffset]) -> dict[str, list[CommittedOffset]]:
    found: dict[str, list[CommittedOffset]] = {}
    for item in offsets:
        found.setdefault(item.topic, []).append(item)
    return found


def _old(version: int, answer: Answer, names: Sequence[PartitionName]) -> OffsetFetchResponse:
    """Before version 2 an error can only be told for each partition."""
    offsets = answer.offsets
    if answer.error is not ErrorCode.NONE and version < GROUP_ERROR_FROM:
        offsets = [CommittedOffset(name.topic, name.partition) for name in names]
    topics = [
        OldTopic(
            name=topic,
            partitions=[
                OldPartition(
                    partition_index=item.partition,
                    committed_offset=item.offset,
                    committed_leader_epoch=item.leader_epoch,
                    metadata=item.metadata,
                    error_code=code(item.error) if answer.error is ErrorCode.NONE else answer.error,
                )
                for item in items
            ],
        )
        for topic, items in _by_topic(offsets).items()
    ]
    return OffsetFetchResponse(throttle_time_ms=0, topics=topics, error_code=answer.error)


def _group(name: str, answer: Answer) -> Group:
    topics = [
        Topic(
            name=topic,
            partitions=[
                Partition(
                    partition_index=item.partition,
                    committed_offset=item.offset,
                    committed_leader_epoch=item.leader_epoch,
                    metadata=item.metadata,
                    error_code=code(item.error),
                )
                for item in items
            ],
        )
        for topic, items in _by_topic(answer.offsets).items()
    ]
    return Group(group_id=name, topics=topics, error_code=answer.error)


API = Api(
    key=9,
    name="OffsetFetch",
    min_version=1,
    max_version=9,
    codec=messages(OffsetFetchRequest, OffsetFetchResponse),
    handle=handle,
)
