"""DescribeLogDirs (35): how many bytes of each partition are on this node.

Version 5 (which adds whether the disk is cordoned) is not served for a reason: kafka-python takes whoever serves it
for Kafka 4.3. To a user who then says api_version=(4, 0) it speaks what Kafka 4.0 does, whatever is advertised.
"""

from collections import defaultdict

from kafka.protocol.admin.cluster import DescribeLogDirsRequest, DescribeLogDirsResponse

from raftbroker.broker.views import PartitionSize
from raftbroker.kafka.api import Api, Request
from raftbroker.kafka.codec import messages
from raftbroker.kafka.context import KafkaContext
from raftbroker.kafka.errors import ErrorCode
from raftbroker.kafka.handlers.common import LISTED_MAX

Result = DescribeLogDirsResponse.DescribeLogDirsResult
Topic = Result.DescribeLogDirsTopic


async def handle(context: KafkaContext, request: Request[DescribeLogDirsRequest]) -> DescribeLogDirsResponse:
    asked = request.body.topics
    sizes = context.broker.partition_sizes()
    if asked is not None:
        wanted = {(topic.topic, number) for topic in asked for number in topic.partitions}
        sizes = [size for size in sizes if (size.topic, size.partition) in wanted]
    total, free = context.options.disk_bytes()
    return DescribeLogDirsResponse(
        throttle_time_ms=0,
        error_code=ErrorCode.NONE,
        results=[
            Result(
                error_code=ErrorCode.NONE,
                log_dir=context.options.log_dir,
                topics=_topics(sizes),
                total_bytes=total,
                usable_bytes=free,
            )
        ],
    )


def _topics(sizes: list[PartitionSize]) -> list[Topic]:
    topics = defaultdict(list)
    for size in sizes:
        topics[size.topic].append(
            Topic.DescribeLogDirsPartition(
                partition_index=size.partition, partition_size=size.bytes, offset_lag=0, is_future_key=False
            )
        )
    return [Topic(name=name, partitions=partitions) for name, partitions in topics.items()]


API = Api(
    key=35,
    name="DescribeLogDirs",
    min_version=1,
    max_version=4,
    codec=messages(DescribeLogDirsRequest, DescribeLogDirsResponse, elements_max=LISTED_MAX),
    handle=handle,
)
