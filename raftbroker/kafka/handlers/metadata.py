"""Metadata (3): nodes, topics, who leads their partitions; makes topics that are missing, where that is allowed.

The encoded answers are kept for as long as nothing in the cluster's metadata has changed: encoding that of hundreds of
partitions takes milliseconds, and every client asks for the same ones.
"""

import asyncio
import uuid
from collections.abc import Iterable, Sequence

from kafka.protocol.metadata.metadata import MetadataRequest, MetadataResponse

from raftbroker.broker.errors import BrokerError, TopicExists
from raftbroker.broker.metadata import GroupLeader, MetadataView
from raftbroker.broker.rules import check_topic_name
from raftbroker.kafka.api import Api, Codec, Parts, Request
from raftbroker.kafka.codec import messages
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.endpoints import Endpoint, endpoints
from raftbroker.kafka.errors import ErrorCode, code_of
from raftbroker.kafka.handlers.common import LISTED_MAX
from raftbroker.kafka.ids import NO_ID, uuid_of
from raftbroker.kafka.operations import CLUSTER_OPERATIONS, TOPIC_OPERATIONS
from raftbroker.state.control_commands import TopicState

Topic = MetadataResponse.MetadataResponseTopic
Partition = Topic.MetadataResponsePartition

NAMELESS_FROM = 12
"""From this version on an answer may leave out the name of a topic that is not known by its id."""
CREATE_SECONDS = 10.0
"""How long an answer waits for the topics that it makes; those not made by then are there at the next request."""

_MESSAGES = messages(MetadataRequest, MetadataResponse, elements_max=LISTED_MAX)


async def handle(context: KafkaContext, request: Request[MetadataRequest]) -> Parts:
    body = request.body
    view = await context.broker.metadata(timeout=context.options.request_timeout)
    names = _names(request)
    refused: dict[str, ErrorCode] = {}
    if names is not None and body.allow_auto_topic_creation and context.options.auto_create_topics:
        missing = [name for name in names if isinstance(name, str) and name not in view.topics]
        if missing and view.current:
            refused = await _create(context, missing)
            view = await context.broker.metadata(timeout=context.options.request_timeout)
    asked = (
        request.version,
        names,
        body.include_cluster_authorized_operations,
        body.include_topic_authorized_operations,
    )
    answer = context.metadata_answers.get(view.version, asked)
    if answer is None:
        answer = _MESSAGES.encode(_answer(context, request, view, names, refused), request.version)
        if names is None or all(isinstance(name, str) and name in view.topics for name in names):
            context.metadata_answers.put(asked, answer)
    return answer


def _names(request: Request[MetadataRequest]) -> tuple[str | uuid.UUID, ...] | None:
    """What is asked for, once each: names, and ids where no name is given; None for all topics."""
    topics = request.body.topics
    if topics is None or (request.version == 0 and not topics):
        return None
    return tuple(dict.fromkeys(topic.topic_id or NO_ID if topic.name is None else topic.name for topic in topics))


async def _create(context: KafkaContext, names: Sequence[str]) -> dict[str, ErrorCode]:
    """Makes topics with the defaults; says why of those that cannot be made."""
    refused: dict[str, ErrorCode] = {}
    loop = asyncio.get_running_loop()
    deadline = loop.time() + CREATE_SECONDS
    for name in names:
        left = deadline - loop.time()
        if left <= 0:
            refused[name] = ErrorCode.LEADER_NOT_AVAILABLE
            continue
        try:
            check_topic_name(name)
        except BrokerError:
            refused[name] = ErrorCode.INVALID_TOPIC_EXCEPTION
            continue
        try:
            await context.broker.create_topic(name, timeout=left)
        except TopicExists:
            continue
        except BrokerError as error:
            code = code_of(error, unavailable=ErrorCode.LEADER_NOT_AVAILABLE)
            refused[name] = ErrorCode.LEADER_NOT_AVAILABLE if code is ErrorCode.REQUEST_TIMED_OUT else code
    return refused


def _answer(
    context: KafkaContext,
    request: Request[MetadataRequest],
    view: MetadataView,
    names: Iterable[str | uuid.UUID] | None,
    refused: dict[str, ErrorCode],
) -> MetadataResponse:
    body = request.body
    reachable = endpoints(context, view)
    if names is None:
        topics = [_topic(topic, view, reachable) for topic in view.topics.values()]
    else:
        topics = [_asked_topic(name, view, reachable, refused) for name in names]
        if request.version < NAMELESS_FROM:
            for topic in topics:
                topic.name = topic.name or ""
    if body.include_topic_authorized_operations:
        for topic in topics:
            topic.authorized_operations = TOPIC_OPERATIONS
    answer = MetadataResponse(
        throttle_time_ms=0,
        brokers=[
            MetadataResponse.MetadataResponseBroker(node_id=node.id, host=node.host, port=node.port, rack=None)
            for node in reachable.values()
        ],
        cluster_id=view.cluster_id or None,
        controller_id=view.controller_id if view.controller_id in reachable else -1,
        topics=topics,
    )
    if body.include_cluster_authorized_operations:
        answer.authorized_operations = CLUSTER_OPERATIONS
    return answer


def _asked_topic(
    name: str | uuid.UUID, view: MetadataView, reachable: dict[int, Endpoint], refused: dict[str, ErrorCode]
) -> Topic:
    if isinstance(name, uuid.UUID):
        found = view.topics.get(view.names.get(name.hex, ""))
        if found is None:
            code = ErrorCode.UNKNOWN_TOPIC_ID if view.current else ErrorCode.LEADER_NOT_AVAILABLE
            return Topic(error_code=code, name=None, topic_id=name, is_internal=False, partitions=[])
        return _topic(found, view, reachable)
    found = view.topics.get(name)
    if found is not None:
        return _topic(found, view, reachable)
    return Topic(error_code=_missing(name, view, refused), name=name, is_internal=False, partitions=[])


def _missing(name: str, view: MetadataView, refused: dict[str, ErrorCode]) -> ErrorCode:
    if name in refused:
        return refused[name]
    try:
        check_topic_name(name)
    except BrokerError:
        return ErrorCode.INVALID_TOPIC_EXCEPTION
    return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION if view.current else ErrorCode.LEADER_NOT_AVAILABLE


_NO_GROUP = GroupLeader(None, -1, (), ())


def _topic(topic: TopicState, view: MetadataView, reachable: dict[int, Endpoint]) -> Topic:
    partitions = []
    for number, place in enumerate(topic.partitions):
        group = view.groups.get(place.group, _NO_GROUP)
        leader = group.leader if group.leader in reachable else None
        partitions.append(
            Partition(
                error_code=ErrorCode.LEADER_NOT_AVAILABLE if leader is None else ErrorCode.NONE,
                partition_index=number,
                leader_id=-1 if leader is None else leader,
                leader_epoch=group.epoch,
                replica_nodes=list(group.replicas),
                isr_nodes=list(group.in_sync),
                offline_replicas=[node for node in group.replicas if node not in view.alive],
            )
        )
    return Topic(
        error_code=ErrorCode.NONE,
        name=topic.name,
        topic_id=uuid_of(topic.topic_id),
        is_internal=False,
        partitions=partitions,
    )


API = Api(
    key=3,
    name="Metadata",
    min_version=0,
    max_version=12,
    codec=Codec(_MESSAGES.flexible_from, _MESSAGES.decode, lambda answer, _: answer),
    handle=handle,
)
