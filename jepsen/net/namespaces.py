"""A real network for each node: Linux network namespaces, tied together by a bridge.

A direction is cut by a route that swallows what goes that way, acknowledgements and connection attempts included, as
if the cable had been cut. Needs root and `ip` (iproute2). Slow and lossy links need netem, which not every kernel
has: for those there is the proxy.

Names and addresses carry the harness's process number, so that several runs stand side by side; `stop` takes
everything away, and what a killed run left behind goes when its number comes round again.
"""

import asyncio
import itertools
import os
import re
import shutil
import subprocess
import sys

import psutil

from jepsen.net.shape import Pair, Shape

PEERS_PORT = 7082
_turns = itertools.count()


def unavailable() -> str | None:
    """Why there can be no namespaces here, or None."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "`ip` (iproute2) is not installed"
    name = f"rb-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return made.stderr.strip() or "`ip netns add` failed"
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
    return None


class NamespaceNetwork:
    """See the module's text, and `jepsen.net.Network`."""

    kind = "netns"
    shapes = False

    def __init__(self) -> None:
        turn = next(_turns)
        self._tag = f"{os.getpid()}-{turn}"
        self._bridge = f"rb{os.getpid()}x{turn}"[:15]
        self._subnet = f"10.{100 + os.getpid() % 100}.{(os.getpid() // 100 + turn) % 250}"
        self._nodes: list[int] = []
        self._cuts: frozenset[Pair] = frozenset()

    def host(self, node: int) -> str:
        return f"{self._subnet}.{node}"

    def peers_port(self, node: int) -> tuple[int, str]:
        return PEERS_PORT, f"{self.host(node)}:{PEERS_PORT}"

    def prefix(self, node: int) -> list[str]:
        return ["ip", "netns", "exec", self._namespace(node)]

    def _namespace(self, node: int) -> str:
        return f"rb-{self._tag}-{node}"

    async def start(self, nodes: list[int]) -> None:
        await _remove_leftovers()
        await _ip("link", "add", self._bridge, "type", "bridge")
        await _ip("address", "add", f"{self._subnet}.254/24", "dev", self._bridge)
        await _ip("link", "set", self._bridge, "up")
        for node in nodes:
            await self.add(node)

    async def add(self, node: int) -> None:
        namespace = self._namespace(node)
        outer, inner = f"{self._bridge[:11]}v{node}"[-15:], "eth0"
        await _ip("netns", "add", namespace)
        await _ip("link", "add", outer, "type", "veth", "peer", "name", inner, "netns", namespace)
        await _ip("link", "set", outer, "master", self._bridge, "up")
        await _ip("-n", namespace, "address", "add", f"{self.host(node)}/24", "dev", inner)
        await _ip("-n", namespace, "link", "set", inner, "up")
        await _ip("-n", namespace, "link", "set", "lo", "up")
        self._nodes.append(node)

    async def cut(self, pairs: frozenset[Pair]) -> None:
        for source, target in self._cuts - pairs:
            await _ip("-n", self._namespace(source), "route", "delete", "blackhole", f"{self.host(target)}/32")
        for source, target in pairs - self._cuts:
            await _ip("-n", self._namespace(source), "route", "add", "blackhole", f"{self.host(target)}/32")
        self._cuts = pairs

    async def shape(self, links: dict[Pair, Shape]) -> None:
        if links:
            raise NotImplementedError("links are slow and lossy only with --net proxy")

    async def stop(self) -> None:
        for node in self._nodes:
            await _ip("netns", "delete", self._namespace(node), check=False)
        await _ip("link", "delete", self._bridge, check=False)


async def _remove_leftovers() -> None:
    """Networks of runs whose process is gone."""
    for name in re.findall(r"^rb-(?:probe-)?\d+\S*", await _ip("netns", "list"), re.MULTILINE):
        if not psutil.pid_exists(int(re.findall(r"\d+", name)[0])):
            await _ip("netns", "delete", name, check=False)
    for name, pid in re.findall(r"\d+: (rb(\d+)x\d+)[:@]", await _ip("-o", "link", "show", "type", "bridge")):
        if not psutil.pid_exists(int(pid)):
            await _ip("link", "delete", name, check=False)


async def _ip(*arguments: str, check: bool = True) -> str:
    process = await asyncio.create_subprocess_exec(
        "ip", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    said, errors = await process.communicate()
    if check and process.returncode != 0:
        raise OSError(f"`ip {' '.join(arguments)}` failed: {errors.decode(errors='replace').strip()}")
    return said.decode(errors="replace")
