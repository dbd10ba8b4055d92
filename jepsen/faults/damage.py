"""Faults that take a replica's data: flipped bits, cut files, an empty disk. Always of a minority of every group, and
nothing else meanwhile: two of five nodes may be two of a coordinator shard's three.

A node whose files are damaged must refuse to start, or notice what it reads later and leave its groups; either way it
gets an empty disk in the end and must come back by itself as a learner. A wiped node must not vote under its old
name.
"""

import asyncio
from pathlib import Path

from jepsen.cluster import Node
from jepsen.faults.base import Fault, Field, Skipped

REJOIN_SECONDS = 90.0
LOOK_SECONDS = 4.0
BITS_MAX = 8


class Rejoining(Fault):
    """Victims are killed, something happens to their files, and in the end they come back with empty disks."""

    alone = True

    async def kill_some(self) -> list[int]:
        field = self.field
        groups = await field.view.groups()
        most = min(((group.replicas - 1) // 2 for group in groups), default=0)
        if most < 1:
            raise Skipped("a group has too few replicas to lose one, or nobody says how many there are")
        self._victims = field.some(field.random.randint(1, most))
        await asyncio.gather(*(field.cluster.kill(victim) for victim in self._victims))
        return self._victims

    async def rejoin(self) -> None:
        """Wipes the victims, starts them, and waits until they vote everywhere. Raises Stuck."""
        field = self.field
        for victim in self._victims:
            node = field.node(victim)
            await field.cluster.kill(victim)
            field.cluster.wipe(victim)
            node.expected_to_refuse = False
            await field.cluster.run(victim, wait=False)
        await field.recovered(REJOIN_SECONDS)


class Damage(Rejoining):
    """Bits flip in a file of a node that is down, or a file loses its end; then the node is started with it."""

    name = "damage"
    variants = ("bits", "truncate", "bits-in-tables", "bits-in-log")

    async def begin(self) -> str:
        victims = await self.kill_some()
        said = []
        for victim in victims:
            node = self.field.node(victim)
            node.expected_to_refuse = node.damaged = True
            said.append(f"node {victim}: {_damage(node, self.field, self.variant)}")
            await self.field.cluster.run(victim, wait=False)
        await asyncio.sleep(LOOK_SECONDS)
        started = {victim for victim in victims if self.field.node(victim).running}
        return "; ".join([*said, *(f"{v} {'runs on' if v in started else 'refused to start'}" for v in victims)])

    async def end(self) -> None:
        await self.rejoin()


def _damage(node: Node, field: Field, variant: str) -> str:
    pattern = {"bits-in-tables": "*.[bs][ls][ot]*", "bits-in-log": "*.log"}.get(variant, "*")
    files = [path for path in sorted(node.database.glob(pattern)) if path.is_file() and path.stat().st_size]
    files = [path for path in files if path.name != "LOCK" and not path.name.startswith("LOG")]
    if not files:
        return "has no such file"
    path = field.random.choice(files)
    return _cut(path, field) if variant == "truncate" else _flip(path, field)


def _flip(path: Path, field: Field) -> str:
    data = bytearray(path.read_bytes())
    places = [field.random.randrange(len(data) * 8) for _ in range(field.random.randint(1, BITS_MAX))]
    for place in places:
        data[place // 8] ^= 1 << (place % 8)
    path.write_bytes(data)
    return f"{len(places)} bits of {path.name} ({len(data)} bytes) flipped"


def _cut(path: Path, field: Field) -> str:
    size = path.stat().st_size
    left = field.random.randrange(size)
    with path.open("rb+") as file:
        file.truncate(left)
    return f"{path.name} cut from {size} to {left} bytes"


class Wipe(Rejoining):
    """A disk is replaced by an empty one.

    `behind`: while one node is away, and misses what is written, another loses its disk and a third stops: with the
    empty
    disk's vote those two would make a majority that has forgotten."""

    name = "wipe"
    variants = ("simple", "behind")

    async def begin(self) -> str:
        if self.variant == "behind":
            return await self._behind()
        return f"nodes {await self.kill_some()}"

    async def _behind(self) -> str:
        field = self.field
        cluster, nodes = field.cluster, list(field.numbers)
        field.random.shuffle(nodes)
        majority = len(nodes) // 2 + 1
        behind, rest = nodes[: majority - 1], nodes[majority - 1 :]
        wiped, paused = rest[0], rest[1:]
        await asyncio.gather(*(cluster.kill(node) for node in behind))
        await asyncio.sleep(3.0)
        await asyncio.gather(*(cluster.kill(node) for node in [wiped, *paused]))
        cluster.wipe(wiped)
        await asyncio.gather(*(cluster.run(node, wait=False) for node in [*behind, wiped]))
        self._victims, self._down = [], paused
        return f"nodes {sorted(behind)} behind, node {wiped} empty, nodes {sorted(paused)} down"

    async def end(self) -> None:
        if self.variant == "behind":
            await asyncio.gather(*(self.field.cluster.run(node, wait=False) for node in self._down))
        await self.rejoin()
