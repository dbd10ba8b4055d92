"""OffsetDelete (47): offsets of topics that no member of the group reads."""

from kafka.protocol.consumer.group import OffsetDeleteRequest, OffsetDeleteResponse

from raftbroker.kafka.api import Api, Request
from raftbroker.kafka.codec import messages
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.errors import ErrorCode
from raftbroker.kafka.handlers.group_forms import FAILURES, code, codes, failure
from raftbroker.state.groups.ops import PartitionName

Topic = OffsetDeleteResponse.OffsetDeleteResponseTopic
Partition = Topic.OffsetDeleteResponsePartition


async def handle(context: KafkaContext, request: Request[OffsetDeleteRequest]) -> OffsetDeleteResponse:
    body = request.body
    names = [PartitionName(topic.name, one.partition_index) for topic in body.topics for one in topic.partitions]
    try:
        done = await context.broker.consumer_groups.delete_offsets(
            body.group_id, names, timeout=context.options.request_timeout, here_only=True
        )
    except FAILURES as error:
        return OffsetDeleteResponse(error_code=failure(context, body.group_id, error), throttle_time_ms=0, topics=[])
    if done.error is not None:
        return OffsetDeleteResponse(error_code=code(done.error), throttle_time_ms=0, topics=[])
    following = iter(codes(None, done.errors, len(names)))
    return OffsetDeleteResponse(
        error_code=ErrorCode.NONE,
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
    key=47,
    name="OffsetDelete",
    min_version=0,
    max_version=0,
    codec=messages(OffsetDeleteRequest, OffsetDeleteResponse),
    handle=handle,
)
