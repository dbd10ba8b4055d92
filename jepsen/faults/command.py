"""Faults of a cluster that somebody else runs: a command breaks a node, and another one, if there is one, heals it.

In a command {node} is the node's number from 1 in the order of --url, {host} its host, {url} its address. It is run by
the shell, on this machine or through ssh on the node's. One that fails is a fault that could not be had; one that
fails to heal is a finding.
"""

import asyncio
import shlex
from collections.abc import Mapping
from typing import ClassVar
from urllib.parse import urlsplit

from jepsen.faults.base import Fault, Skipped, Stuck

COMMAND_SECONDS = 60.0

SYSTEMD = {
    "kill": ("systemctl kill --signal=KILL raftbroker", "systemctl start raftbroker"),
    "pause": ("systemctl kill --signal=STOP raftbroker", "systemctl kill --signal=CONT raftbroker"),
    "restart": ("systemctl restart raftbroker", ""),
}
"""What breaks and heals a node that is the systemd unit of deploy/raftbroker.service, where there is a way to it."""


class Command(Fault):
    """See the module's text."""

    variants = ("one", "minority", "majority", "all")
    breaking: ClassVar[str]
    healing: ClassVar[str]

    async def begin(self) -> str:
        field = self.field
        count = len(field.numbers)
        counts = {"one": 1, "minority": max(1, field.minority), "majority": count // 2 + 1, "all": count}
        self._broken: list[int] = []
        for victim in field.some(counts[self.variant]):
            failed = await self._run(self.breaking, victim)
            if failed is not None:
                await self.end()
                raise Skipped(failed)
            self._broken.append(victim)
        return f"nodes {self._broken}"

    async def end(self) -> None:
        failed = [await self._run(self.healing, victim) for victim in self._broken] if self.healing else []
        self._broken = []
        for each in failed:
            if each is not None:
                raise Stuck(each)

    async def _run(self, template: str, victim: int) -> str | None:
        """Why it failed, or None."""
        command = filled(template, victim, self.field.node(victim).url)
        process = await asyncio.create_subprocess_shell(
            command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        try:
            async with asyncio.timeout(COMMAND_SECONDS):
                said, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            return f"`{command}` took more than {COMMAND_SECONDS:.0f} s"
        return f"`{command}` failed: {said.decode(errors='replace')[-200:].strip()}" if process.returncode else None


def filled(template: str, node: int, url: str) -> str:
    """The command for one node; other braces are the shell's."""
    host = urlsplit(url).hostname or ""
    for name, value in (("node", str(node)), ("host", host), ("url", url)):
        template = template.replace(f"{{{name}}}", value)
    return template


def commands(breaking: Mapping[str, str], healing: Mapping[str, str], ssh: str) -> dict[str, type[Fault]]:
    """The faults by name. With `ssh`, an address in which {host} may stand, they run on the nodes, and those that a
    systemd unit can be had with are there unless given. Raises ValueError."""
    pairs = dict(SYSTEMD) if ssh else {}
    pairs |= {name: (command, healing.get(name, "")) for name, command in breaking.items()}
    alone = sorted(healing.keys() - breaking.keys())
    if alone:
        raise ValueError(f"{', '.join(alone)} can be healed but not broken: give a --fault-command too")
    return {name: _kind(name, *(_over(ssh, each) for each in pair)) for name, pair in pairs.items()}


def _over(ssh: str, command: str) -> str:
    return f"ssh -o BatchMode=yes {ssh} {shlex.quote(command)}" if ssh and command else command


def _kind(name: str, breaking: str, healing: str) -> type[Fault]:
    return type(name, (Command,), {"name": name, "breaking": breaking, "healing": healing})
