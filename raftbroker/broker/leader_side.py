"""What clients that know who leads ask of a partition's leader: on this node alone, nothing is passed on.

Where this node does not lead, the error says who does (`LedElsewhere`).
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from consensus.errors import ConsensusError
from raftbroker.broker.errors import BrokerError
from raftbroker.broker.leader_fetch import Answer, LeaderFetch, Wanted
from raftbroker.broker.leading import Leading, Led
from raftbroker.broker.offsets import Offsets, PlacedOffset
from raftbroker.broker.produce import Producer
from raftbroker.broker.views import Produced

A = TypeVar("A")


class Asked(msgspec.Struct, frozen=True, gc=False):
    """A question about one partition. `epoch` is the leader epoch the asker knows, -1 for none; `about` is a timestamp
    for `offsets`, a leader epoch for `epoch_ends`."""

    topic: str
    partition: int
    epoch: int
    about: int


class LeaderSide:
    def __init__(self, leading: Leading, producer: Producer, fetcher: LeaderFetch, offsets: Offsets) -> None:
        self._leading = leading
        self._producer = producer
        self._fetcher = fetcher
        self._offsets = offsets

    def append(
        self, topic: str, partition: int, batch: memoryview, *, timeout: float, transaction: int | None = None
    ) -> "asyncio.Future[Produced]":
        """Appends one v2 record batch. Its place behind those of earlier calls is certain when this returns, without
        having waited. Raises BrokerError; the future ends as `GroupWriter.add` says. Batches that exceed what may be
        in flight are held: the caller bounds how many.

        `transaction`: the number of the transaction that the batch belongs to, as its coordinator gave it."""
        return self._producer.append(topic, partition, batch, timeout, transaction)

    def throttle_ms(self) -> int:
        """How long a producer had better stay away; 0 for not at all."""
        return self._producer.throttle_ms()

    def kafka_address(self, node: int) -> str:
        """host:port where clients reach it; empty where that is not known."""
        return self._leading.kafka_address(node)

    async def fetch(
        self, wanted: Sequence[Wanted], *, bytes_max: int, bytes_min: int, wait: float, committed: bool
    ) -> Answer:
        """Whole batches of many partitions; waits up to `wait` seconds for `bytes_min` bytes in all. `committed`:
        nothing of transactions that are open."""
        return await self._fetcher.fetch(
            wanted, bytes_max=bytes_max, bytes_min=bytes_min, wait=wait, committed=committed
        )

    async def offsets(self, asked: Sequence[Asked], *, stable: bool, timeout: float) -> list[PlacedOffset | Exception]:
        """By timestamp, or one of `offsets.LATEST`, `EARLIEST`, `MAX_TIMESTAMP`; in the order asked. `stable`: as a
        reader of committed transactions sees it. Errors are BrokerError and ConsensusError."""
        led = await self._led(asked, timeout)
        found: list[PlacedOffset | Exception] = []
        for one, where in zip(asked, led, strict=True):
            try:
                found.append(
                    where if isinstance(where, Exception) else await self._offsets.find(where, one.about, stable=stable)
                )
            except (BrokerError, ConsensusError) as error:
                found.append(error)
        return found

    async def epoch_ends(self, asked: Sequence[Asked], *, timeout: float) -> list[tuple[int, int] | Exception]:
        """(the largest leader epoch up to the one asked about, the offset at which it ends), (-1, -1) where that is
        yet to come; in the order asked."""
        led = await self._led(asked, timeout)
        return [
            where if isinstance(where, Exception) else self._offsets.epoch_end(where, one.about)
            for one, where in zip(asked, led, strict=True)
        ]

    async def _led(self, asked: Sequence[Asked], timeout: float) -> list[Led | Exception]:
        """Each partition where this node leads it, after one read barrier for each Raft group."""
        found = [_caught(lambda one=one: self._leading.find(one.topic, one.partition, one.epoch)) for one in asked]  # type: ignore[misc]
        wrong = await self._offsets.barriers([led for led in found if isinstance(led, Led)], timeout)
        return [led if isinstance(led, Exception) else wrong[led.group.id] or led for led in found]


def _caught(call: Callable[[], A]) -> A | Exception:
    try:
        return call()
    except BrokerError as error:
        return error
