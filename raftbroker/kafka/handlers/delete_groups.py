"""DeleteGroups (42): groups without members, with their offsets."""

from kafka.protocol.admin.groups import DeleteGroupsRequest, DeleteGroupsResponse

from raftbroker.kafka.api import Api, Request
from raftbroker.kafka.codec import messages
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.handlers.group_forms import FAILURES, code, each, failure

Result = DeleteGroupsResponse.DeletableGroupResult


async def handle(context: KafkaContext, request: Request[DeleteGroupsRequest]) -> DeleteGroupsResponse:
    names = dict.fromkeys(request.body.groups_names)
    results = await each(names, lambda name: _delete(context, name))
    return DeleteGroupsResponse(throttle_time_ms=0, results=results)


async def _delete(context: KafkaContext, name: str) -> Result:
    try:
        error = await context.broker.consumer_groups.delete(
            name, timeout=context.options.request_timeout, here_only=True
        )
    except FAILURES as failed:
        return Result(group_id=name, error_code=failure(context, name, failed))
    return Result(group_id=name, error_code=code(error))


API = Api(
    key=42,
    name="DeleteGroups",
    min_version=0,
    max_version=2,
    codec=messages(DeleteGroupsRequest, DeleteGroupsResponse),
    handle=handle,
)
