"""ListGroups (16): the groups that this node coordinates. A tool asks every node."""

from kafka.protocol.admin.groups import ListGroupsRequest, ListGroupsResponse

from raftbroker.kafka.api import Api, Request
from raftbroker.kafka.codec import messages
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.errors import ErrorCode
from raftbroker.kafka.handlers.group_forms import FAILURES, failure

Group = ListGroupsResponse.ListedGroup

STATES_FROM, TYPES_FROM = 4, 5


async def handle(context: KafkaContext, request: Request[ListGroupsRequest]) -> ListGroupsResponse:
    body, version = request.body, request.version
    states = {state.lower() for state in body.states_filter} if version >= STATES_FROM else set()
    types = {kind.lower() for kind in body.types_filter} if version >= TYPES_FROM else set()
    try:
        groups = await context.broker.consumer_groups.list_here(timeout=context.options.request_timeout)
    except FAILURES as error:
        return ListGroupsResponse(throttle_time_ms=0, error_code=failure(context, "", error), groups=[])
    return ListGroupsResponse(
        throttle_time_ms=0,
        error_code=ErrorCode.NONE,
        groups=[
            Group(
                group_id=group.name,
                protocol_type=group.protocol_type,
                group_state=group.state.value,
                group_type=group.type.value,
            )
            for group in groups
            if (not states or group.state.value.lower() in states) and (not types or group.type.value in types)
        ],
    )


API = Api(
    key=16,
    name="ListGroups",
    min_version=0,
    max_version=5,
    codec=messages(ListGroupsRequest, ListGroupsResponse),
    handle=handle,
)
