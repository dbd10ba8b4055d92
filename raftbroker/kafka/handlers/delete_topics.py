"""DeleteTopics (20), by name and by id."""

from kafka.protocol.admin.topics import DeleteTopicsRequest, DeleteTopicsResponse

from raftbroker.broker.errors import InvalidRequest
from raftbroker.kafka.api import Api, Request
from raftbroker.kafka.codec import messages
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.errors import ErrorCode
from raftbroker.kafka.handlers.common import LISTED_MAX, Failure, each, seconds
from raftbroker.kafka.ids import topic_id_of

Asked = DeleteTopicsRequest.DeleteTopicState
Result = DeleteTopicsResponse.DeletableTopicResult


async def handle(context: KafkaContext, request: Request[DeleteTopicsRequest]) -> DeleteTopicsResponse:
    body = request.body
    asked = body.topics if request.version >= BY_ID_FROM else [Asked(name=name) for name in body.topic_names]
    timeout = seconds(body.timeout_ms)

    async def delete(topic: Asked) -> str | None:
        """The topic's name."""
        if topic.name is not None and topic.topic_id is not None:
            raise InvalidRequest("name a topic or give its id, not both")
        if topic.name is not None:
            await context.broker.delete_topic(topic.name, timeout=timeout)
            return topic.name
        return await context.broker.delete_topic_by_id(topic_id_of(topic.topic_id), timeout=timeout)

    results = await each(asked, delete)
    return DeleteTopicsResponse(
        throttle_time_ms=0,
        responses=[_result(topic, result) for topic, result in zip(asked, results, strict=True)],
    )


def _result(topic: Asked, result: str | Failure | None) -> Result:
    if not isinstance(result, Failure):
        return Result(name=result, topic_id=topic.topic_id, error_code=ErrorCode.NONE, error_message=None)
    code = result.code
    if code is ErrorCode.UNKNOWN_TOPIC_OR_PARTITION and topic.name is None:
        code = ErrorCode.UNKNOWN_TOPIC_ID
    return Result(name=topic.name, topic_id=topic.topic_id, error_code=code, error_message=result.message)


BY_ID_FROM = 6

API = Api(
    key=20,
    name="DeleteTopics",
    min_version=1,
    max_version=6,
    codec=messages(DeleteTopicsRequest, DeleteTopicsResponse, elements_max=LISTED_MAX),
    handle=handle,
)
