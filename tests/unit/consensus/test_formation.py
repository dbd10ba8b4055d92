"""Forming a cluster, on simulated nodes with real hosts and stores: once, by all its first nodes, never again (C9)."""

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import pytest

from consensus.election import ElectionTiming
from consensus.formation import Formation
from consensus.host import Host
from consensus.identity import Formed
from consensus.model import Configuration
from consensus.transport import Peer
from tests.simulation.lives import Life, Lives, Plan, SimNode
from tests.simulation.loop import VirtualLoop, run_simulation


class Forming(Lives):
    """Nodes 1 to 3 are to form a cluster; node 4, if there is one, is to join it."""

    def __init__(self, loop: VirtualLoop, seed: str = "formation", spares: int = 0) -> None:
        super().__init__(loop, seed, Plan(voters=3, spares=spares))
        self.formations: dict[int, Formation] = {}
        self.drafted: list[str] = []
        self.announced: set[str] = set()
        """Clusters that a node said it belongs to."""

    def compose(self, node: SimNode, life: Life) -> Host:
        assert node.store is not None
        assert node.disk is not None
        host = Host(
            life.identity,
            node.store,
            node.disk,
            life.transport,
            clock=life.clock,
            random=life.random,
            timing=ElectionTiming(),
            limits=self.plan.limits(),
            on_fatal=lambda error: self.fatal(node, life.process, error),
        )

        def new_cluster() -> str:
            self.drafted.append(f"cluster {len(self.drafted) + 1} of node {node.id}")
            return self.drafted[-1]

        formation = self.formations[node.id] = Formation(host, {1, 2, 3} if node.id <= 3 else set(), new_cluster)
        life.transport.set_addresses({other.id: other.address for other in self.nodes.values()})
        life.process.spawn(self._belong(host, formation))
        return host

    async def _belong(self, host: Host, formation: Formation) -> None:
        await host.start()
        self.announced.add((await formation.belong()).cluster)

    def up(self, *numbers: int) -> None:
        for number in numbers:
            self.start(self.nodes[number])

    def wipe(self, number: int) -> None:
        self.crash(self.nodes[number])
        self.replace_disk(self.nodes[number])

    def formed(self) -> dict[int, Formed | None]:
        return {number: self.formations[number].formed for number, node in self.nodes.items() if node.up}

    async def until_formed(self, seconds: float = 30.0) -> Formed:
        deadline = self.loop.time() + seconds
        while None in self.formed().values():
            assert self.loop.time() < deadline, f"not formed: {self.formed()}"
            await asyncio.sleep(0.1)
        found = set(self.formed().values())
        assert len(found) == 1, f"formed more than once: {found}"
        formed = found.pop()
        assert formed is not None
        return formed


def run(scenario: Callable[[Forming], Coroutine[Any, Any, None]], seed: str = "formation", spares: int = 0) -> None:
    async def main(loop: VirtualLoop) -> None:
        await scenario(Forming(loop, seed, spares))

    run_simulation(main)


def test_three_empty_nodes_form_one_cluster() -> None:
    async def scenario(world: Forming) -> None:
        world.up(1, 2, 3)
        formed = await world.until_formed()
        members = tuple(world.nodes[number].member for number in (1, 2, 3))
        assert formed == Formed("cluster 1 of node 1", members)
        for number in (1, 2, 3):
            assert world.formations[number].configuration == Configuration(members)
            host = world.nodes[number].host
            assert host is not None
            assert host.cluster == formed.cluster

    run(scenario)


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_nobody_forms_while_one_of_the_first_nodes_is_missing(missing: int) -> None:
    async def scenario(world: Forming) -> None:
        world.up(*({1, 2, 3} - {missing}))
        await asyncio.sleep(30.0)
        assert set(world.formed().values()) == {None}
        assert world.drafted == []
        world.up(missing)
        assert (await world.until_formed()).cluster == "cluster 1 of node 1"

    run(scenario)


@pytest.mark.parametrize("wiped", [1, 2, 3])
@pytest.mark.parametrize("other_down", [False, True])
def test_a_node_that_lost_its_disk_joins_and_forms_nothing(wiped: int, other_down: bool) -> None:
    async def scenario(world: Forming) -> None:
        world.up(1, 2, 3)
        first = await world.until_formed()
        world.wipe(wiped)
        if other_down:
            world.crash(world.nodes[wiped % 3 + 1], keep=None)
        world.up(wiped)
        assert await world.until_formed() == first
        assert world.formations[wiped].configuration is None, "under its new directory it is no first voter"
        assert world.drafted == ["cluster 1 of node 1"]

    run(scenario)


def test_an_older_node_tells_after_a_restart_and_alone() -> None:
    async def scenario(world: Forming) -> None:
        world.up(1, 2, 3)
        first = await world.until_formed()
        for number in (1, 2, 3):
            world.crash(world.nodes[number])
        world.replace_disk(world.nodes[1])
        world.replace_disk(world.nodes[2])
        world.up(1, 2)
        await asyncio.sleep(20.0)
        assert set(world.formed().values()) == {None}, "node 3 may know of a cluster: without it none is formed"
        world.up(3)
        assert await world.until_formed() == first

    run(scenario)


def test_a_node_that_is_to_join_waits_for_a_cluster_and_is_none_of_its_first_voters() -> None:
    async def scenario(world: Forming) -> None:
        world.up(4, 1, 2)
        await asyncio.sleep(20.0)
        assert set(world.formed().values()) == {None}
        world.up(3)
        formed = await world.until_formed()
        assert len(formed.members) == 3
        assert world.formations[4].configuration is None

    run(scenario, spares=1)


@pytest.mark.parametrize("seed", range(12))
def test_crashes_at_any_moment_leave_one_cluster(seed: int) -> None:
    async def scenario(world: Forming) -> None:
        random = Random(seed)
        world.up(1, 2, 3)
        for _ in range(12):
            await asyncio.sleep(random.uniform(0.0, 0.3))
            number = random.choice((1, 1, 2, 3))
            world.crash(world.nodes[number])
            if random.random() < 0.7:
                await asyncio.sleep(random.uniform(0.0, 0.2))
            world.up(number)
        formed = await world.until_formed()
        assert world.announced == {formed.cluster}

    run(scenario, seed=f"crashes {seed}")


def test_who_may_talk_with_whom() -> None:
    async def scenario(world: Forming) -> None:
        world.up(1, 2, 3)
        formed = await world.until_formed()
        host = world.nodes[1].host
        assert host is not None
        stranger = Peer(7, "e" * 32, 1, "n", "another cluster", "address")
        assert "belongs to cluster cluster 1 of node 1, node 7 to cluster another" in str(host.peer_allowed(stranger))
        assert host.peer_allowed(Peer(7, "e" * 32, 1, "n", "", "address")) is None
        assert host.peer_allowed(Peer(7, "e" * 32, 1, "n", formed.cluster, "address")) is None
        twin = Peer(1, "f" * 32, 1, "n", formed.cluster, "address")
        assert "give every node its own node.id" in str(host.peer_allowed(twin))

    run(scenario)
