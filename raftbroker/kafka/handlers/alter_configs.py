"""AlterConfigs (33): all configs of a topic at once; what is not named goes back to its default."""

from kafka.protocol.admin.configs import AlterConfigsRequest, AlterConfigsResponse

from raftbroker.broker.errors import InvalidConfig
from raftbroker.kafka.api import Api, Request
from raftbroker.kafka.codec import messages
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.errors import ErrorCode
from raftbroker.kafka.handlers.common import LISTED_MAX, Failure, each
from raftbroker.kafka.handlers.config_forms import change_topic, check_named_once, check_topic_resource

Asked = AlterConfigsRequest.AlterConfigsResource
Result = AlterConfigsResponse.AlterConfigsResourceResponse


async def handle(context: KafkaContext, request: Request[AlterConfigsRequest]) -> AlterConfigsResponse:
    body = request.body

    async def alter(resource: Asked) -> None:
        name = resource.resource_name
        check_topic_resource(resource.resource_type, name)
        check_named_once(config.name for config in resource.configs)
        there = await context.broker.describe_topic(name, timeout=context.options.request_timeout)
        changes: dict[str, str | None] = dict.fromkeys(there.configs)
        for config in resource.configs:
            if config.value is None:
                raise InvalidConfig(f"topic config {config.name[:260]} has no value", field=config.name)
            changes[config.name] = config.value
        await change_topic(context, name, changes, validate_only=body.validate_only)

    results = await each(body.resources, alter)
    return AlterConfigsResponse(
        throttle_time_ms=0,
        responses=[
            Result(
                error_code=result.code if isinstance(result, Failure) else ErrorCode.NONE,
                error_message=result.message if isinstance(result, Failure) else None,
                resource_type=resource.resource_type,
                resource_name=resource.resource_name,
            )
            for resource, result in zip(body.resources, results, strict=True)
        ],
    )


API = Api(
    key=33,
    name="AlterConfigs",
    min_version=0,
    max_version=2,
    codec=messages(AlterConfigsRequest, AlterConfigsResponse, elements_max=LISTED_MAX),
    handle=handle,
)
