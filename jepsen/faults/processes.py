"""Faults of processes: killed, stopped, restarted in turn, and the last moments of a power loss."""

import asyncio
import contextlib

from jepsen import disk_note
from jepsen.faults.base import Fault, Skipped


class Victims(Fault):
    """Chooses nodes by the variant's name."""

    async def choose(self) -> list[int]:
        field = self.field
        count = len(field.numbers)
        match self.variant:
            case "one":
                return field.some(1)
            case "minority":
                return field.some(max(1, field.minority))
            case "majority":
                return field.some(count // 2 + 1)
            case "all":
                return field.numbers
        leaders = await field.view.leaders(self.variant.removeprefix("leader-of-"))
        if not leaders:
            raise Skipped(f"nobody leads: no {self.variant}")
        return [field.random.choice(leaders)]


LEADERS = ("leader-of-control", "leader-of-data", "leader-of-shard")


class Kill(Victims):
    """kill -9, and started again in the end."""

    name = "kill"
    variants = ("one", "minority", "majority", "all", *LEADERS)

    async def begin(self) -> str:
        self.victims = await self.choose()
        await asyncio.gather(*(self.field.cluster.kill(victim) for victim in self.victims))
        return f"nodes {self.victims}"

    async def end(self) -> None:
        await asyncio.gather(*(self.field.cluster.run(victim, wait=False) for victim in self.victims))


class Pause(Victims):
    """SIGSTOP, and SIGCONT in the end: the process finds itself in a later world."""

    name = "pause"
    variants = ("one", "minority", "majority", "all", *LEADERS)

    async def begin(self) -> str:
        self.victims = await self.choose()
        for victim in self.victims:
            self.field.cluster.pause(victim)
        return f"nodes {self.victims}"

    async def end(self) -> None:
        for victim in self.victims:
            self.field.cluster.resume(victim)


class Restart(Fault):
    """Every node in turn is stopped in good order and started again, the next when it is ready."""

    name = "restart"
    variants = ("rolling",)

    async def begin(self) -> str:
        self._task = asyncio.create_task(self._roll())
        return f"nodes {self.field.numbers}, one after the other"

    async def _roll(self) -> None:
        for number in self.field.numbers:
            await self.field.cluster.terminate(number)
            await self.field.cluster.run(number)
            await asyncio.sleep(0.5)

    async def end(self) -> None:
        await self._task


class PowerLoss(Victims):
    """The processes end, and with them all that was written and not yet synced."""

    name = "power"
    variants = ("all", "majority", "one", "leader-of-data", "leader-of-control")

    async def begin(self) -> str:
        self.victims = await self.choose()
        field = self.field
        await asyncio.gather(*(field.cluster.kill(victim) for victim in self.victims))
        lost = []
        for victim in self.victims:
            node = field.node(victim)
            with contextlib.suppress(FileNotFoundError):  # it was down already, and wiped
                all_of_it = field.random.random() < 0.5
                lost.append(disk_note.lose_power(node.database, node.disk, field.random, all_of_it=all_of_it))
        return f"nodes {self.victims}, {lost} unsynced bytes gone"

    async def end(self) -> None:
        await asyncio.gather(*(self.field.cluster.run(victim, wait=False) for victim in self.victims))
