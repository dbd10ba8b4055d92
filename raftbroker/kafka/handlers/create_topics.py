"""CreateTopics (19)."""

from kafka.protocol.admin.topics import CreateTopicsRequest, CreateTopicsResponse

from raftbroker.broker.errors import BrokerError, InvalidConfig, InvalidRequest
from raftbroker.broker.views import ConfigView, TopicView
from raftbroker.kafka.api import Api, Request
from raftbroker.kafka.codec import messages
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.errors import ErrorCode
from raftbroker.kafka.handlers.common import LISTED_MAX, Failure, NotTaken, each, seconds, twice
from raftbroker.kafka.handlers.config_forms import shown_value, source_of
from raftbroker.kafka.ids import uuid_of

Asked = CreateTopicsRequest.CreatableTopic
Result = CreateTopicsResponse.CreatableTopicResult
Made = tuple[TopicView, list[ConfigView]]

DEFAULT = -1
"""As a number of partitions or replicas: the cluster's own."""


async def handle(context: KafkaContext, request: Request[CreateTopicsRequest]) -> CreateTopicsResponse:
    body = request.body
    repeated = twice(topic.name for topic in body.topics)

    async def create(topic: Asked) -> Made:
        if topic.name in repeated:
            raise InvalidRequest(f"topic {topic.name[:260]} is named twice")
        return await _create(context, topic, body.validate_only, seconds(body.timeout_ms))

    results = await each(body.topics, create)
    return CreateTopicsResponse(
        throttle_time_ms=0,
        topics=[_result(topic, result) for topic, result in zip(body.topics, results, strict=True)],
    )


async def _create(context: KafkaContext, topic: Asked, validate_only: bool, timeout: float) -> Made:
    if topic.assignments:
        raise NotTaken(
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "The cluster places replicas itself; give the numbers of partitions and replicas instead.",
        )
    configs = {}
    for config in topic.configs:
        if config.value is None:
            raise InvalidConfig(f"topic config {config.name[:260]} has no value", field=config.name)
        configs[config.name] = config.value
    made = await context.broker.create_topic(
        topic.name,
        None if topic.num_partitions == DEFAULT else topic.num_partitions,
        None if topic.replication_factor == DEFAULT else topic.replication_factor,
        configs,
        validate_only=validate_only,
        timeout=timeout,
    )
    try:
        return made, [] if validate_only else await context.broker.topic_configs(topic.name, timeout=timeout)
    except BrokerError:
        return made, []  # it has been made all the same


def _result(topic: Asked, result: Made | Failure) -> Result:
    if isinstance(result, Failure):
        return Result(name=topic.name, error_code=result.code, error_message=result.message, configs=None)
    made, configs = result
    return Result(
        name=topic.name,
        topic_id=uuid_of(made.topic_id),
        error_code=ErrorCode.NONE,
        error_message=None,
        num_partitions=len(made.partitions) or topic.num_partitions,
        replication_factor=made.replication_factor or topic.replication_factor,
        configs=[
            Result.CreatableTopicConfigs(
                name=config.name,
                value=shown_value(config),
                read_only=False,
                config_source=source_of(config),
                is_sensitive=config.sensitive,
            )
            for config in configs
        ],
    )


API = Api(
    key=19,
    name="CreateTopics",
    min_version=2,
    max_version=7,
    codec=messages(CreateTopicsRequest, CreateTopicsResponse, elements_max=LISTED_MAX),
    handle=handle,
)
