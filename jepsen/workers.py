"""The clients of a run: `concurrency` workers, together at about the rate asked for, and in the end each reads
everything."""

import asyncio
from collections.abc import AsyncIterator
from random import Random

from jepsen.recorder import Op, Outcome, Recorder
from jepsen.workloads.base import Client, Workload

OP_SECONDS_MAX = 60.0
"""No operation takes so long; one that does is the harness's fault, and unknown."""


class Worker:
    """One worker. Its process number goes up by the concurrency whenever an operation ends as info."""

    def __init__(self, number: int, concurrency: int, workload: Workload, recorder: Recorder, seed: int) -> None:
        self.number = number
        self.process = number
        self._concurrency = concurrency
        self._workload = workload
        self._recorder = recorder
        self._random = Random(f"{seed} worker {number}")
        self._client: Client | None = None

    async def work(self, rate: float, until: float) -> None:
        """Operations drawn by the workload until the recorder's clock says so."""
        pause = 1 / (rate * self._workload.share(self.number))
        await asyncio.sleep(self._random.uniform(0.0, pause))
        due = self._recorder.now
        while self._recorder.now < until:
            await self._one(self._workload.next(self.number, self._random))
            due = max(due + self._random.uniform(0.0, 2 * pause), self._recorder.now - 2 * pause)
            if due > self._recorder.now:
                await asyncio.sleep(due - self._recorder.now)

    async def finish(self, until: float) -> bool:
        """The last phase: the client goes, a fresh one reads everything. Whether it came to the end in time."""
        await self._one(Op("crash"))
        try:
            return await self._drain(self._workload.final(self.number), until)
        except TimeoutError:
            return False

    async def _drain(self, ops: AsyncIterator[Op], until: float) -> bool:
        async for op in ops:
            outcome = await self._one(op)
            if outcome.type != "ok":
                await asyncio.sleep(0.2)
            if self._recorder.now > until:
                return False
        return True

    async def _one(self, op: Op) -> Outcome:
        if self._client is None:
            self._client = self._workload.client(self.process, self.number)
        self._recorder.invoke(self.process, op)
        if op.f == "crash":
            outcome = Outcome("info")
        else:
            try:
                async with asyncio.timeout(OP_SECONDS_MAX):
                    outcome = await self._client.invoke(op)
            except TimeoutError:
                outcome = Outcome.unknown(f"no end after {OP_SECONDS_MAX:.0f} s")
        self._recorder.complete(self.process, outcome)
        self._workload.saw(self.number, op, outcome)
        if outcome.type == "info":
            await self.close()
            self.process += self._concurrency
        return outcome

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()
