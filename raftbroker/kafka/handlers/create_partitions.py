"""CreatePartitions (37): a topic grows to a total."""

from kafka.protocol.admin.topics import CreatePartitionsRequest, CreatePartitionsResponse

from raftbroker.broker.errors import InvalidPartitions, InvalidRequest
from raftbroker.kafka.api import Api, Request
from raftbroker.kafka.codec import messages
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.errors import ErrorCode
from raftbroker.kafka.handlers.common import LISTED_MAX, Failure, NotTaken, each, seconds, twice

Asked = CreatePartitionsRequest.CreatePartitionsTopic
Result = CreatePartitionsResponse.CreatePartitionsTopicResult


async def handle(context: KafkaContext, request: Request[CreatePartitionsRequest]) -> CreatePartitionsResponse:
    body = request.body
    repeated = twice(topic.name for topic in body.topics)
    timeout = seconds(body.timeout_ms)

    async def grow(topic: Asked) -> None:
        if topic.name in repeated:
            raise InvalidRequest(f"topic {topic.name[:260]} is named twice")
        if topic.assignments:
            raise NotTaken(
                ErrorCode.INVALID_REPLICA_ASSIGNMENT, "The cluster places replicas itself; give the count alone."
            )
        there = await context.broker.describe_topic(topic.name, timeout=timeout)
        if len(there.partitions) == topic.count:
            raise InvalidPartitions(f"topic {topic.name} has {topic.count} partitions already")
        await context.broker.create_partitions(
            topic.name, topic.count, validate_only=body.validate_only, timeout=timeout
        )

    results = await each(body.topics, grow)
    return CreatePartitionsResponse(
        throttle_time_ms=0,
        results=[
            Result(name=topic.name, error_code=result.code, error_message=result.message)
            if isinstance(result, Failure)
            else Result(name=topic.name, error_code=ErrorCode.NONE, error_message=None)
            for topic, result in zip(body.topics, results, strict=True)
        ],
    )


API = Api(
    key=37,
    name="CreatePartitions",
    min_version=0,
    max_version=3,
    codec=messages(CreatePartitionsRequest, CreatePartitionsResponse, elements_max=LISTED_MAX),
    handle=handle,
)
