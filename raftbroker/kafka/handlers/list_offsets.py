"""ListOffsets (2): the first and the last offset of a partition, and the one that a time leads to."""

from kafka.protocol.consumer import ListOffsetsRequest, ListOffsetsResponse

from raftbroker.broker.leader_side import Asked
from raftbroker.broker.offsets import PlacedOffset
from raftbroker.kafka.api import Api, Request
from raftbroker.kafka.codec import messages
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.errors import ErrorCode, code_of

Topic = ListOffsetsResponse.ListOffsetsTopicResponse
Partition = Topic.ListOffsetsPartitionResponse


async def handle(context: KafkaContext, request: Request[ListOffsetsRequest]) -> ListOffsetsResponse:
    body = request.body
    asked = [
        Asked(topic.name, one.partition_index, one.current_leader_epoch, one.timestamp)
        for topic in body.topics
        for one in topic.partitions
    ]
    found = await context.broker.leader_side.offsets(
        asked, stable=body.isolation_level > 0, timeout=context.options.request_timeout
    )
    rest = iter(found)
    topics = [
        Topic(name=topic.name, partitions=[_answer(one.partition_index, next(rest)) for one in topic.partitions])
        for topic in body.topics
    ]
    return ListOffsetsResponse(throttle_time_ms=0, topics=topics)


def _answer(partition: int, found: PlacedOffset | Exception) -> Partition:
    if isinstance(found, Exception):
        return Partition(partition_index=partition, error_code=code_of(found), timestamp=-1, offset=-1, leader_epoch=-1)
    return Partition(
        partition_index=partition,
        error_code=ErrorCode.NONE,
        timestamp=found.timestamp,
        offset=found.offset,
        leader_epoch=found.epoch,
    )


API = Api(
    key=2,
    name="ListOffsets",
    min_version=1,
    max_version=7,
    codec=messages(ListOffsetsRequest, ListOffsetsResponse),
    handle=handle,
)
