"""ElectLeaders (43): leadership goes to the preferred replica, the first of a partition's list.

Partitions are led together with the others of their Raft group, so all of that group's move.
"""

from kafka.protocol.admin.topics import ElectionType, ElectLeadersRequest, ElectLeadersResponse

from raftbroker.broker.errors import BrokerError, ChangeRejected, UnknownPartition
from raftbroker.broker.metadata import GroupLeader, MetadataView
from raftbroker.kafka.api import Api, Request
from raftbroker.kafka.codec import messages
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.errors import ErrorCode, code_of, message_of
from raftbroker.kafka.handlers.common import LISTED_MAX, Failure, each, failure, seconds

Result = ElectLeadersResponse.ReplicaElectionResult
Partition = Result.PartitionResult

DONE = Failure(ErrorCode.NONE, "")
NOT_NEEDED = Failure(ErrorCode.ELECTION_NOT_NEEDED, "The preferred replica leads already.")


async def handle(context: KafkaContext, request: Request[ElectLeadersRequest]) -> ElectLeadersResponse:
    body = request.body
    view = await context.broker.metadata(timeout=context.options.request_timeout)
    if body.topic_partitions is None:
        asked = {name: list(range(len(topic.partitions))) for name, topic in view.topics.items()}
    else:
        asked = {topic.topic: topic.partitions for topic in body.topic_partitions}
    groups = {
        (name, number): group
        for name, numbers in asked.items()
        for number in numbers
        if (group := _group(view, name, number)) is not None
    }
    unclean = request.version >= 1 and body.election_type == ElectionType.UNCLEAN
    timeout = seconds(body.timeout_ms)
    outcomes = await _elect(context, view, set(groups.values()), unclean, timeout)
    results = []
    for name, numbers in asked.items():
        partitions = []
        for number in numbers:
            group = groups.get((name, number))
            outcome = (
                outcomes[group] if group is not None else failure(UnknownPartition(f"there is no {name}/{number}"))
            )
            if body.topic_partitions is not None or outcome.code is not ErrorCode.ELECTION_NOT_NEEDED:
                partitions.append(
                    Partition(partition_id=number, error_code=outcome.code, error_message=outcome.message or None)
                )
        if partitions:
            results.append(Result(topic=name, partition_result=partitions))
    return ElectLeadersResponse(throttle_time_ms=0, error_code=ErrorCode.NONE, replica_election_results=results)


def _group(view: MetadataView, name: str, number: int) -> int | None:
    topic = view.topics.get(name)
    return topic.partitions[number].group if topic is not None and 0 <= number < len(topic.partitions) else None


async def _elect(
    context: KafkaContext, view: MetadataView, groups: set[int], unclean: bool, timeout: float
) -> dict[int, Failure]:
    ordered = sorted(groups)

    async def elect(number: int) -> Failure:
        group = view.groups.get(number)
        if group is None:
            return Failure(ErrorCode.PREFERRED_LEADER_NOT_AVAILABLE, "It is not known where its replicas are.")
        return _unclean(group) if unclean else await _transfer(context, view, number, group, timeout)

    return dict(zip(ordered, await each(ordered, elect), strict=True))


def _unclean(group: GroupLeader) -> Failure:
    if group.leader is not None:
        return Failure(ErrorCode.ELECTION_NOT_NEEDED, "The partition has a leader.")
    return Failure(
        ErrorCode.ELIGIBLE_LEADERS_NOT_AVAILABLE,
        "A leader always holds every acknowledged record; no other replica is made one. Bring a majority back.",
    )


async def _transfer(
    context: KafkaContext, view: MetadataView, number: int, group: GroupLeader, timeout: float
) -> Failure:
    preferred = group.replicas[0]
    if group.leader == preferred:
        return NOT_NEEDED
    if preferred not in view.alive:
        return Failure(ErrorCode.PREFERRED_LEADER_NOT_AVAILABLE, f"Node {preferred} does not answer.")
    try:
        await context.broker.transfer_leadership(number, preferred, timeout=timeout)
    except ChangeRejected as error:
        return Failure(ErrorCode.PREFERRED_LEADER_NOT_AVAILABLE, str(error))
    except BrokerError as error:
        return Failure(code_of(error, unavailable=ErrorCode.LEADER_NOT_AVAILABLE), message_of(error))
    return DONE


API = Api(
    key=43,
    name="ElectLeaders",
    min_version=0,
    max_version=2,
    codec=messages(ElectLeadersRequest, ElectLeadersResponse, elements_max=LISTED_MAX),
    handle=handle,
)
