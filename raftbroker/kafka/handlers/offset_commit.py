"""OffsetCommit (8), of members and of those who use groups for their offsets alone.

How long offsets are kept is the broker's to say, also where an old client (versions 2 to 4) asks for a time of its own.
"""

from kafka.protocol.consumer.group import OffsetCommitRequest, OffsetCommitResponse

from raftbroker.broker.consumer_groups import OffsetToCommit
from raftbroker.kafka.api import Api, Request
from raftbroker.kafka.codec import messages
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.handlers.group_forms import FAILURES, codes, failure

Topic = OffsetCommitResponse.OffsetCommitResponseTopic
Partition = Topic.OffsetCommitResponsePartition

EPOCH_FROM, STATIC_FROM, MODERN_FROM = 6, 7, 9


async def handle(context: KafkaContext, request: Request[OffsetCommitRequest]) -> OffsetCommitResponse:
    body, version = request.body, request.version
    offsets = [
        OffsetToCommit(
            topic.name,
            one.partition_index,
            one.committed_offset,
            one.committed_leader_epoch if version >= EPOCH_FROM else -1,
            one.committed_metadata or "",
        )
        for topic in body.topics
        for one in topic.partitions
    ]
    try:
        done = await context.broker.consumer_groups.commit(
            body.group_id,
            offsets,
            member_id=body.member_id,
            instance_id=body.group_instance_id if version >= STATIC_FROM else None,
            generation=body.generation_id_or_member_epoch,
            modern=version >= MODERN_FROM,
            timeout=context.options.request_timeout,
            here_only=True,
        )
        errors = codes(done.error, done.errors, len(offsets))
    except FAILURES as error:
        errors = [failure(context, body.group_id, error)] * len(offsets)
    following = iter(errors)
    return OffsetCommitResponse(
        throttle_time_ms=0,
        topics=[
            Topic(
                name=topic.name,
                partitions=[
                    Partition(partition_index=one.partition_index, error_code=next(following))
                    for one in topic.partitions
                ],
            )
            for topic in body.topics
        ],
    )


API = Api(
    key=8,
    name="OffsetCommit",
    min_version=2,
    max_version=9,
    codec=messages(OffsetCommitRequest, OffsetCommitResponse),
    handle=handle,
)
