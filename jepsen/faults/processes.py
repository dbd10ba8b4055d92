"""Faults of processes: killed, stopped, restarted in turn, and the last moments of a power loss."""

import asyncio
import contextlib

from jepsen import disk_note
from jepsen.faults.base import Fault, Skipped
from jepsen.node import DELAY_FILE

BUSY_MS = 500
"""How long each fsync takes of a disk that is busy as the power goes."""
BEHIND_SECONDS = 3.0
ROLL_SECONDS = 20.0
"""How long it is waited for a node that starts, by what goes on all the same when it does not come."""


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
    """Every node in turn is stopped in good order and started again, the next when it is ready, or does not get ready
    for long: others may be down meanwhile. Whether all come back is looked at when everything has ended."""

    name = "restart"
    settles = True
    variants = ("rolling",)

    async def begin(self) -> str:
        self._task = asyncio.create_task(self._roll())
        return f"nodes {self.field.numbers}, one after the other"

    async def _roll(self) -> None:
        for number in self.field.numbers:
            await self.field.cluster.terminate(number)
            await self.field.cluster.run(number, wait=False)
            with contextlib.suppress(TimeoutError):
                await self.field.cluster.ready(number, ROLL_SECONDS)
            await asyncio.sleep(0.5)

    async def end(self) -> None:
        await self._task


class PowerLoss(Victims):
    """The processes end, and with them all that was written and not yet synced. Half of the times the victims' disks
    were busy when it happened, so that much was on its way to them.

    `behind`: a minority is away, and misses what is written; then one of those that were there loses power, the others
    stop, and it goes on with those that were away: what it had acknowledged and not synced is gone from a majority. It
    is a leader, or a follower of a leader that stops; that one comes back once the others have had time without it."""

    name = "power"
    variants = ("all", "majority", "one", "behind", "leader-of-data", "leader-of-control")

    async def begin(self) -> str:
        self.down: list[int] = []
        if self.variant == "behind":
            return await self._behind()
        self.victims = await self.choose()
        busy = self.field.random.random() < 0.5
        lost = await self._cut_power(self.victims, busy=busy)
        return f"nodes {self.victims}, {lost} unsynced bytes gone{', of busy disks' if busy else ''}"

    async def _cut_power(self, victims: list[int], *, busy: bool) -> list[int]:
        """How many bytes each has lost."""
        field = self.field
        if busy:
            self._slow_down(victims)
            await asyncio.sleep(field.random.uniform(0.5, 1.5) * BUSY_MS / 1000)
        await asyncio.gather(*(field.cluster.kill(victim) for victim in victims))
        lost = []
        for victim in victims:
            node = field.node(victim)
            (node.disk / DELAY_FILE).unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):  # it was down already, and wiped
                all_of_it = field.random.random() < 0.5
                lost.append(disk_note.lose_power(node.database, node.disk, field.random, all_of_it=all_of_it))
        return lost

    def _slow_down(self, victims: list[int]) -> None:
        for victim in victims:
            (self.field.node(victim).disk / DELAY_FILE).write_text(str(BUSY_MS))

    async def _behind(self) -> str:
        field = self.field
        leaders = await field.view.leaders("data") or await field.view.leaders("shard") or field.numbers
        leader = field.random.choice(leaders)
        others = [node for node in field.numbers if node != leader]
        field.random.shuffle(others)
        victim, stopped = (leader, others.pop()) if field.random.random() < 0.5 else (others.pop(), leader)
        minority = len(field.numbers) // 2
        behind, self.down = others[:minority], [stopped, *others[minority:]]
        await asyncio.gather(*(field.cluster.kill(node) for node in behind))
        await asyncio.sleep(BEHIND_SECONDS)
        lost = await self._cut_power([victim], busy=True)
        await asyncio.gather(*(field.cluster.kill(node) for node in self.down))
        self.victims = [*behind, victim]
        await asyncio.gather(*(field.cluster.run(node, wait=False) for node in self.victims))
        with contextlib.suppress(TimeoutError):
            await asyncio.gather(*(field.cluster.ready(node, ROLL_SECONDS) for node in self.victims))
        return f"nodes {sorted(behind)} behind, {victim} lost {lost[0]} unsynced bytes, nodes {sorted(self.down)} down"

    async def end(self) -> None:
        coming = [*self.victims, *self.down]
        await asyncio.gather(*(self.field.cluster.run(node, wait=False) for node in coming))
