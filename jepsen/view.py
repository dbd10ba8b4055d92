"""What a cluster says of itself, asked of any node that answers: who leads what, and whether all is well.

Good for choosing victims and for waiting; never for judging.
"""

import asyncio
import contextlib
import time
from dataclasses import dataclass

from jepsen.client import Http, NotSent, Unclear

POLL_SECONDS = 0.25
ASK_SECONDS = 3.0


@dataclass(frozen=True)
class Group:
    """A Raft group; 0 is the control group."""

    number: int
    leader: int | None
    partitions: int
    replicas: int
    complete: bool
    """Every replica it should have votes and is sound."""

    @property
    def kind(self) -> str:
        return "control" if self.number == 0 else "data" if self.partitions else "shard"


class View:
    """Asks the nodes at `urls`; `know` tells of more."""

    def __init__(self, urls: list[str]) -> None:
        self._http = Http(list(urls), 0, ASK_SECONDS)

    def know(self, urls: list[str]) -> None:
        """More nodes than before."""
        self._http.urls[:] = urls

    async def close(self) -> None:
        await self._http.close()

    async def _ask(self, path: str, node: int | None = None) -> object:
        """The first node's answer that gives one; None if none does."""
        turns = range(len(self._http.urls)) if node is None else [node]
        for turn in turns:
            with contextlib.suppress(NotSent, Unclear):
                answer = await self._http.call("GET", path, node=turn)
                if answer.ok:
                    return answer.decode()
        return None

    async def groups(self) -> list[Group]:
        """Empty where nobody answers."""
        found = await self._ask("/v1/raft")
        nodes = len(self._http.urls)
        return [_group(each, nodes) for each in found if isinstance(each, dict)] if isinstance(found, list) else []

    async def leaders(self, kind: str) -> list[int]:
        """The nodes that lead a group of this kind: "control", "data" or "shard"."""
        groups = await self.groups()
        return sorted({group.leader for group in groups if group.leader is not None and group.kind == kind})

    async def healthy(self) -> str | None:
        """None if every node answers and every group is complete; else what is missing."""
        for node in range(len(self._http.urls)):
            match await self._ask("/v1/cluster/health_overview", node):
                case {"is_healthy": True}:
                    pass
                case {"nodes_down": list(down), "leaderless_partitions": list(no_leader), **rest}:
                    under = rest.get("under_replicated_partitions")
                    return f"node {node + 1} sees {down} down, {no_leader} without leader, {under} under-replicated"
                case _:
                    return f"node {node + 1} does not answer"
        lacking = [group.number for group in await self.groups() if not group.complete]
        return f"groups {lacking} lack sound voters" if lacking else None

    async def recovered(self, seconds: float) -> str | None:
        """Waits until all is well, twice in a row; what is still missing after so many seconds, or None."""
        deadline = time.monotonic() + seconds
        good = 0
        while True:
            missing = await self.healthy()
            good = good + 1 if missing is None else 0
            if good >= 2:
                return None
            if missing is not None and time.monotonic() > deadline:
                return missing
            await asyncio.sleep(POLL_SECONDS)

    async def transfer(self, group: int, target: int, through: int) -> None:
        """Asks for another leader; that it is refused is nothing special."""
        with contextlib.suppress(NotSent, Unclear):
            path = f"/v1/raft/{group}/transfer_leadership?target={target}"
            await self._http.call("POST", path, node=through % len(self._http.urls))


def _group(found: dict[str, object], nodes: int) -> Group:
    replicas = found.get("replicas")
    assert isinstance(replicas, list)
    number = _whole(found["group"])
    sound = [each for each in replicas if each["role"] != "absent" and not each["damaged"]]
    voters = [each for each in sound if each["voter"]]
    wanted = min(_whole(found["replication_factor"]), nodes)
    leader = found["leader"]
    # Every node has a replica of the control group, also those whose votes it does not need.
    all_placed = len(sound if number == 0 else voters) == len(replicas)
    return Group(
        number,
        leader if isinstance(leader, int) else None,
        _whole(found["partitions"]),
        len(replicas),
        complete=all_placed and len(voters) >= wanted,
    )


def _whole(value: object) -> int:
    assert isinstance(value, int)
    return value
