"""Fixtures: the loop thread, the stand-in's front door, and a real node of a cluster of one."""

import asyncio
from collections.abc import Iterator
from itertools import count

import pytest

from raftbroker.broker.broker import Broker
from raftbroker.config import load
from raftbroker.node import Node
from tests.http.harness import Client, LoopThread, door
from tests.http.stand_in import StandIn
from tests.ports import free_port


@pytest.fixture(scope="session")
def thread() -> Iterator[LoopThread]:
    running = LoopThread()
    yield running
    running.stop()


@pytest.fixture
def broker() -> StandIn:
    return StandIn({"orders": 3, "one": 1})


@pytest.fixture
def client(thread: LoopThread, broker: StandIn) -> Iterator[Client]:
    with door(thread, broker) as client:
        yield client


async def _start(directory: str) -> Node:
    sets = [f"{door}.listen=127.0.0.1:{free_port()}" for door in ("http", "kafka", "peers")]
    sets.append(f"node.data_dir={directory}")
    sets.append("webhooks.allowed_networks=127.0.0.0/8")
    node = Node(load(None, sets, {}))
    await node.start()
    assert node.core is not None
    async with asyncio.timeout(20):
        while not node.core.broker.readiness().ready:  # noqa: ASYNC110 - as a client would, from outside
            await asyncio.sleep(0.01)
    return node


@pytest.fixture(scope="session")
def node(thread: LoopThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A real node: its own store on disk, its own Raft groups."""
    running = thread.run(_start(str(tmp_path_factory.mktemp("node"))))
    yield running
    thread.run(running.stop())


@pytest.fixture(scope="session")
def real_broker(node: Node) -> Broker:
    assert node.core is not None
    return node.core.broker


@pytest.fixture
def real(node: Node) -> Iterator[Client]:
    """A client of the real node, through the front door that the node opened itself."""
    client = Client(f"http://{node.config.http.listen}")
    yield client
    client.close()


_names = count()


@pytest.fixture
def topic(real: Client) -> str:
    """A new topic of three partitions."""
    name = f"topic-{next(_names)}"
    cluster = real.get("/v3/clusters").json["data"][0]["cluster_id"]
    answer = real.post(f"/v3/clusters/{cluster}/topics", {"topic_name": name, "partitions_count": 3})
    assert answer.status == 201, answer
    return name


@pytest.fixture
def cluster(real: Client) -> str:
    """The address of the cluster under /v3."""
    return f"/v3/clusters/{real.get('/v3/clusters').json['data'][0]['cluster_id']}"
