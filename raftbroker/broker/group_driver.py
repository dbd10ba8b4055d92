"""What runs beside a shard's consumer groups on the node that leads it: sessions, time-outs, targets, topics that go.

All of it is soft: a new leader gives every member its full time again. What a time-out means is proposed, and decided
when it is applied (`ExpireMembers` says how the member was when its time ran out).

Three times run out for a member: its session; the time to fetch its assignment once a generation was formed; and, in
KIP-848, the time to give up partitions. A member that waits for a rebalance to be complete is not expected to say
anything meanwhile: the rebalance has its own deadline, in the group's state.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Any

from consensus.errors import ConsensusError
from raftbroker.broker.context import Context
from raftbroker.broker.errors import BrokerError
from raftbroker.broker.group_options import GroupOptions
from raftbroker.broker.group_targets import TopicFinder, make_targets
from raftbroker.broker.group_timers import Timer, Timers
from raftbroker.broker.shards import Shards
from raftbroker.broker.topics import Topics
from raftbroker.state.groups.classic import ClassicGroup
from raftbroker.state.groups.consumer import ConsumerGroup
from raftbroker.state.groups.ops import ExpireMembers, ForgetTopics, Lapsed, ResumeRebalance
from raftbroker.state.groups.part import CHANGED, Groups
from raftbroker.state.groups.terms import Phase
from raftbroker.state.shard import Op

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How often topics are looked at, and how soon what could not be proposed is proposed again."""
OP_SECONDS = 5.0
SCAN_GROUPS = 200
"""Groups looked through for offsets of deleted topics in one turn of the loop."""

SESSION, SYNC, REVOKE = "session", "sync", "revoke"


