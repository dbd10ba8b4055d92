"""What a fault is, and what it may reach."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random

from jepsen.cluster import Cluster, Node
from jepsen.net import Pair, Shape
from jepsen.view import View

RECOVERY_SECONDS = 60.0


class Skipped(Exception):
    """The fault cannot be had this time; the text says why."""


class Stuck(Exception):
    """The cluster did not come back from a fault that it must survive: a finding."""


@dataclass
class Field:
    """The cluster under test and what is done to it now."""

    cluster: Cluster
    view: View
    random: Random
    nodes: int
    """How many formed the cluster."""
    preparing: list[type["Fault"]] = field(default_factory=list)
    """What wants a word with each node before its first start."""
    cuts: dict[str, frozenset[Pair]] = field(default_factory=dict)
    """By the fault that makes them, so that two may hold at once."""
    shapes: dict[str, dict[Pair, Shape]] = field(default_factory=dict)

    @property
    def numbers(self) -> list[int]:
        return sorted(self.cluster.nodes)

    @property
    def minority(self) -> int:
        """The largest number of nodes that may be lost for good."""
        return (self.nodes - 1) // 2

    def node(self, number: int) -> Node:
        return self.cluster.nodes[number]

    def some(self, count: int) -> list[int]:
        return sorted(self.random.sample(self.numbers, min(count, len(self.numbers))))

    async def cut(self, name: str, pairs: Iterable[Pair]) -> None:
        self.cuts[name] = frozenset(pairs)
        await self.cluster.network.cut(frozenset().union(*self.cuts.values()))

    async def shape(self, name: str, links: dict[Pair, Shape]) -> None:
        self.shapes[name] = links
        merged: dict[Pair, Shape] = {}
        for each in self.shapes.values():
            merged |= each
        await self.cluster.network.shape(merged)

    async def recovered(self, seconds: float = RECOVERY_SECONDS) -> None:
        """Waits until every node is up and every replica in place. Raises Stuck."""
        missing = await self.view.recovered(seconds)
        if missing is not None:
            raise Stuck(f"not recovered after {seconds:.0f} s: {missing}")


class Fault(ABC):
    """One kind of fault; `variants` are its forms, drawn in turn unless one is named (`kill:majority`)."""

    name: str
    variants: tuple[str, ...] = ("",)
    alone: bool = False
    """It takes a replica's data: nothing else may be broken meanwhile, before or after."""
    settles: bool = False
    """Once it and what held with it has ended, the cluster must become whole before anything else is broken."""

    def __init__(self, field_: Field, variant: str) -> None:
        self.field = field_
        self.variant = variant

    @classmethod
    def unavailable(cls, kind: str) -> str | None:
        """Why this machine, with that kind of network, cannot do it, or None."""
        return None

    @classmethod  # noqa: B027 - most need nothing
    def prepare(cls, node: Node) -> None:
        """Done to each node before its first start."""

    @classmethod  # noqa: B027 - most need nothing
    def clean_up(cls, node: Node) -> None:
        """Done to each node after its last end."""

    @property
    def label(self) -> str:
        return f"{self.name}:{self.variant}" if self.variant else self.name

    @abstractmethod
    async def begin(self) -> str:
        """Breaks it; returns what was done to whom. Raises Skipped, Stuck."""

    @abstractmethod
    async def end(self) -> None:
        """Heals it. Raises Stuck."""
