"""A cluster of replicas without a broker: the real `Host`, groups, elector, replication, snapshots and store.

Clients write values into the least machine that has offsets and payloads. Members that lost their data (a wiped disk, a
bit that flipped) come back under a new directory UUID, as empty learners, and `Cluster.mend` brings them back among the
voters one step at a time.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

from consensus.election import ElectionTiming
from consensus.errors import ChangeRefused, ConsensusError, NotLeader, Refused, Unknown
from consensus.host import Host

from .checks import Operation, Violation
from .lives import Life, Lives, Plan, SimNode
from .loop import Process, VirtualLoop
from .machines import ValueLog, payload_key, trim_command, value_bytes

__all__ = ["Cluster", "Pending", "Plan", "SimNode"]


@dataclass
class Pending:
    """A proposal in flight, and the life of the node that answers for it."""

    operation: Operation
    future: "asyncio.Future[int]"
    process: Process
    deadline: float


class Cluster(Lives):
    """See the module."""

    def __init__(self, loop: VirtualLoop, seed: str, plan: Plan, keep_trace: bool = False) -> None:
        super().__init__(loop, seed, plan, keep_trace)
        self.group_ids = list(range(plan.groups))
        self._values = 0

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
            on_fatal=partial(self.fatal, node, life.process),
        )
        host.join_cluster("sim")
        node.machines = {}
        for number in self.group_ids:
            machine = node.machines[number] = ValueLog(number)
            initial = self.initial if node.member in self.initial.voters else None
            group = host.open_group(number, self.watch_machine(node, number, machine), initial, prefer=node.id == 1)
            self.watch_commit(node, group)
        life.transport.set_addresses({other.id: other.address for other in self.nodes.values()})
        life.process.spawn(host.start())
        return host

    # --- clients --------------------------------------------------------------------------------------

    def propose(self, node: SimNode, number: int, timeout: float) -> "Pending | None":
        """Appends a new value through this node, or is refused: None."""
        assert node.host is not None
        assert node.process is not None
        self._values += 1
        machine = node.machines[number]
        offset, command, payload = machine.draft(self._values)
        operation = self.checks.invoked(number, self._values, offset)
        group = node.host.groups[number]
        try:
            future = node.process.run(partial(group.propose, command, (payload,), timeout=timeout))
        except Refused:
            self.checks.ended(operation, "refused")
            return None
        machine.proposed()
        return Pending(operation, future, node.process, self.loop.time() + timeout)

    async def finish(self, pending: "Pending") -> None:
        """Waits for the outcome and records it. A proposal that outlives its deadline is a violation (C10)."""
        operation, future, process = pending.operation, pending.future, pending.process
        patience = max(0.0, pending.deadline + 0.1 - self.loop.time())
        await asyncio.wait({future, process.died}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            if process.alive:
                raise Violation(f"every proposal ends by its deadline: value {operation.value} has not")
            self.checks.ended(operation, "unknown")
            return
        error = future.exception()
        if error is None:
            self.checks.ended(operation, "acknowledged", future.result())
        elif isinstance(error, Refused):
            self.checks.ended(operation, "refused")
        elif isinstance(error, Unknown):
            self.checks.ended(operation, "unknown")
        else:
            raise error

    async def write(self, node: SimNode, number: int, timeout: float = 2.0) -> Operation | None:
        """One value, and what became of it; None if it was refused at once."""
        pending = self.propose(node, number, timeout)
        if pending is None:
            return None
        await self.finish(pending)
        return pending.operation

    async def read(self, node: SimNode, number: int, timeout: float = 2.0) -> bool:
        """A linearizable read through this node; whether it was answered."""
        wanted = self.checks.truth(number).acknowledged_next
        assert node.host is not None
        assert node.process is not None
        group, machine, process = node.host.groups[number], node.machines[number], node.process

        async def inside() -> int:
            try:
                await group.read_barrier(timeout)
            except (Refused, Unknown):
                return -1
            return machine.next

        task = process.spawn(inside())
        await asyncio.wait({task, process.died}, timeout=2 * timeout + 0.1, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            if process.alive:
                raise Violation("every read ends by its deadline")
            return False
        if task.result() < 0:
            return False
        self.checks.read(node.id, number, wanted, task.result())
        return True

    def trim(self, node: SimNode, number: int, random: Random) -> None:
        """Retention: the leader drops values below some offset."""
        assert node.host is not None
        assert node.process is not None
        machine = node.machines[number]
        start = random.randint(machine.start, machine.next)
        group = node.host.groups[number]
        if start > machine.start:
            self._fire(node, partial(group.propose, trim_command(start), timeout=2.0, frees_space=True))

    def _fire(self, node: SimNode, call: "Callable[[], asyncio.Future[int]]") -> None:
        """Starts something whose outcome nobody waits for; a refusal is fine, any other error is not."""
        assert node.process is not None
        try:
            future = node.process.run(call)
        except ConsensusError as error:
            self.note(f"refused: {error}")
            return
        future.add_done_callback(_looked_at)

    # --- changes --------------------------------------------------------------------------------------

    def transfer_some(self, random: Random) -> None:
        number = random.choice(self.group_ids)
        for node in self.leaders(number)[:1]:
            assert node.host is not None
            assert node.process is not None
            others = [m.node for m in node.host.groups[number].configuration.voters if m != node.member]
            target = random.choice([None, *others])
            node.process.spawn(_quietly(node.host.groups[number].transfer(target, random.uniform(0.05, 1.0))))

    def mend(self, number: int, random: Random) -> bool:
        """One step towards a configuration without lost members, made by the leader; whether there is none to make."""
        leaders = self.leaders(number)
        if not leaders or leaders[-1].host is None:
            return False
        leader = max(leaders, key=lambda n: n.host.groups[number].term if n.host else 0)
        assert leader.host is not None
        group = leader.host.groups[number]
        now = group.configuration
        lost = self.lost_voters(now)
        if lost:
            self._fire(leader, partial(group.remove, lost[0], 2.0))
            return False
        wanted = min(self.plan.voters, len([n for n in self.nodes.values() if not n.rotten]))
        for learner in now.learners:
            if len(now.voters) < wanted:
                self._fire(leader, partial(group.promote, learner, 2.0))
                return False
        absent = [n for n in self.nodes.values() if n.member not in now.members and not n.rotten]
        if len(now.members) < wanted and absent:
            self._fire(leader, partial(group.add_learner, random.choice(absent).member, 2.0))
            return False
        return len(now.voters) >= wanted

    def change_members(self, random: Random) -> None:
        """A step of `mend`, or, when nothing needs mending, one voter out: `mend` then brings in another."""
        number = random.choice(self.group_ids)
        if self.mend(number, random) and random.random() < 0.7:
            for leader in self.leaders(number)[:1]:
                assert leader.host is not None
                group = leader.host.groups[number]
                if len(group.configuration.voters) > 1 and not any(n.rotten for n in self.nodes.values()):
                    out = random.choice(group.configuration.voters)
                    self._fire(leader, partial(group.remove, out, 2.0))

    # --- the end --------------------------------------------------------------------------------------

    async def settle(self, seconds: float = 40.0) -> None:
        """Faults are over: everything must heal by itself, and all nodes agree."""
        self.note("calm")
        deadline = self.loop.time() + seconds
        random = Random(f"{self.seed}/settle")
        while True:
            self.repair()
            await asyncio.sleep(0.25)
            mended = [self.mend(number, random) for number in self.group_ids]
            if all(mended) and all(self.agreed(number) for number in self.group_ids):
                break
            if self.loop.time() > deadline:
                raise Violation(f"does not settle within {seconds} s: {self.describe()}")

    def describe(self) -> str:
        return "\n".join(
            str(node.host.groups[number].status()) if node.host else f"node {node.id} is down"
            for node in self.nodes.values()
            for number in self.group_ids
        )

    def verify(self) -> None:
        """The whole of every member's log, against what clients were told."""
        for number in self.group_ids:
            leader = self.leaders(number)[0]
            assert leader.host is not None
            for member in leader.host.groups[number].configuration.members:
                node = self.nodes[member.node]
                machine = node.machines[number]
                values = machine.values()
                self.checks.finished(node.id, number, machine.start, values)
                assert node.store is not None
                found = node.store.payload_digests([payload_key(number, offset) for offset in values])
                for offset, (value, crc) in values.items():
                    if found.get(payload_key(number, offset)) != (len(value_bytes(value)), crc):
                        raise Violation(f"records are kept: node {node.id} lacks offset {offset} of group {number}")


def _looked_at(future: "asyncio.Future[int]") -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        assert isinstance(error, ConsensusError), error


async def _quietly(action: "asyncio.Future[None] | object") -> None:
    try:
        await action  # type: ignore[misc]
    except (NotLeader, ChangeRefused, Unknown):
        return