class GroupDriver:
    """One shard's, while this node leads it."""

    def __init__(self, context: Context, shards: Shards, topics: Topics, options: GroupOptions, shard: int) -> None:
        self._context = context
        self._shards = shards
        self._topics = topics
        self._options = options
        self._shard = shard
        self._part = shards.part(shard, Groups)
        self._timers = Timers()
        self._finder = TopicFinder(context.control)
        self._generations: dict[str, int] = {}
        self._control_version = -1
        self._topic_ids: frozenset[str] = frozenset()
        self._part.changed = dict.fromkeys(self._part.groups)
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"consumer groups of shard {shard}")
        self._forgetting: asyncio.Task[None] | None = None

    def stop(self) -> list["asyncio.Task[None]"]:
        self._part.changed = None
        tasks = [task for task in (self._task, self._forgetting) if task is not None]
        for task in tasks:
            task.cancel()
        return tasks

    @property
    def part(self) -> Groups:
        return self._part

    # --- members let themselves be heard of ---------------------------------------------------------------

    def heard(self, group: str, member: str, session_ms: int) -> None:
        self._timers.set(Timer(SESSION, group, member), self._now() + session_ms / 1000)

    def synced(self, group: str, member: str) -> None:
        """The member has asked for its assignment."""
        self._timers.drop(Timer(SYNC, group, member))

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    # --- the work -----------------------------------------------------------------------------------------

    async def _run(self) -> None:
        resumed = False
        while True:
            try:
                if not resumed:
                    await self._submit(self._rebalances())
                    resumed = True
                await self._turn()
                await self._shards.changed(CHANGED, self._wake_at(), shard=self._shard)
            except (ConsensusError, BrokerError):  # about to be stopped, or too many wait
                await asyncio.sleep(LOOK_SECONDS)
            except Exception:
                log.exception("coordinating consumer groups of shard %d failed; it goes on", self._shard)
                await asyncio.sleep(LOOK_SECONDS)

    def _rebalances(self) -> list[ResumeRebalance]:
        return [
            ResumeRebalance(name)
            for name, group in self._part.groups.items()
            if group.classic is not None and group.classic.phase is Phase.PREPARING
        ]

    def _wake_at(self) -> float:
        now = self._now()
        if self._part.changed:
            return now
        due = self._timers.next()
        return min(now + LOOK_SECONDS, now + LOOK_SECONDS if due is None else due)

    async def _turn(self) -> None:
        changed, self._part.changed = self._part.changed or {}, {}
        for name in changed:
            self._look(name)
        stale = self._stale(changed)
        await self._submit([*stale, *self._expired(self._timers.run_out(self._now()))])

    async def _submit(self, ops: Sequence[Op[Any]]) -> None:
        """What cannot be decided now is found again by looking at its group again."""
        done = await asyncio.gather(
            *(self._shards.submit_here(op, OP_SECONDS, shard=self._shard) for op in ops), return_exceptions=True
        )
        failed: Exception | None = None
        for op, outcome in zip(ops, done, strict=True):
            if isinstance(outcome, Exception):
                failed = outcome
                if self._part.changed is not None:
                    self._part.changed[op.name] = None
        if failed is not None:
            log.info("shard %d: time-outs or targets of groups were not decided: %s", self._shard, failed)
            await asyncio.sleep(LOOK_SECONDS)

    # --- groups that have changed -------------------------------------------------------------------------

    def _look(self, name: str) -> None:
        """Gives its members the time they have from now on."""
        group = self._part.groups.get(name)
        if group is None:
            self._generations.pop(name, None)
        elif group.classic is not None:
            self._look_at_classic(name, group.classic)
        elif group.consumer is not None:
            self._generations.pop(name, None)
            self._look_at_consumer(name, group.consumer)

    def _look_at_classic(self, name: str, group: ClassicGroup) -> None:
        now = self._now()
        formed = self._generations.get(name) != group.row.generation
        self._generations[name] = group.row.generation
        for member in group.members.values():
            session = Timer(SESSION, name, member.id)
            if formed or session not in self._timers:
                self._timers.set(session, now + member.session_ms / 1000)
            if formed and group.phase is Phase.COMPLETING:
                self._timers.set(Timer(SYNC, name, member.id), now + member.rebalance_ms / 1000)
        for member_id, session_ms in group.pending.items():
            session = Timer(SESSION, name, member_id)
            if session not in self._timers:
                self._timers.set(session, now + session_ms / 1000)

    def _look_at_consumer(self, name: str, group: ConsumerGroup) -> None:
        now = self._now()
        for member in group.members.values():
            session, revoke = Timer(SESSION, name, member.id), Timer(REVOKE, name, f"{member.epoch} {member.id}")
            if session not in self._timers:
                self._timers.set(session, now + self._options.consumer_session_ms / 1000)
            if not member.revoking:
                self._timers.drop(revoke)
            elif revoke not in self._timers:
                self._timers.set(revoke, now + member.rebalance_ms / 1000)

    # --- time-outs ----------------------------------------------------------------------------------------

    def _expired(self, timers: list[Timer]) -> list[ExpireMembers]:
        lapsed: dict[str, dict[str, Lapsed]] = {}
        for timer in timers:
            group = self._part.groups.get(timer.group)
            if group is None:
                continue
            found = None
            if group.classic is not None:
                found = self._lapsed_classic(group.classic, timer)
            elif group.consumer is not None:
                found = self._lapsed_consumer(group.consumer, timer)
            if found is not None:
                log.info(
                    "consumer group %s: member %s has run out of its %s time", group.name, found.member_id, timer.kind
                )
                lapsed.setdefault(group.name, {})[found.member_id] = found
        return [ExpireMembers(name, tuple(members.values())) for name, members in lapsed.items()]

    def _lapsed_classic(self, group: ClassicGroup, timer: Timer) -> Lapsed | None:
        if timer.member in group.pending:
            return Lapsed(timer.member, 0)
        member = group.members.get(timer.member)
        if member is None:
            return None
        if group.has_joined(member):
            if timer.kind == SESSION:
                self.heard(timer.group, timer.member, member.session_ms)
            return None
        if timer.kind == SYNC and group.phase is Phase.PREPARING:
            return None
        return Lapsed(member.id, member.round)

    def _lapsed_consumer(self, group: ConsumerGroup, timer: Timer) -> Lapsed | None:
        if timer.kind == REVOKE:
            epoch, _, member_id = timer.member.partition(" ")
            member = group.members.get(member_id)
            if member is None or not member.revoking or member.epoch != int(epoch):
                return None
        else:
            member = group.members.get(timer.member)
        return Lapsed(member.id, member.epoch) if member is not None else None

    # --- topics -------------------------------------------------------------------------------------------

    def _stale(self, changed: Iterable[str]) -> list[Op[Any]]:
        """New targets for groups that have changed, or of all where topics have."""
        control = self._context.control
        names: Iterable[str] = changed
        if control.version != self._control_version:
            self._control_version = control.version
            names = self._part.groups
            self._forget_deleted()
        ops: list[Op[Any]] = []
        for name in names:
            group = self._part.groups.get(name)
            if group is not None and group.consumer is not None and group.consumer.members:
                op = make_targets(name, group.consumer, self._finder, control)
                if op is not None:
                    ops.append(op)
        return ops

    def _forget_deleted(self) -> None:
        """Offsets of topics that have been deleted go, some time later."""
        topic_ids = frozenset(topic.topic_id for topic in self._context.control.topics())
        gone = not self._topic_ids <= topic_ids or not self._topic_ids
        if gone and (self._forgetting is None or self._forgetting.done()):
            self._topic_ids = topic_ids
            self._forgetting = asyncio.get_running_loop().create_task(self._forget(), name="offsets of deleted topics")
        elif not gone:
            self._topic_ids = topic_ids

    async def _forget(self) -> None:
        """Only what the cluster says is gone counts, not this node's copy, which may be behind: so what is on disk is
        looked through first, and then the copy is brought up to date."""
        found: dict[str, set[str]] = {}
        for position, (name, group) in enumerate(list(self._part.groups.items())):
            for offset in group.offsets.committed.values():
                found.setdefault(offset.topic_id, set()).add(name)
            if position % SCAN_GROUPS == SCAN_GROUPS - 1:
                await asyncio.sleep(0)
        try:
            await self._topics.barrier(OP_SECONDS)
        except BrokerError as error:
            log.info("offsets of deleted topics are kept for now: %s", error)
            await asyncio.sleep(OP_SECONDS)
            self._topic_ids, self._control_version = frozenset(), -1
            return
        control = self._context.control
        gone: dict[str, list[str]] = {}
        for topic_id in sorted(topic_id for topic_id in found if control.topic_by_id(topic_id) is None):
            for name in found[topic_id]:
                gone.setdefault(name, []).append(topic_id)
        await self._submit([ForgetTopics(name, tuple(topic_ids)) for name, topic_ids in gone.items()])
        self._control_version = -1  # perhaps more topics have gone meanwhile
