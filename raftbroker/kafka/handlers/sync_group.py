"""SyncGroup (14): a member of a classic generation is told its assignment; the generation's leader brings them."""

from kafka.protocol.consumer.group import SyncGroupRequest, SyncGroupResponse

from raftbroker.kafka.api import Api, Request
from raftbroker.kafka.codec import messages
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.errors import ErrorCode
from raftbroker.kafka.handlers.group_forms import FAILURES, code, failure

STATIC_FROM, PROTOCOL_FROM = 3, 5


async def handle(context: KafkaContext, request: Request[SyncGroupRequest]) -> SyncGroupResponse:
    body, version = request.body, request.version
    try:
        answer = await context.broker.consumer_groups.sync(
            body.group_id,
            member_id=body.member_id,
            instance_id=body.group_instance_id if version >= STATIC_FROM else None,
            generation=body.generation_id,
            protocol_type=body.protocol_type if version >= PROTOCOL_FROM else None,
            protocol=body.protocol_name if version >= PROTOCOL_FROM else None,
            assignments={given.member_id: bytes(given.assignment) for given in body.assignments},
            here_only=True,
        )
    except FAILURES as error:
        return _refused(failure(context, body.group_id, error))
    if answer.error is not None:
        return _refused(code(answer.error))
    return SyncGroupResponse(
        throttle_time_ms=0,
        error_code=ErrorCode.NONE,
        protocol_type=answer.protocol_type,
        protocol_name=answer.protocol,
        assignment=answer.assignment,
    )


def _refused(error: ErrorCode) -> SyncGroupResponse:
    return SyncGroupResponse(
        throttle_time_ms=0, error_code=error, protocol_type=None, protocol_name=None, assignment=b""
    )


API = Api(
    key=14,
    name="SyncGroup",
    min_version=0,
    max_version=5,
    codec=messages(SyncGroupRequest, SyncGroupResponse),
    handle=handle,
    abandon=True,
)
