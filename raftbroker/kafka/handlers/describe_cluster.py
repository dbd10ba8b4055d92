"""DescribeCluster (60): the nodes, where they are, and the controller."""

from kafka.protocol.admin.cluster import DescribeClusterRequest, DescribeClusterResponse

from raftbroker.kafka.api import Api, Request
from raftbroker.kafka.codec import messages
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.endpoints import Endpoint, endpoints, split_host
from raftbroker.kafka.errors import ErrorCode
from raftbroker.kafka.operations import CLUSTER_OPERATIONS

Node = DescribeClusterResponse.DescribeClusterBroker

BROKERS = 1
"""The endpoint type that this listener has; controllers (2) are the same nodes, on the peers' port."""


async def handle(context: KafkaContext, request: Request[DescribeClusterRequest]) -> DescribeClusterResponse:
    body = request.body
    if body.endpoint_type != BROKERS:
        return DescribeClusterResponse(
            error_code=ErrorCode.UNSUPPORTED_ENDPOINT_TYPE,
            error_message=f"endpoints of type {body.endpoint_type} are not told; ask for brokers ({BROKERS})",
            endpoint_type=body.endpoint_type,
            cluster_id="",
            brokers=[],
        )
    view = await context.broker.metadata(timeout=context.options.request_timeout)
    reachable = endpoints(context, view)
    nodes = [_node(node, fenced=False) for node in reachable.values()]
    if body.include_fenced_brokers:
        nodes += [
            _node(Endpoint(node.id, *split_host(node.kafka)), fenced=True)
            for node in view.nodes
            if node.kafka and node.id not in reachable
        ]
    answer = DescribeClusterResponse(
        throttle_time_ms=0,
        error_code=ErrorCode.NONE,
        error_message=None,
        endpoint_type=BROKERS,
        cluster_id=view.cluster_id,
        controller_id=view.controller_id if view.controller_id in reachable else -1,
        brokers=nodes,
    )
    if body.include_cluster_authorized_operations:
        answer.authorized_operations = CLUSTER_OPERATIONS
    return answer


def _node(endpoint: Endpoint, *, fenced: bool) -> Node:
    return Node(broker_id=endpoint.id, host=endpoint.host, port=endpoint.port, rack=None, is_fenced=fenced)


API = Api(
    key=60,
    name="DescribeCluster",
    min_version=0,
    max_version=2,
    codec=messages(DescribeClusterRequest, DescribeClusterResponse),
    handle=handle,
)
