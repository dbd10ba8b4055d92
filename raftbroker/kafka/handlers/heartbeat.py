"""Heartbeat (12): a member of a classic group is alive, and learns whether there is a rebalance."""

from kafka.protocol.consumer.group import HeartbeatRequest, HeartbeatResponse

from raftbroker.kafka.api import Api, Request
from raftbroker.kafka.codec import messages
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.handlers.group_forms import FAILURES, code, failure

STATIC_FROM = 3


async def handle(context: KafkaContext, request: Request[HeartbeatRequest]) -> HeartbeatResponse:
    body = request.body
    try:
        answer = await context.broker.consumer_groups.heartbeat(
            body.group_id,
            member_id=body.member_id,
            instance_id=body.group_instance_id if request.version >= STATIC_FROM else None,
            generation=body.generation_id,
            here_only=True,
        )
    except FAILURES as error:
        return HeartbeatResponse(throttle_time_ms=0, error_code=failure(context, body.group_id, error))
    return HeartbeatResponse(throttle_time_ms=0, error_code=code(answer.error))


API = Api(
    key=12,
    name="Heartbeat",
    min_version=0,
    max_version=4,
    codec=messages(HeartbeatRequest, HeartbeatResponse),
    handle=handle,
)
