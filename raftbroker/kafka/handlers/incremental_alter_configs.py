"""IncrementalAlterConfigs (44): single configs of a topic are set, put back, or, where they are lists, added to."""

from enum import IntEnum

from kafka.protocol.admin.configs import IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse

from raftbroker.broker.errors import InvalidConfig, InvalidRequest
from raftbroker.kafka.api import Api, Request
from raftbroker.kafka.codec import messages
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.errors import ErrorCode
from raftbroker.kafka.handlers.common import LISTED_MAX, Failure, each
from raftbroker.kafka.handlers.config_forms import change_topic, check_named_once, check_topic_resource
from raftbroker.state.configs import DEFINITIONS, ConfigType

Asked = IncrementalAlterConfigsRequest.AlterConfigsResource
Change = Asked.AlterableConfig
Result = IncrementalAlterConfigsResponse.AlterConfigsResourceResponse


class Operation(IntEnum):
    SET = 0
    DELETE = 1
    APPEND = 2
    SUBTRACT = 3


async def handle(
    context: KafkaContext, request: Request[IncrementalAlterConfigsRequest]
) -> IncrementalAlterConfigsResponse:
    body = request.body

    async def alter(resource: Asked) -> None:
        name = resource.resource_name
        check_topic_resource(resource.resource_type, name)
        check_named_once(config.name for config in resource.configs)
        present: dict[str, str] = {}
        if any(config.config_operation in (Operation.APPEND, Operation.SUBTRACT) for config in resource.configs):
            views = await context.broker.topic_configs(name, timeout=context.options.request_timeout)
            present = {view.name: view.value for view in views}
        changes = {config.name: changed(config, present) for config in resource.configs}
        await change_topic(context, name, changes, validate_only=body.validate_only)

    results = await each(body.resources, alter)
    return IncrementalAlterConfigsResponse(
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


def changed(config: Change, present: dict[str, str]) -> str | None:
    """The value after the change; None: back to the default. Raises InvalidRequest."""
    operation = config.config_operation
    if operation == Operation.DELETE:
        return None
    if config.value is None:
        raise InvalidConfig(f"topic config {config.name[:260]} has no value", field=config.name)
    if operation == Operation.SET:
        return config.value
    if operation not in (Operation.APPEND, Operation.SUBTRACT):
        raise InvalidRequest(
            f"there is no operation {operation} on a config; 0 sets, 1 deletes, 2 appends, 3 subtracts"
        )
    definition = DEFINITIONS.get(config.name)
    if definition is None or definition.type is not ConfigType.LIST:
        raise InvalidConfig(
            f"{config.name[:260]} is not a list: nothing is added to it or taken away", field=config.name
        )
    items = [item for item in present[config.name].split(",") if item]
    named = [item.strip() for item in config.value.split(",")]
    if operation == Operation.APPEND:
        return ",".join([*items, *(item for item in named if item not in items)])
    return ",".join(item for item in items if item not in named)


API = Api(
    key=44,
    name="IncrementalAlterConfigs",
    min_version=0,
    max_version=1,
    codec=messages(IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, elements_max=LISTED_MAX),
    handle=handle,
)
