"""What a control leader says that has no majority any more: on three whole nodes, two of which die."""

import asyncio
from pathlib import Path

from consensus.errors import Refused
from raftbroker.broker.context import CONTROL
from raftbroker.broker.wire import AlterConfigsRequest, CreateTopicRequest
from tests.unit.broker.nodes import TestNode, cluster


def leads(node: TestNode) -> bool:
    return node.core is not None and node.core.host.groups[CONTROL].leading


def test_a_leader_without_a_majority_tells_nothing_of_its_state(tmp_path: Path) -> None:
    """Neither that a config has the value that was asked for already, nor that it has another than was expected, nor
    that a topic exists: all of that may have changed."""

    async def main() -> None:
        async with cluster(tmp_path, 3) as nodes:
            await nodes[0].broker.create_topic("t", 1, 3)
            await nodes[0].broker.alter_configs("t", {"segment.ms": "1000"})
            topic_id = (await nodes[0].broker.describe_topic("t")).topic_id
            leader = next(node for node in nodes if leads(node))
            controller = leader.broker._controller
            same = AlterConfigsRequest(topic_id, {"segment.ms": "1000"}, 0.2)
            refused = AlterConfigsRequest(topic_id, {"segment.ms": "2000"}, 0.2, {"segment.ms": "3000"})
            exists = CreateTopicRequest("t", "a" * 32, 1, 1, {}, False, 0.2)
            await asyncio.gather(*(node.kill() for node in nodes if node is not leader))
            asked = (controller.alter_configs(same), controller.alter_configs(refused), controller.create_topic(exists))
            for answer in await asyncio.gather(*asked, return_exceptions=True):
                assert isinstance(answer, Refused), answer

    asyncio.run(main())


def test_a_leader_with_a_majority_does(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path, 3) as nodes:
            await nodes[0].broker.create_topic("t", 1, 3)
            topic_id = (await nodes[0].broker.describe_topic("t")).topic_id
            leader = next(node for node in nodes if leads(node))
            controller = leader.broker._controller
            index = await controller.alter_configs(AlterConfigsRequest(topic_id, {"segment.ms": "1000"}, 5.0))
            assert await controller.alter_configs(AlterConfigsRequest(topic_id, {"segment.ms": "1000"}, 5.0)) >= index

    asyncio.run(main())
