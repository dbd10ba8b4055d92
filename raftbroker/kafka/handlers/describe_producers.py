"""DescribeProducers (61): the idempotent and transactional producers that a partition's leader knows."""

from kafka.protocol.admin import DescribeProducersRequest, DescribeProducersResponse

from raftbroker.broker.errors import BrokerError
from raftbroker.broker.transactions import ProducerView
from raftbroker.kafka.api import Api, Request
from raftbroker.kafka.codec import messages
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.errors import code_of, message_of

Topic = DescribeProducersResponse.TopicResponse
Partition = Topic.PartitionResponse
Producer = Partition.ProducerState


async def handle(context: KafkaContext, request: Request[DescribeProducersRequest]) -> DescribeProducersResponse:
    topics = [
        Topic(
            name=topic.name, partitions=[_partition(context, topic.name, number) for number in topic.partition_indexes]
        )
        for topic in request.body.topics
    ]
    return DescribeProducersResponse(throttle_time_ms=0, topics=topics)


def _partition(context: KafkaContext, topic: str, number: int) -> Partition:
    try:
        known = context.broker.transactions.producers_here(topic, number)
    except BrokerError as error:
        return Partition(
            partition_index=number, error_code=code_of(error), error_message=message_of(error), active_producers=[]
        )
    return Partition(
        partition_index=number, error_code=0, error_message=None, active_producers=[_producer(one) for one in known]
    )


def _producer(one: ProducerView) -> Producer:
    state, ongoing = one.state, one.ongoing
    return Producer(
        producer_id=one.producer_id,
        producer_epoch=state.epoch if state is not None else ongoing.epoch if ongoing is not None else -1,
        last_sequence=state.last_sequence if state is not None else -1,
        last_timestamp=state.batches[-1].timestamp if state is not None and state.batches else -1,
        coordinator_epoch=-1,
        current_txn_start_offset=ongoing.first_offset if ongoing is not None else -1,
    )


API = Api(
    key=61,
    name="DescribeProducers",
    min_version=0,
    max_version=0,
    codec=messages(DescribeProducersRequest, DescribeProducersResponse),
    handle=handle,
)
