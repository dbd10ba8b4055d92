"""Scenario in, messages and log out: real hosts and groups in which nothing happens unless the script says so.

Messages wait in one queue per directed link until `deliver`; a batch becomes durable only by `flush`; time stands
still but for `tick`. Election timers run out when told so (`timeout`); with `timers=on` node 1's runs out 0.55 s after
it last heard, and each further node's 0.05 s later. Everything else is the real thing: host, group, elector,
replication, committer, snapshots, and the store's layout over an engine in memory. Each message is encoded and decoded
on its way.

The commands are the methods of `Transcript` whose names start with `do_`, underscores for hyphens; a leading `quiet`
leaves out what goes over the wire and to disk, a leading `silent` everything.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial

import msgspec

from consensus import group
from consensus.election import Role
from consensus.errors import ConsensusError, Damaged
from consensus.messages import (
    Append,
    PreVote,
    PreVoteReply,
    RequestVote,
    Vote,
    decode_messages,
    encode_messages,
)
from consensus.model import Configuration, Entry, Payload
from consensus.replication import Limits
from consensus.status import GroupLimits
from tests.unit.consensus.transcript_node import Node, payload_key
from tests.unit.consensus.transcript_text import SAMPLES
from tests.unit.consensus.transcript_world import BASE_SECONDS, GROUP, World


class Transcript(World):
    """See the module. `execute` runs one command and answers the lines that came of it."""

    async def do_nodes(self, *words: str) -> None:
        """nodes 1 2 3 [spare 4] [log=4 inflight=99 message=99 memory=99 apply=99 proposals=2 timers=on unflushed]:
        the group's first voters, and nodes that are not its members. Bounds in entries or bytes."""
        self.endless = "timers=on" not in words
        options = (word.partition("=") for word in words if "=" in word and word != "timers=on")
        bounds = {name: int(value) for name, _, value in options}
        names = [word for word in words if "=" not in word and word != "unflushed"]
        voters = names[: names.index("spare")] if "spare" in names else names
        defaults = Limits()
        self.limits = GroupLimits(
            replication=Limits(
                message_bytes_max=bounds.get("message", defaults.message_bytes_max),
                inflight_bytes_max=bounds.get("inflight", defaults.inflight_bytes_max),
            ),
            log_entries_max=bounds.get("log", 20_000),
            memory_bytes_max=bounds.get("memory", 4 << 20),
            proposals_max=bounds.get("proposals", 10_000),
        )
        group.APPLY_BYTES_MAX = bounds.get("apply", self.apply_bytes_max)
        self.nodes = {int(name): Node(int(name)) for name in names if name != "spare"}
        first = Configuration(tuple(self.nodes[int(name)].member for name in voters))
        for node in self.nodes.values():
            self._start(node, first if node.member in first.voters else None)
        await self.settle()
        for one in self.nodes:
            for other in self.nodes:
                if one < other:
                    self._connect(one, other)
        if "unflushed" not in words:
            await self._stabilize(set(self.nodes))
            self.lines = [line for line in self.lines if line[0] == "event"]

    def do_crash(self, number: str, survives: str = "") -> None:
        """crash 1: what no flush completed is gone. `crash 1 written`: the batch under way is not."""
        node = self.nodes[int(number)]
        if survives == "written" and node.disk is not None and node.disk.under_way and node.store is not None:
            node.store.write(node.disk.under_way[0])
            node.store.sync()
        self._end(node)
        if survives != "written":
            node.platter.crash(keep=0)

    async def do_restart(self, number: str) -> None:
        node = self.nodes[int(number)]
        try:
            self._start(node, None)
        except (Damaged, ConsensusError) as error:
            node.host = None
            self.say("event", f"{node.number}: does not start: {error}")
            return
        await self.settle()
        for other in self.nodes:
            if other != node.number:
                self._connect(*sorted((node.number, other)))

    def do_wipe(self, number: str) -> None:
        """The node, which is down, gets an empty directory."""
        node = self.nodes[int(number)]
        node.platter.wipe()
        node.lost += 1

    def do_copy(self, number: str) -> None:
        """Keeps a copy of the node's directory; `copy-back` puts it in the place of the present one."""
        tables = self.nodes[int(number)].platter.current
        self.saved[int(number)] = [(family, dict(table.rows)) for family, table in tables.items()]

    def do_copy_back(self, number: str) -> None:
        platter = self.nodes[int(number)].platter
        platter.wipe()
        for family, rows in self.saved[int(number)]:
            for key, value in rows.items():
                platter.current.own(family).put(key, value)

    def do_rot(self, number: str, index: str) -> None:
        """One bit of an entry's row changes on the node's disk."""
        key = GROUP.to_bytes(4, "big") + int(index).to_bytes(8, "big")
        self.nodes[int(number)].platter.flip("raft", key)

    # --- deliveries and flushes -----------------------------------------------------------------------------

    async def do_deliver(self, source: str, target: str, count: str = "1000") -> None:
        """deliver 1 2 [count]: the oldest messages from 1 to 2."""
        if not await self._deliver(int(source), int(target), int(count)):
            self.say("event", "there is nothing to deliver")

    def do_drop(self, source: str, target: str, count: str = "1000") -> None:
        queue = self.queues.get((int(source), int(target)), deque())
        for _ in range(min(int(count), len(queue))):
            self.say("event", f"lost: {self.text.message(queue.popleft())}")

    def do_hold(self, source: str, target: str) -> None:
        """Takes the messages under way aside; `release` puts them behind all others."""
        pair = (int(source), int(target))
        self.held.setdefault(pair, []).extend(self.queues.pop(pair, ()))

    def do_release(self, source: str, target: str) -> None:
        pair = (int(source), int(target))
        for message in self.held.pop(pair, []):
            self.say("event", f"late: {self.text.message(message)}")
            self.queues.setdefault(pair, deque()).append(message)

    def do_duplicate(self, source: str, target: str) -> None:
        queue = self.queues.get((int(source), int(target)), deque())
        queue.extend(list(queue))

    def do_tamper(self, source: str, target: str) -> None:
        """A byte of the first entry under way changes, its CRC does not."""
        queue = self.queues[int(source), int(target)]
        message = queue.popleft()
        assert isinstance(message, Append)
        one = message.entries[0]
        changed = Entry(one.term, one.index, one.kind, one.command + b"!", one.payloads, one.crc)
        entries = (changed, *message.entries[1:])
        parts = (message.group, message.term, message.prev_index, message.prev_term, entries, message.commit)
        queue.appendleft(Append(*parts))

    def do_cut(self, one: str, other: str = "") -> None:
        """cut 1: nothing leaves or reaches node 1. cut 1 2: nothing passes from 1 to 2. Connections seem to live."""
        if other:
            self.cuts.add((int(one), int(other)))
        else:
            for number in self.nodes:
                self.cuts |= {(int(one), number), (number, int(one))}
        for pair in self.cuts:
            self.queues.pop(pair, None)

    def do_heal(self) -> None:
        self.cuts.clear()

    def do_disconnect(self, one: str, other: str) -> None:
        """The connection breaks, with the loss of what was under way; both ends are told."""
        self._disconnect(int(one), int(other))

    def do_connect(self, one: str, other: str) -> None:
        self._connect(int(one), int(other))

    async def do_flush(self, number: str, count: str = "1") -> None:
        """flush 1 [count]: the batch under way is durable; its followers are taken up."""
        for _ in range(int(count)):
            if not await self._flush(self.nodes[int(number)]):
                self.say("event", "there is nothing to flush")

    async def _flush(self, node: Node) -> bool:
        disk, store = node.disk, node.store
        if node.host is None or disk is None or store is None or disk.under_way is None:
            return False
        (writes, future), disk.under_way = disk.under_way, None
        store.write(writes)
        store.sync()
        self.say("disk", f"disk {node.number} batch {disk.count} is durable")
        future.set_result(None)
        await self.settle()
        return True

    async def _stabilize(self, only: set[int]) -> None:
        for _ in range(1000):
            moved = False
            for source, target in sorted(self.queues):
                if {source, target} <= only:
                    moved = await self._deliver(source, target, 1000) or moved
            for number in sorted(only):
                moved = await self._flush(self.nodes[number]) or moved
            if not moved:
                return
        raise ValueError("does not become quiet")

    async def do_stabilize(self, *numbers: str) -> None:
        """Delivers and flushes, among these nodes or all, until nothing is under way."""
        await self._stabilize({int(number) for number in numbers} or set(self.nodes))

    # --- time -----------------------------------------------------------------------------------------------

    async def do_tick(self, span: str) -> None:
        """tick 500ms: time passes, nothing is delivered or flushed."""
        await asyncio.sleep(int(span.removesuffix("ms")) / 1000)

    async def do_run(self, span: str, *numbers: str) -> None:
        """run 500ms [nodes]: time passes, and everything arrives and is flushed at once, among these nodes or all."""
        end = self.loop.time() + int(span.removesuffix("ms")) / 1000
        only = {int(number) for number in numbers} or set(self.nodes)
        while self.loop.time() < end - 1e-9:
            await asyncio.sleep(min(0.01, end - self.loop.time()))
            await self._stabilize(only)

    def do_timeout(self, number: str) -> None:
        """The node's election timer runs out."""
        group = self.group(number)
        group.elector._engine.deadline = self.loop.time() - BASE_SECONDS
        group.tick(False)

    async def do_elect(self, number: str, *numbers: str) -> None:
        """elect 1 [nodes]: the timer of node 1 runs out, and everything arrives until all is quiet."""
        self.do_timeout(number)
        await self.settle()
        await self._stabilize({int(n) for n in numbers} or set(self.nodes))
        self.lines = [line for line in self.lines if line[0] == "event"]

    async def do_win(self, number: str, *voters: str) -> None:
        """win 5 3 4: the timer of node 5 runs out, and what it and these voters say about that arrives, and no more."""
        self.do_timeout(number)
        for _ in range(20):
            await self.settle()
            if self.group(number).role is Role.LEADER:
                return
            for voter in voters:
                for source, target in ((int(number), int(voter)), (int(voter), int(number))):
                    queue = self.queues.get((source, target), deque())
                    while queue and isinstance(queue[0], PreVote | PreVoteReply | RequestVote | Vote):
                        await self._deliver(source, target, 1)
                if self.group(number).role is not Role.LEADER:
                    await self._flush(self.nodes[int(voter)])
            if self.group(number).role is not Role.LEADER:
                await self._flush(self.nodes[int(number)])
        raise ValueError(f"node {number} does not win")

    # --- clients --------------------------------------------------------------------------------------------

    def do_propose(self, number: str, *words: str) -> None:
        """propose 1 x [y z]: one entry per word, in one loop turn; the client waits for 5 s at the most."""
        group, machine = self.group(number), self.nodes[int(number)].machine
        assert machine is not None
        for word in words:
            payload = Payload.of(payload_key(machine.tail), word.encode())
            if self._ask(word, partial(group.propose, word.encode(), (payload,), timeout=5.0)):
                machine.tail += 1

    def do_trim(self, number: str, start: str) -> None:
        """Retention: drops the words before the given offset, with their payloads."""
        command = f"trim {start}"
        self._ask(command, lambda: self.group(number).propose(command.encode(), timeout=5.0, frees_space=True))

    def _ask(self, what: str, call: "Callable[[], asyncio.Future[int]]") -> bool:
        try:
            future = call()
        except ConsensusError as error:
            self.say("event", f"client: {what}: {type(error).__name__}: {error}")
            return False
        future.add_done_callback(lambda done: self._answered(what, done))
        return True

    def _answered(self, what: str, future: "asyncio.Future[int] | asyncio.Task[None]") -> None:
        error = future.exception()
        if error is None:
            result = future.result()
            self.say("event", f"client: {what}: done" + (f", entry {result}" if result is not None else ""))
        else:
            self.say("event", f"client: {what}: {type(error).__name__}: {error}")

    def _begin(self, what: str, call: Coroutine[None, None, None]) -> None:
        task = self.loop.create_task(call)
        task.add_done_callback(lambda done: self._answered(what, done))
        self._tasks.append(task)

    def do_read(self, number: str) -> None:
        """A linearizable read by ReadIndex, for 5 s at the most."""
        self._begin(f"read at {number}", self.group(number).read_barrier(5.0))

    def do_add_learner(self, leader: str, number: str) -> None:
        member = self.nodes[int(number)].member
        self._ask(f"add {self.label(member)}", lambda: self.group(leader).add_learner(member))

    def do_promote(self, leader: str, number: str) -> None:
        member = self.nodes[int(number)].member
        self._ask(f"promote {self.label(member)}", lambda: self.group(leader).promote(member))

    def do_remove(self, leader: str, *numbers: str) -> None:
        """remove 1 3: leader 1 removes the member of node 3 that its configuration names."""
        for number in numbers:
            member = next(m for m in self.group(leader).configuration.members if m.node == int(number))
            self._ask(f"remove {self.label(member)}", partial(self.group(leader).remove, member))

    def do_transfer(self, leader: str, target: str = "") -> None:
        what = f"transfer to {target or 'the furthest'}"
        self._begin(what, self.group(leader).transfer(int(target) if target else None, 1.0))

    # --- looking --------------------------------------------------------------------------------------------

    def do_log(self, *numbers: str) -> None:
        """log 1 2: the log of each node as it has it, on disk or not."""
        for number in numbers or map(str, self.nodes):
            replication = self.group(number).replication
            self.say("event", f"{number}: {self.text.log(replication.log, replication.durable_index)}")

    def do_queue(self) -> None:
        for (source, target), queue in sorted(self.queues.items()):
            for message in queue:
                self.say("event", f"{source}>{target} waits: {self.text.message(message)}")

    def do_words(self, *numbers: str) -> None:
        """The state of each node: its words, and the payloads that its store has."""
        for number in numbers or map(str, self.nodes):
            node = self.nodes[int(number)]
            assert node.machine is not None
            words = " ".join(v.decode() for k, v in sorted(node.machine.rows.items()) if k != b"m")
            stored = {k: v.decode() for k, v in sorted(node.platter.current["log"].rows.items())}
            payloads = " ".join(f"{key.decode()}={value}" for key, value in stored.items())
            self.say("event", f"{number}: {words or 'no words'}; payloads {payloads or 'none'}")

    def do_wire(self) -> None:
        """Every kind of message as it is encoded."""
        for message in SAMPLES:
            self.say("event", f"{self.text.message(message)}: {encode_messages([message]).hex()}")

    def do_decode(self, data: str) -> None:
        try:
            messages = decode_messages(bytes.fromhex(data))
            self.say("event", "; ".join(self.text.message(message) for message in messages))
        except msgspec.DecodeError as error:
            self.say("event", f"{type(error).__name__}: {error}")

    def do_status(self, *numbers: str) -> None:
        for number in numbers or map(str, self.nodes):
            group = self.group(number)
            s = group.status()
            followers = "".join(f"; {f.node} {f.state} match {f.match} next {f.next}" for f in s.followers)
            members = self.text.configuration(group.configuration)
            self.say(
                "event",
                f"{number}: {s.role} term {s.term} leader {s.leader or 'unknown'}; log {s.first_index}..{s.last_index} "
                f"durable {s.durable} commit {s.commit} applied {s.applied}; {members}{followers}",
            )
