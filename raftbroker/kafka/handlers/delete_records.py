"""DeleteRecords (21): records before an offset go, on any node: the leader is asked from here."""

from kafka.protocol.admin.topics import DeleteRecordsRequest, DeleteRecordsResponse

from raftbroker.kafka.api import Api, Request
from raftbroker.kafka.codec import messages
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.errors import ErrorCode
from raftbroker.kafka.handlers.common import LISTED_MAX, Failure, each, seconds

Topic = DeleteRecordsResponse.DeleteRecordsTopicResult
Partition = Topic.DeleteRecordsPartitionResult

NO_WATERMARK = -1


async def handle(context: KafkaContext, request: Request[DeleteRecordsRequest]) -> DeleteRecordsResponse:
    body = request.body
    timeout = seconds(body.timeout_ms)
    asked = [(topic.name, partition) for topic in body.topics for partition in topic.partitions]

    async def delete(one: tuple[str, DeleteRecordsRequest.DeleteRecordsTopic.DeleteRecordsPartition]) -> int:
        name, partition = one
        return await context.broker.delete_records(name, partition.partition_index, partition.offset, timeout=timeout)

    results = iter(zip(asked, await each(asked, delete), strict=True))
    topics = []
    for topic in body.topics:
        partitions = []
        for _ in topic.partitions:
            (_, partition), result = next(results)
            code, low = (result.code, NO_WATERMARK) if isinstance(result, Failure) else (ErrorCode.NONE, result)
            if code is ErrorCode.NOT_CONTROLLER:
                code = ErrorCode.NOT_LEADER_OR_FOLLOWER
            partitions.append(Partition(partition_index=partition.partition_index, low_watermark=low, error_code=code))
        topics.append(Topic(name=topic.name, partitions=partitions))
    return DeleteRecordsResponse(throttle_time_ms=0, topics=topics)


API = Api(
    key=21,
    name="DeleteRecords",
    min_version=0,
    max_version=2,
    codec=messages(DeleteRecordsRequest, DeleteRecordsResponse, elements_max=LISTED_MAX),
    handle=handle,
)
