"""DeleteGroups (42): groups without members, with their offsets."""

from kafka.protocol.admin.groups import DeleteGroupsRequest, DeleteGroupsResponse

from raftbroker.kafka.api import Api, Request
from raftbroker.kafka.codec import messages
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.errors import ErrorCode
from raftbroker.kafka.handlers.group_forms import FAILURES, code, failure

Result = DeleteGroupsResponse.DeletableGroupResult


async def handle(context: KafkaContext, request: Request[DeleteGroupsRequest]) -> DeleteGroupsResponse:
    results = [
        Result(group_id=name, error_code=await _delete(context, name))
        for name in dict.fromkeys(request.body.groups_names)
    ]
    return DeleteGroupsResponse(throttle_time_ms=0, results=results)


async def _delete(context: KafkaContext, name: str) -> ErrorCode:
    try:
        error = await context.broker.consumer_groups.delete(
            name, timeout=context.options.request_timeout, here_only=True
        )
    except FAILURES as failed:
        return failure(context, name, failed)
    return code(error)


API = Api(
    key=42,
    name="DeleteGroups",
    min_version=0,
    max_version=2,
    codec=messages(DeleteGroupsRequest, DeleteGroupsResponse),
    handle=handle,
)
