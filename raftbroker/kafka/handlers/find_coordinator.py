"""FindCoordinator (10): which node coordinates a consumer group or a transactional id."""

from collections.abc import Mapping

from kafka.protocol.metadata.find_coordinator import FindCoordinatorRequest, FindCoordinatorResponse

from raftbroker.kafka.api import Api, Request
from raftbroker.kafka.codec import messages
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.endpoints import Endpoint, endpoints
from raftbroker.kafka.errors import ErrorCode
from raftbroker.kafka.handlers.group_forms import FAILURES, each, failure

Coordinator = FindCoordinatorResponse.Coordinator

MANY_FROM = 4
"""The version from which on many are asked for at once."""
GROUP, TRANSACTION = 0, 1
SECONDS = 5.0


async def handle(context: KafkaContext, request: Request[FindCoordinatorRequest]) -> FindCoordinatorResponse:
    body = request.body
    many = request.version >= MANY_FROM
    keys = body.coordinator_keys if many else [body.key]
    kind = body.key_type if request.version >= 1 else GROUP
    view = await context.broker.metadata(timeout=context.options.request_timeout)
    reachable = endpoints(context, view)
    found = await each(keys, lambda key: _find(context, key, kind, reachable))
    if many:
        return FindCoordinatorResponse(throttle_time_ms=0, coordinators=found)
    return FindCoordinatorResponse(
        throttle_time_ms=0,
        error_code=found[0].error_code,
        error_message=found[0].error_message,
        node_id=found[0].node_id,
        host=found[0].host,
        port=found[0].port,
    )


async def _find(context: KafkaContext, key: str, kind: int, reachable: Mapping[int, Endpoint]) -> Coordinator:
    if kind not in (GROUP, TRANSACTION):
        return _none(key, ErrorCode.INVALID_REQUEST, "there are coordinators of groups (0) and transactions (1) only")
    try:
        node = await context.broker.consumer_groups.coordinator(key, timeout=SECONDS)
    except FAILURES as error:
        return _none(key, failure(context, key, error), str(error))
    endpoint = reachable.get(-1 if node is None else node)
    if endpoint is None:
        return _none(key, ErrorCode.COORDINATOR_NOT_AVAILABLE, "there is no leader of the coordinator's shard just now")
    return Coordinator(
        key=key,
        node_id=endpoint.id,
        host=endpoint.host,
        port=endpoint.port,
        error_code=ErrorCode.NONE,
        error_message=None,
    )


def _none(key: str, error: ErrorCode, message: str) -> Coordinator:
    return Coordinator(key=key, node_id=-1, host="", port=-1, error_code=error, error_message=message)


API = Api(
    key=10,
    name="FindCoordinator",
    min_version=0,
    max_version=6,
    codec=messages(FindCoordinatorRequest, FindCoordinatorResponse),
    handle=handle,
)
