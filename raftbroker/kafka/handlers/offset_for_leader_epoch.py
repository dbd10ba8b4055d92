"""OffsetForLeaderEpoch (23): where a leader's time ended, so that a client can tell whether what it has read stands.

What a client has read was committed and is never taken back; so the answer is never below its position."""

from kafka.protocol.consumer import OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse

from raftbroker.broker.leader_side import Asked
from raftbroker.kafka.api import Api, Request
from raftbroker.kafka.codec import messages
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.errors import ErrorCode, code_of

Topic = OffsetForLeaderEpochResponse.OffsetForLeaderTopicResult
End = Topic.EpochEndOffset


async def handle(context: KafkaContext, request: Request[OffsetForLeaderEpochRequest]) -> OffsetForLeaderEpochResponse:
    body = request.body
    asked = [
        Asked(topic.topic, one.partition, one.current_leader_epoch, one.leader_epoch)
        for topic in body.topics
        for one in topic.partitions
    ]
    rest = iter(await context.broker.leader_side.epoch_ends(asked, timeout=context.options.request_timeout))
    topics = [
        Topic(topic=topic.topic, partitions=[_answer(one.partition, next(rest)) for one in topic.partitions])
        for topic in body.topics
    ]
    return OffsetForLeaderEpochResponse(throttle_time_ms=0, topics=topics)


def _answer(partition: int, found: tuple[int, int] | Exception) -> End:
    if isinstance(found, Exception):
        return End(error_code=code_of(found), partition=partition, leader_epoch=-1, end_offset=-1)
    return End(error_code=ErrorCode.NONE, partition=partition, leader_epoch=found[0], end_offset=found[1])


API = Api(
    key=23,
    name="OffsetForLeaderEpoch",
    min_version=2,
    max_version=4,
    codec=messages(OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse),
    handle=handle,
)
