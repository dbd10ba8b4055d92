"""Webhooks of whole nodes under faults: a receiver that refuses, is slow, or takes what it never answers.

Clients produce through any node while nodes die and lead by turns. The receiver stands outside of the cluster and
remembers, for each partition, how far it has seen. What must hold: what comes is what stands in the partition; records
come in order of their offsets when they come first, and none is left out; in the end all have come, and the position
that is committed says so.
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from random import Random

import msgspec

from consensus.host import Host
from raftbroker.broker.errors import Retriable, UnknownOutcome
from raftbroker.broker.webhook_delivery import AddressRules, Sender, Undelivered
from raftbroker.state.webhooks import Change

from .brokers import TOPIC, BrokerCluster
from .checks import Violation
from .lives import Life, SimNode

ARRIVAL_SECONDS = 120.0
NAME = "hook"


class Record(msgspec.Struct):
    offset: int
    value: str = ""
    value_base64: bytes = b""


class Body(msgspec.Struct):
    partition: int
    records: list[Record]


_decode = msgspec.json.Decoder(Body).decode


class Receiver:
    """Outside of the cluster: it does not die with a node."""

    def __init__(self, cluster: "HookCluster", random: Random) -> None:
        self._cluster = cluster
        self._random = random
        self.expected: dict[int, int] = {}
        """partition -> the first offset that has not come"""
        self.calm = False

    def take(self, node: SimNode, body: bytes) -> None:
        found = _decode(body)
        expected = self.expected.get(found.partition, 0)
        for record in found.records:
            if record.offset > expected:
                raise Violation(
                    f"none is left out: node {node.id} sends offset {record.offset} of partition {found.partition}, "
                    f"{expected} has not come"
                )
            self._cluster.saw(node, found.partition, record.offset, record.value_base64)
            self._cluster.checks.count("arrivals again" if record.offset < expected else "arrivals")
            expected = max(expected, record.offset + 1)
        self.expected[found.partition] = expected


class SimPoster:
    """One node's way to the receiver."""

    def __init__(self, cluster: "HookCluster", node: SimNode, life: Life) -> None:
        self._cluster = cluster
        self._node = node
        self._random = life.random

    async def resolve(self, host: str) -> Sequence[str]:
        return ()

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], timeout: float) -> int:
        """On its way there, at the receiver, and on the way back: anything may happen."""
        receiver = self._cluster.receiver
        fate = 1.0 if receiver.calm else self._random.random()
        await asyncio.sleep(self._random.expovariate(200))
        if fate < 0.1:
            return self._random.choice((301, 404, 500, 503))
        if fate < 0.15:
            await asyncio.sleep(timeout)
            raise Undelivered("nobody answers")
        try:
            receiver.take(self._node, body)
        except Violation as violation:
            self._cluster.wrong = self._cluster.wrong or violation
            raise
        if fate < 0.2:
            raise Undelivered("the answer was lost")
        await asyncio.sleep(self._random.expovariate(200))
        return 200


class HookCluster(BrokerCluster):
    """See the module."""

    receiver: Receiver
    wrong: Violation | None = None
    """Found in a delivery, which has its errors to itself."""

    def compose(self, node: SimNode, life: Life) -> Host:
        host = super().compose(node, life)
        sender = Sender(SimPoster(self, node, life), AddressRules(), lambda: int(self.loop.time() * 1000))
        self.broker(node).webhooks.sender = sender
        return host

    async def make_hook(self, random: Random) -> None:
        """Asks one node after the other until the webhook is there."""
        changes: dict[str, Change] = {
            "topic": TOPIC,
            "url": "https://93.184.216.34/",
            "secret": "0123456789abcdef",
            "batch_size": random.choice((1, 3, 100)),
            "concurrency": random.choice((1, 1, 4)),
            "timeout_ms": 500,
            "backoff_ms": 20,
            "backoff_ms_max": 200,
        }
        for _ in range(200):
            await asyncio.sleep(0.1)
            if not self.up():
                continue
            node = random.choice(self.up())
            try:
                await self.ask(node, partial(self.broker(node).webhooks.put, NAME, changes, timeout=5.0), 10.0)
                return
            except (Retriable, UnknownOutcome):
                continue
        raise Violation(f"no webhook can be made: {self.describe()}")

    async def toggle(self, random: Random, until: float) -> None:
        """Pauses and resumes it now and then, and leaves it running."""
        paused = False
        while self.loop.time() < until or paused:
            await asyncio.sleep(random.uniform(0.2, 3.0))
            if not self.up():
                continue
            node = random.choice(self.up())
            call = partial(self.broker(node).webhooks.pause, NAME, not paused, timeout=2.0)
            try:
                await self.ask(node, call, 12.0)
            except (Retriable, UnknownOutcome) as error:
                if self.loop.time() > until + ARRIVAL_SECONDS:
                    raise Violation(f"cannot be resumed through node {node.id}: {error}\n{self.describe()}") from error
                continue
            paused = not paused

    async def verify(self) -> None:
        """Everything has come, and the webhook says so."""
        await super().verify()
        self.receiver.calm = True
        ends = {partition: len(self.truth(partition).seen) for partition in range(self.partitions)}
        deadline = self.loop.time() + ARRIVAL_SECONDS
        while True:
            await asyncio.sleep(0.5)
            if self.wrong is not None:
                raise self.wrong
            node = self.up()[0]
            info = await self.ask(node, partial(self.broker(node).webhooks.get, NAME, timeout=5.0), 10.0)
            come = all(self.receiver.expected.get(partition, 0) == end for partition, end in ends.items())
            if come and info.lag == 0 and info.state == "running":
                return
            if self.loop.time() > deadline:
                raise Violation(
                    f"all arrives: {self.receiver.expected} of {ends} have come, {info.state}, lag {info.lag},"
                    f" {info.last}"
                )
