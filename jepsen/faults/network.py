"""Faults of the network between nodes: partitions of many shapes, slow links, lossy ones. Clients reach every node."""

from jepsen.faults.base import Fault
from jepsen.net import Pair, Shape

SLOW = (
    Shape(delay=0.02, jitter=0.02),
    Shape(delay=0.15, jitter=0.1),
    Shape(delay=0.4, jitter=0.6),
    Shape(delay=0.005, bytes_per_second=50_000),
)
LOSSY = (Shape(loss=0.05), Shape(loss=0.25, breaks=0.002), Shape(loss=0.02, breaks=0.02), Shape(loss=0.6))


def between(left: list[int], right: list[int]) -> set[Pair]:
    """Both directions of every pair with one node on either side."""
    return {pair for a in left for b in right for pair in ((a, b), (b, a))}


class Partition(Fault):
    """Some directions between nodes are cut."""

    name = "partition"
    variants = ("one", "halves", "ring", "one-way", "bridge", "leader-of-control", "leader-of-data", "deaf-leader")

    async def begin(self) -> str:
        pairs, detail = await self._draw()
        await self.field.cut(self.label, pairs)
        return detail

    async def end(self) -> None:
        await self.field.cut(self.label, ())

    async def _draw(self) -> tuple[set[Pair], str]:
        field, random = self.field, self.field.random
        nodes = list(field.numbers)
        random.shuffle(nodes)
        half = len(nodes) // 2
        match self.variant:
            case "halves":
                left, right = nodes[:half], nodes[half:]
                return between(left, right), f"{sorted(left)} | {sorted(right)}"
            case "ring":
                return _ring(nodes), f"each sees its neighbours in {nodes}"
            case "one-way":
                source, *others = nodes
                towards = random.random() < 0.5
                pairs = {(other, source) if towards else (source, other) for other in others}
                return pairs, f"{source} {'hears nobody' if towards else 'is heard by nobody'}"
            case "bridge":
                middle, left, right = nodes[0], nodes[1 : 1 + half], nodes[1 + half :]
                return between(left, right), f"{sorted(left)} - {middle} - {sorted(right)}"
        alone = nodes[0]
        if self.variant != "one":
            kind = "data" if self.variant == "deaf-leader" else self.variant.removeprefix("leader-of-")
            leaders = await field.view.leaders(kind)
            alone = random.choice(leaders) if leaders else alone
        if self.variant == "deaf-leader":
            return {(other, alone) for other in nodes if other != alone}, f"{alone} is heard, and hears nobody"
        return between([alone], [node for node in nodes if node != alone]), f"{alone} | the others"


def _ring(nodes: list[int]) -> set[Pair]:
    """Every node sees a majority, no two the same one: itself and its neighbours on a ring, as far as a majority needs.

    Of three nodes that is everybody; there, one link is cut."""
    count = len(nodes)
    if count == 3:
        return between([nodes[0]], [nodes[1]])
    reach = (count // 2 + 1) // 2
    cut: set[Pair] = set()
    for position, node in enumerate(nodes):
        seen = {nodes[(position + step) % count] for step in range(-reach, reach + 1)}
        cut |= between([node], [other for other in nodes if other not in seen])
    return cut


class Links(Fault):
    """Some or all links behave badly."""

    shapes: tuple[Shape, ...]

    @classmethod
    def unavailable(cls, kind: str) -> str | None:
        return None if kind == "proxy" else "links are slow and lossy only through the proxy: use --net proxy"

    async def begin(self) -> str:
        field = self.field
        shape = field.random.choice(self.shapes)
        nodes = field.numbers
        pairs = [(a, b) for a in nodes for b in nodes if a != b]
        detail = "all links"
        if self.variant == "one-node":
            victim = field.random.choice(nodes)
            pairs = [pair for pair in pairs if victim in pair]
            detail = f"links of node {victim}"
        await field.shape(self.label, dict.fromkeys(pairs, shape))
        return f"{detail}: {shape}"

    async def end(self) -> None:
        await self.field.shape(self.label, {})


class Slow(Links):
    """Delays, and links that carry little."""

    name = "slow"
    variants = ("all", "one-node")
    shapes = SLOW


class Lossy(Links):
    """What lost packets look like through TCP: stalls and broken connections."""

    name = "lossy"
    variants = ("all", "one-node")
    shapes = LOSSY
