"""LeaveGroup (13): members leave; an administrator has static ones leave by their instance ids."""

from kafka.protocol.consumer.group import LeaveGroupRequest, LeaveGroupResponse

from raftbroker.kafka.api import Api, Request
from raftbroker.kafka.codec import messages
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.errors import ErrorCode
from raftbroker.kafka.handlers.group_forms import FAILURES, code, codes, failure
from raftbroker.state.groups.ops import Leaving

Member = LeaveGroupResponse.MemberResponse

MANY_FROM = 3


async def handle(context: KafkaContext, request: Request[LeaveGroupRequest]) -> LeaveGroupResponse:
    body = request.body
    many = request.version >= MANY_FROM
    leaving = [Leaving(who.member_id, who.group_instance_id) for who in body.members] if many else []
    if not many:
        leaving = [Leaving(body.member_id, None)]
    try:
        left = await context.broker.consumer_groups.leave(body.group_id, leaving, here_only=True)
    except FAILURES as error:
        return LeaveGroupResponse(throttle_time_ms=0, error_code=failure(context, body.group_id, error), members=[])
    if left.error is not None or not many:
        error_code = codes(left.error, left.errors, 1)[0]
        return LeaveGroupResponse(throttle_time_ms=0, error_code=error_code, members=[])
    return LeaveGroupResponse(
        throttle_time_ms=0,
        error_code=ErrorCode.NONE,
        members=[
            Member(member_id=who.member_id, group_instance_id=who.instance_id, error_code=code(error))
            for who, error in zip(leaving, left.errors, strict=True)
        ],
    )


API = Api(
    key=13,
    name="LeaveGroup",
    min_version=0,
    max_version=5,
    codec=messages(LeaveGroupRequest, LeaveGroupResponse),
    handle=handle,
)
