"""The network between the nodes of a cluster, under the harness's control: two ways to cut and slow it.

`proxy` needs nothing: every connection between nodes goes through the harness, which holds bytes back. `namespaces`
needs Linux, root and `ip`: each node has a network of its own, and routes are taken away. `choose` picks.
"""

from typing import Protocol

from jepsen.net.namespaces import NamespaceNetwork
from jepsen.net.namespaces import unavailable as namespaces_unavailable
from jepsen.net.proxy import ProxyNetwork
from jepsen.net.shape import Pair, Shape

__all__ = ["KINDS", "NamespaceNetwork", "Network", "Pair", "ProxyNetwork", "Shape", "choose"]

KINDS = ("auto", "proxy", "netns")


class Network(Protocol):
    """What faults ask of it. Pairs are (from, to), node numbers; a cut is of one direction."""

    kind: str
    shapes: bool
    """Whether links can be slow and lossy, and not only cut."""

    async def start(self, nodes: list[int]) -> None: ...

    async def add(self, node: int) -> None:
        """One more node, before it is started."""

    def host(self, node: int) -> str:
        """The address that the node listens on."""

    def peers_port(self, node: int) -> tuple[int, str]:
        """(the port that the node listens on for its peers, host:port at which they reach it)."""

    def prefix(self, node: int) -> list[str]:
        """What goes before the command that starts the node."""

    async def cut(self, pairs: frozenset[Pair]) -> None:
        """Holds back everything in these directions, and in no others."""

    async def shape(self, links: dict[Pair, Shape]) -> None:
        """Slows these directions, and no others."""

    async def stop(self) -> None: ...


def choose(kind: str, *, shaping: bool) -> Network:
    """The network asked for; `auto` takes namespaces where they can be made and no link is to be slow or lossy.

    Raises ValueError, with the reason, for one that cannot be had here."""
    reason = namespaces_unavailable()
    if kind == "netns" and reason:
        raise ValueError(f"--net netns cannot be had here: {reason}; use --net proxy")
    if kind == "netns" or (kind == "auto" and not reason and not shaping):
        return NamespaceNetwork()
    return ProxyNetwork()
