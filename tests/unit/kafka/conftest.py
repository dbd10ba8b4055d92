"""A real node of a cluster of one, and clients of its Kafka listener."""

import asyncio
import itertools
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from kafka import KafkaAdminClient
from kafka.protocol.api_message import ApiMessage

from raftbroker.config import load
from raftbroker.node import Node
from tests.http.harness import LoopThread
from tests.ports import free_port
from tests.unit.kafka.samples import MESSAGES


@pytest.fixture(scope="package")
def thread() -> Iterator[LoopThread]:
    running = LoopThread()
    yield running
    running.stop()


async def _start(directory: str) -> Node:
    sets = [f"{door}.listen=127.0.0.1:{free_port()}" for door in ("http", "kafka", "peers")]
    sets += [f"node.data_dir={directory}", "log.retention_ms=86400000", "log.compaction_check_ms=100"]
    node = Node(load(None, sets, {}))
    await node.start()
    assert node.core is not None
    async with asyncio.timeout(20):
        while not node.core.broker.readiness().ready:  # noqa: ASYNC110 - as a client would, from outside
            await asyncio.sleep(0.01)
    return node


@pytest.fixture(scope="package")
def node(thread: LoopThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    running = thread.run(_start(str(tmp_path_factory.mktemp("node"))))
    yield running
    thread.run(running.stop())


@pytest.fixture(scope="package")
def address(node: Node) -> str:
    return node.config.kafka.listen


@pytest.fixture(scope="package")
def confluent(address: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": address})


@pytest.fixture(scope="package")
def kafka_python(address: str) -> Iterator[KafkaAdminClient]:
    client = KafkaAdminClient(bootstrap_servers=address)
    yield client
    client.close()


class Wire:
    """Sends kafka-python's messages in any version, and reads what comes back."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=30)
        self._correlation = itertools.count(1)

    def ask(self, request: ApiMessage, version: int) -> Any:
        correlation = next(self._correlation)
        request.API_VERSION = version
        request.with_header(correlation_id=correlation, client_id="wire")
        self.socket.sendall(request.encode(header=True, framed=True))
        frame = self.receive()
        answered, at = struct.unpack_from(">i", frame)[0], 4
        assert answered == correlation
        if request.flexible_version_q(version) and request.API_KEY != 18:
            assert frame[at] == 0
            at += 1
        return MESSAGES[request.API_KEY, False].decode(frame[at:], version=version)

    def receive(self) -> bytes:
        """The next frame; empty where the connection has been closed."""
        (size,) = struct.unpack(">i", self._exactly(4) or b"\0\0\0\0")
        return self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            if not piece:
                return b""
            data += piece
        return data

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def wire(address: str) -> Iterator[Wire]:
    client = Wire(address)
    yield client
    client.close()


_names = itertools.count(1)


@pytest.fixture
def name() -> str:
    """Of a topic that is not there."""
    return f"topic-{next(_names)}"
