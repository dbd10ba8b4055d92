"""The listener: what all connections share, the bound on their number, the watch over slow ones, an orderly stop.

The socket is made by whoever composes the node; `connect` is the protocol factory that it calls for each client.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from raftbroker.broker.broker import Broker
from raftbroker.kafka.api import Api
from raftbroker.kafka.connection import KafkaConnection, Shared
from raftbroker.kafka.context import KafkaContext, KafkaOptions
from raftbroker.kafka.handlers import APIS, served
from raftbroker.kafka.metrics import Metric

log = logging.getLogger(__name__)

CHECK_SECONDS = 1.0


class KafkaListener:
    """Made and used in the event loop that serves."""

    def __init__(self, broker: Broker, options: KafkaOptions, apis: Mapping[int, Api[Any, Any]] = APIS) -> None:
        self.shared = Shared(KafkaContext(broker, options, served(apis)), apis)
        self._loop = asyncio.get_running_loop()
        self._numbers = 0
        self._refused_told = 0
        self._watch = self._loop.call_later(CHECK_SECONDS, self._check)

    def connect(self) -> KafkaConnection:
        """A protocol for a new connection."""
        self._numbers += 1
        return KafkaConnection(self.shared, self._numbers)

    def _check(self) -> None:
        now = self._loop.time()
        for connection in list(self.shared.connections):
            connection.check(now)
        refused = self.shared.metrics.connections_refused
        if refused > self._refused_told:
            most = self.shared.context.options.connections_max
            log.warning("%d connections refused: %d are open (connections_max)", refused - self._refused_told, most)
            self._refused_told = refused
        self._watch = self._loop.call_later(CHECK_SECONDS, self._check)

    def metrics(self) -> Iterable[Metric]:
        """What has been counted, and what is held now."""
        shared = self.shared
        return shared.metrics.families(len(shared.connections), shared.requests.used, shared.answers.used)

    async def stop(self) -> None:
        """Begins nothing more; what is under way has `stop_timeout` seconds to be answered. The socket must have been
        closed before."""
        self._watch.cancel()
        self.shared.context.stopping.set()
        for connection in list(self.shared.connections):
            connection.stop()
        if self.shared.connections:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.shared.context.options.stop_timeout):
                    await self.shared.empty.wait()
        for connection in list(self.shared.connections):
            connection.abort()
        tasks = list(self.shared.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
