"""Breaks things by the clock: one fault after the other, sometimes two at once, with quiet between them.

All faults that were asked for come before any comes again, and so do their variants. A fault that takes a replica's
data holds alone, and waits until the cluster is whole. What a fault says it did goes into the history; a cluster that
does not come back is written down as stuck, and the run goes on.
"""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jepsen.faults import FAULTS, Fault, Field, Skipped, Stuck
from jepsen.recorder import FaultSpan, Recorder

TOGETHER = 0.3
"""How often a second fault joins the first."""
STAGGER_SECONDS = 1.5
HEAL_SECONDS = 120.0


@dataclass(frozen=True)
class Rhythm:
    """Mean seconds; each time between half and one and a half of it."""

    hold: float = 6.0
    quiet: float = 5.0


class Nemesis:
    """See the module's text."""

    def __init__(
        self,
        field: Field,
        recorder: Recorder,
        chosen: Mapping[str, tuple[str, ...]],
        rhythm: Rhythm = Rhythm(),
        kinds: Mapping[str, type[Fault]] = FAULTS,
    ) -> None:
        self.problems: list[str] = []
        """What the cluster should have survived and did not."""
        self.skipped: dict[str, str] = {}
        self._field = field
        self._recorder = recorder
        self._rhythm = rhythm
        self._kinds = kinds
        self._variants: dict[str, Iterator[str]] = {}
        for name, variants in chosen.items():
            reason = kinds[name].unavailable(field.cluster.network.kind)
            if reason is not None:
                self.skipped[name] = reason
            else:
                self._variants[name] = _rotated(list(variants), field)
        self._names = _rotated(list(self._variants), field)
        self._holding: list[tuple[Fault, FaultSpan]] = []

    @property
    def now(self) -> str:
        """What is broken at the moment, for people."""
        return ", ".join(fault.label for fault, _ in self._holding) or "nothing"

    async def run(self) -> None:
        """Until cancelled, which waits for a fault that is just begun or ended; `heal` afterwards."""
        if not self._variants:
            return
        while True:
            await asyncio.sleep(self._draw(self._rhythm.quiet))
            await self._one_round()

    async def _one_round(self) -> None:
        fault = self._next()
        if fault.alone and not await self._whole(f"before {fault.label}"):
            return
        if not await self._begin(fault):
            return
        if not fault.alone and self._field.random.random() < TOGETHER:
            await asyncio.sleep(self._field.random.uniform(0.0, STAGGER_SECONDS))
            second = self._next()
            if not second.alone and second.name != fault.name:
                await self._begin(second)
        await asyncio.sleep(self._draw(self._rhythm.hold))
        self._field.random.shuffle(self._holding)
        settling = [fault.label for fault, _ in self._holding if fault.settles]
        await self._end_all()
        await self._all_back()
        if settling:
            await self._whole(f"after {settling[0]}")

    async def _all_back(self) -> None:
        """Quiet begins when every process takes clients again: how long a start takes is the machine's business."""
        cluster = self._field.cluster
        try:
            await asyncio.gather(*(cluster.ready(number) for number in cluster.alive))
        except TimeoutError as error:
            self.problems.append(f"{self._recorder.now:.1f} s: {error}")

    def _next(self) -> Fault:
        name = next(self._names)
        return self._kinds[name](self._field, next(self._variants[name]))

    def _draw(self, mean: float) -> float:
        return mean * self._field.random.uniform(0.5, 1.5)

    async def _whole(self, when: str) -> bool:
        try:
            await self._field.recovered()
        except Stuck as error:
            self.problems.append(f"{self._recorder.now:.1f} s, {when}: {error}")
            return False
        return True

    async def _begin(self, fault: Fault) -> bool:
        span = self._recorder.began_fault(fault.label, "")
        self._holding.append((fault, span))
        work = asyncio.create_task(fault.begin())
        cancelled = await _finished(work)
        try:
            span.detail = work.result()
        except (Skipped, Stuck, TimeoutError) as error:
            self._holding.remove((fault, span))
            span.detail = str(error)
            self._recorder.ended_fault(span)
            if isinstance(error, Skipped):
                self._recorder.faults.remove(span)
                self.skipped[fault.label] = str(error)
            else:
                self.problems.append(f"{self._recorder.now:.1f} s, {fault.label}: {error}")
        else:
            self._recorder.nemesis(f"did-{fault.label}", span.detail)
        if cancelled:
            raise asyncio.CancelledError
        return (fault, span) in self._holding

    async def _end_all(self) -> None:
        while self._holding:
            fault, span = self._holding[-1]
            work = asyncio.create_task(fault.end())
            cancelled = await _finished(work)
            try:
                work.result()
            except (Stuck, TimeoutError) as error:
                self.problems.append(f"{self._recorder.now:.1f} s, after {fault.label}: {error}")
            self._recorder.ended_fault(span)
            self._holding.pop()
            if cancelled:
                raise asyncio.CancelledError

    async def heal(self) -> None:
        """Ends every fault, ends every process with kill -9, starts all again and waits until the cluster is whole."""
        field, cluster = self._field, self._field.cluster
        await self._end_all()
        field.cuts.clear()
        field.shapes.clear()
        await cluster.network.cut(frozenset())
        if cluster.network.shapes:
            await cluster.network.shape({})
        self._recorder.nemesis("heal")
        await asyncio.gather(*(cluster.kill(number) for number in field.numbers))
        try:
            await asyncio.gather(*(cluster.run(number) for number in field.numbers))
            await field.recovered(HEAL_SECONDS)
        except (Stuck, TimeoutError) as error:
            self.problems.append(f"{self._recorder.now:.1f} s, at the end: {error}")


async def _finished(work: asyncio.Task[Any]) -> bool:
    """Waits for its end, also when cancelled meanwhile, and says whether that was so: a fault is begun and ended whole,
    or nobody knows what is broken."""
    try:
        await asyncio.wait([work])
    except asyncio.CancelledError:
        await asyncio.wait([work])
        return True
    return False


def _rotated(items: list[str], field: Field) -> Iterator[str]:
    """All of them in a random order, again and again."""
    while items:
        field.random.shuffle(items)
        yield from list(items)
