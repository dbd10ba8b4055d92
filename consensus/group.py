"""One replica of one Raft group: election, replication, snapshots and the state machine, wired together.

Everything runs on the event loop, in single calls that never block: a message, a flush that completed, a tick, a
proposal. What must be durable before it leaves (votes, acknowledgements) waits for its ticket; what is committed
and durable here is applied, in order, once.

Invariants: `applied <= min(commit, durable)`; the machine's rows and the applied index are handed to the disk in one
batch; a proposal is appended in the very call that gives it its index, or refused (C10).
"""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Protocol

from consensus import changes
from consensus.commit import Committer
from consensus.election import ElectionTiming, Elector, Role
from consensus.errors import Busy, ChangeRefused, ConsensusError, Damaged, NotLeader, Refused, StoreFull, Unknown
from consensus.log import RaftLog
from consensus.machine import Machine
from consensus.messages import (
    Append,
    AppendReject,
    AppendReply,
    GroupMessage,
    Heartbeat,
    HeartbeatReply,
    PreVote,
    PreVoteReply,
    RequestVote,
    SnapshotGone,
    SnapshotOffer,
    SnapshotPiece,
    SnapshotPull,
    TimeoutNow,
    Vote,
)
from consensus.model import Configuration, Entry, EntryKind, HardState, LogBase, Member, Payload, encode_configuration
from consensus.replication import Replication, State
from consensus.snapshot import SnapshotReceiver, SnapshotSender
from consensus.status import FollowerStatus, GroupLimits, GroupStatus
from consensus.store import GroupImage, Install, KeyRange, Store
from consensus.waiting import Proposals, Thresholds

LOG = logging.getLogger(__name__)

APPLY_BYTES_MAX = 4 << 20
"""Entries applied in one go, so that a long replay leaves the loop to others in between."""
CAUGHT_UP_ENTRIES = 64
"""A learner that lacks no more than this may be promoted."""

_ELECTION = (PreVote, PreVoteReply, RequestVote, Vote, TimeoutNow)


class Surroundings(Protocol):
    """What a group needs of its node."""

    me: Member
    store: Store
    committer: Committer
    clock: Callable[[], float]
    random: random.Random

    def send(self, to: Member, message: GroupMessage) -> bool: ...

    def dirty(self, group: "Group") -> None:
        """`Group.turn` is to be called at the end of this loop turn."""

    def applied(self, group: "Group") -> None: ...

    def role_changed(self, group: "Group") -> None: ...

    def fatal(self, error: BaseException) -> None:
        """An invariant broke or durability is lost: the node stops."""


class Group:
    """One replica. Made by `Host.open_group`."""

    def __init__(
        self, around: Surroundings, image: GroupImage, machine: Machine, timing: ElectionTiming, limits: GroupLimits
    ) -> None:
        self.id = image.group
        self.machine = machine
        self.applied = image.applied
        self.damaged: str | None = None
        self._around = around
        self._limits = limits
        self._closed = False
        self._led = False
        self._ready = False
        self._reading = False
        self._held: list[tuple[int, Member, GroupMessage]] = []
        self._durable_ticket = 0
        self._vote_ticket = 0
        self._installing: tuple[int, Install] | None = None
        self._transferring: asyncio.Future[int] | None = None
        self._sizes: list[tuple[int, int]] = []
        self._sizes_sum = 0
        self.proposals = Proposals(self.id)
        self._applied_waits = Thresholds()
        self._round_waits = Thresholds()
        log = RaftLog(
            image.base,
            lambda first, last, size: around.store.entries(self.id, first, last, size),
            last_index=image.last_index,
            terms=image.terms,
            configurations=image.configurations,
            memory_bytes_max=limits.memory_bytes_max,
        )
        self.replication = Replication(
            self.id, around.me, log, image.hard_state.term, image.commit, self, limits.replication
        )
        machine.restore(image.state, image.applied)
        self._sender = SnapshotSender(self.id, lambda: around.store.open_snapshot(self.id), around.send, around.clock)
        self._receiver = SnapshotReceiver(self.id, self, around.clock)
        self.elector = Elector(
            self.id,
            around.me,
            log.configuration.voters,
            self,
            image.hard_state,
            timing,
            around.clock,
            around.random,
            self._send_election,
            self._persist,
            self._role_changed,
        )
        self.configured()

    # --- what others may look at ---

    @property
    def role(self) -> Role:
        return self.elector.role

    @property
    def term(self) -> int:
        return self.elector.term

    @property
    def leader(self) -> Member | None:
        return self.elector.leader

    @property
    def leading(self) -> bool:
        """Leads this term and has applied its own no-op, so it may propose and read."""
        return self._ready

    @property
    def installing(self) -> bool:
        """Switches to a snapshot: what is on the disk may be ahead of the machine's state."""
        return self._installing is not None

    @property
    def commit(self) -> int:
        return self.replication.commit

    @property
    def last_index(self) -> int:
        return self.replication.log.last_index

    @property
    def last_term(self) -> int:
        return self.replication.log.last_term

    @property
    def configuration(self) -> Configuration:
        return self.replication.log.configuration

    def status(self) -> GroupStatus:
        replication = self.replication
        return GroupStatus(
            self.id,
            self._around.me.node,
            self.role.name.lower() if self._around.me in self.configuration.voters else "learner",
            self.term,
            self.leader.node if self.leader else None,
            self.leading,
            self.configuration.voters,
            self.configuration.learners,
            replication.log.base.index + 1,
            self.last_index,
            replication.durable_index,
            self.commit,
            self.applied,
            tuple(
                FollowerStatus(member.node, p.match, p.next, p.state.value)
                for member, p in sorted(replication.followers.items())
            ),
            self.damaged,
        )

    # --- proposals, reads, changes ---

    def _not_leading(self) -> NotLeader:
        if self.damaged:
            return NotLeader(self.id, None, f"this node's replica is damaged: {self.damaged}")
        leader = self.leader.node if self.leader and self.leader != self._around.me else None
        reason = "elected, but not yet ready to serve" if self.replication.leading else ""
        return NotLeader(self.id, leader, reason)

    def propose(
        self, command: bytes, payloads: Sequence[Payload] = (), *, timeout: float, frees_space: bool = False
    ) -> "asyncio.Future[int]":
        """Appends in this very call, or raises: NotLeader, Busy, StoreFull (all Refused: nothing happened).

        The future ends with the entry's index once it is committed and applied here, with Refused where it was
        certainly discarded, and with Unknown after `timeout` seconds. `frees_space` passes the store's first bound.
        """
        return self._propose(EntryKind.COMMAND, command, tuple(payloads), timeout, frees_space)

    def _propose(
        self, kind: EntryKind, command: bytes, payloads: tuple[Payload, ...], timeout: float, frees_space: bool
    ) -> "asyncio.Future[int]":
        if not self._ready:
            raise self._not_leading()
        if self._transferring is not None:
            raise NotLeader(self.id, None, "leadership is being handed over")
        limits = self._limits
        if len(self.proposals) >= limits.proposals_max or self.proposals.bytes >= limits.proposal_bytes_max:
            raise Busy(f"group {self.id} has {len(self.proposals)} proposals in flight; try again in a moment")
        if self._around.store.full and not frees_space:
            raise StoreFull(f"the disk of node {self._around.me.node} is full: free space, or delete topics or records")
        entry = self.replication.append(kind, command, payloads)
        self._around.dirty(self)
        return self.proposals.add(entry, timeout)

    async def read_barrier(self, timeout: float) -> None:
        """Returns once everything acknowledged before the call is applied here (ReadIndex, C6).

        Raises NotLeader (nothing was promised) or Unknown (a majority did not answer in time)."""
        if not self._ready:
            raise self._not_leading()
        index = self.commit
        if self.configuration.majority > 1 or self._around.me not in self.configuration.voters:
            self._reading = True
            self._around.dirty(self)
            message = f"no majority of group {self.id} confirmed its leader within {timeout:.3f} s"
            await self._round_waits.add(self.replication.round + 1, timeout, message)
        await self.wait_applied(index, timeout)

    async def wait_applied(self, index: int, timeout: float) -> None:
        """Returns once entry `index` is applied here; raises Unknown after `timeout` seconds."""
        if self.applied < index:
            await self._applied_waits.add(index, timeout, f"entry {index} of group {self.id} was not applied in time")

    def caught_up(self, member: Member) -> bool:
        """Whether, as this leader knows, the member lacks next to nothing."""
        progress = self.replication.followers.get(member)
        return (
            progress is not None
            and progress.state is State.REPLICATE
            and progress.match >= max(self.last_index - CAUGHT_UP_ENTRIES, self.replication.noop_index)
        )

    def add_learner(self, member: Member, timeout: float = 10.0) -> "asyncio.Future[int]":
        """Raises NotLeader or ChangeRefused; so do `promote` and `remove` (C12)."""
        return self._change(changes.with_learner(self.configuration, member), timeout)

    def promote(self, member: Member, timeout: float = 10.0) -> "asyncio.Future[int]":
        promoted = changes.with_voter(self.configuration, member)
        if not self.caught_up(member):
            raise ChangeRefused(f"{member} has not caught up with group {self.id} yet")
        return self._change(promoted, timeout)

    def remove(self, member: Member, timeout: float = 10.0) -> "asyncio.Future[int]":
        return self._change(changes.without(self.configuration, member), timeout)

    def _change(self, configuration: Configuration, timeout: float) -> "asyncio.Future[int]":
        if self._ready and self.replication.log.configuration_index > self.commit:
            raise ChangeRefused(f"another change of group {self.id} is under way; one at a time")
        command = encode_configuration(configuration)
        return self._propose(EntryKind.CONFIGURATION, command, (), timeout, True)

    async def transfer(self, node: int | None, timeout: float) -> None:
        """Hands leadership to `node`, or to the voter that is furthest (C13). Returns once another leads.

        Raises NotLeader, or ChangeRefused when there is no such voter or it did not take over in time; then this
        leader goes on.
        """
        if not self._ready:
            raise self._not_leading()
        if self._transferring is not None:
            raise ChangeRefused(f"group {self.id} is being handed over already")
        target = self._transfer_target(node)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        self._transferring = loop.create_future()
        try:
            asked = False
            while self.elector.role is Role.LEADER and loop.time() < deadline:
                progress = self.replication.followers.get(target)
                if not asked and progress is not None and progress.match >= self.last_index:
                    asked = self._around.send(target, TimeoutNow(self.id, self.term))
                await asyncio.wait([self._transferring], timeout=0.002)
            if self.elector.role is Role.LEADER:
                raise ChangeRefused(f"node {target.node} did not take over group {self.id} within {timeout:.1f} s")
        finally:
            self._transferring = None

    def _transfer_target(self, node: int | None) -> Member:
        voters = [m for m in self.configuration.voters if m != self._around.me]
        if node is not None:
            voters = [m for m in voters if m.node == node]
        candidates = [(self.replication.followers[m].match, m) for m in voters if m in self.replication.followers]
        if not candidates:
            why = "it has no other voter" if node is None else f"node {node} is no other voter of it"
            nodes = ", ".join(str(m.node) for m in self.configuration.voters)
            raise ChangeRefused(f"group {self.id} cannot be handed over: {why}; its voters are on nodes {nodes}")
        return max(candidates)[1]

    # --- events ---

    def receive(self, source: Member, message: GroupMessage) -> None:
        """A message from a member, or from one that takes itself for it."""
        if self._closed or self.damaged:
            return
        if isinstance(message, _ELECTION):
            if not (self._installing and isinstance(message, TimeoutNow)):
                self.elector.receive(source, message)
        elif isinstance(message, Append | Heartbeat | SnapshotOffer):
            self._from_leader(source, message)
        elif message.term > self.term:
            self.elector.heard_term(source, message.term)
        elif message.term == self.term:
            self._in_term(source, message)
        self._around.dirty(self)

    def _from_leader(self, source: Member, message: Append | Heartbeat | SnapshotOffer) -> None:
        if message.term < self.term:
            self._around.send(source, HeartbeatReply(self.id, self.term, 0))
            return
        self.elector.heard_leader(source, message.term)
        if self.elector.leader != source or self.term != message.term:
            return
        self.replication.follow(source)
        if isinstance(message, Heartbeat):
            self.replication.on_heartbeat(message)
        elif self._installing is not None:
            return
        elif isinstance(message, Append):
            last = (self.last_index, self.last_term)
            self.replication.on_append(message)
            if self._receiver.active and last != (self.last_index, self.last_term):
                self._receiver.stop()
        elif not self.replication.already_has(message.index, message.index_term) and self._saved:
            self._receiver.on_offer(source, message)

    def _in_term(self, source: Member, message: GroupMessage) -> None:
        if isinstance(message, AppendReply | AppendReject | HeartbeatReply):
            self.elector.heard_reply(source)
        if isinstance(message, AppendReply):
            self.replication.on_append_reply(source, message)
        elif isinstance(message, AppendReject):
            self.replication.on_append_reject(source, message)
        elif isinstance(message, HeartbeatReply):
            self.replication.on_heartbeat_reply(source, message)
            self._round_waits.reached(self.replication.quorum_round())
        elif isinstance(message, SnapshotPull):
            self._sender.on_pull(source, self.term, message)
        elif isinstance(message, SnapshotPiece) and self._installing is None:
            self._receiver.on_piece(source, message)
        elif isinstance(message, SnapshotGone):
            self._receiver.on_gone(source, message)

    def tick(self, heartbeat: bool) -> None:
        """Time has passed; `heartbeat` where one is due."""
        if self._closed or self.damaged:
            return
        if self._installing is None:
            self.elector.tick()
        if self.replication.leading:
            if heartbeat:
                self.replication.heartbeat()
                self._offer_snapshots()
            else:
                self.replication.tell_commit()
            self._sender.tick()
        else:
            self._receiver.tick()

    def turn(self) -> None:
        """The end of a loop turn in which something happened: send what followers lack, apply what may be."""
        if self._closed or self.damaged:
            return
        if self._reading:
            self._reading = False
            self.replication.heartbeat()
        else:
            self.replication.flush()
        self._offer_snapshots()
        self._apply()

    def _offer_snapshots(self) -> None:
        wanted, self.replication.snapshot_wanted = self.replication.snapshot_wanted, set()
        for member in wanted:
            match = self.replication.followers[member].match
            self._sender.offer(member, self.term, self.replication.log, match)

    def durable(self, ticket: int) -> None:
        """The batch `ticket` is on disk."""
        if self._closed:
            return
        self._durable_ticket = ticket
        if self._held:
            ready = [held for held in self._held if held[0] <= ticket]
            self._held = [held for held in self._held if held[0] > ticket]
            for _, member, message in ready:
                self._around.send(member, message)
        if self._installing is not None and self._installing[0] <= ticket:
            self._installed(self._installing[1])
        self.replication.durable(ticket)
        self._around.dirty(self)

    def peer_disconnected(self, member: Member) -> None:
        self.replication.peer_lost(member)
        if self.leader == member:
            self.elector.leader_lost()
        self._around.dirty(self)

    def peer_connected(self, member: Member) -> None:
        self.replication.peer_lost(member)
        self._around.dirty(self)

    def close(self) -> None:
        """Ends this replica's part; what waits is told that its outcome is unknown."""
        self._closed = True
        self._fail_waits(Refused(f"node {self._around.me.node} is stopping"))
        self.elector.stop()
        self._sender.close()
        self._receiver.stop()

    def _fail_waits(self, refused: ConsensusError) -> None:
        self.proposals.fail(Unknown(f"{refused}; whether the entry is committed is not known"))
        self._applied_waits.fail(refused)
        self._round_waits.fail(refused)

    def damage(self, error: Damaged) -> None:
        """This replica holds bytes that are not what was written: it takes no further part (C8)."""
        if self.damaged:
            return
        self.damaged = str(error)
        LOG.error("group %d leaves its members, its data here is damaged: %s", self.id, error)
        self.elector.step_down()
        self._role_changed()
        self._fail_waits(self._not_leading())

    # --- the ports that election, replication and snapshots see ---

    def lead(self, term: int) -> None:
        """From the elector, in the call that makes this node leader."""
        self._led = True
        self.replication.lead(term)

    def _persist(self, hard_state: HardState) -> None:
        write, ticket = self._around.committer.pending(self.id)
        write.hard_state = hard_state
        self._vote_ticket = ticket
        self._receiver.stop()
        self.replication.term_saved(hard_state.term, ticket)

    def _send_election(self, to: Member, message: GroupMessage) -> None:
        if isinstance(message, Vote | RequestVote) and self._durable_ticket < self._vote_ticket:
            self._held.append((self._vote_ticket, to, message))
        else:
            self._around.send(to, message)

    def _role_changed(self) -> None:
        if self.elector.role is not Role.LEADER:
            if self._led:
                self._led = False
                self.replication.follow(self.elector.leader)
                self._sender.close()
                self._round_waits.fail(self._not_leading())
                if self._transferring is not None and not self._transferring.done():
                    self._transferring.set_result(0)
            if self._ready:
                self._ready = False
                self.machine.unled()
        if not self._closed:
            self._around.role_changed(self)
            self._around.dirty(self)

    def send(self, to: Member, message: GroupMessage) -> bool:
        return self._around.send(to, message)

    def save(self, truncate_from: int | None, entries: Sequence[Entry]) -> int:
        write, ticket = self._around.committer.pending(self.id)
        if truncate_from is not None:
            write.entries = [entry for entry in write.entries if entry.index < truncate_from]
            before = write.truncate_from
            write.truncate_from = truncate_from if before is None else min(before, truncate_from)
            while self._sizes and self._sizes[-1][0] >= truncate_from:
                self._sizes_sum -= self._sizes.pop()[1]
        write.entries.extend(entries)
        for entry in entries:
            self._sizes.append((entry.index, entry.size))
            self._sizes_sum += entry.size
        return ticket

    def configured(self) -> None:
        """A voter whose removal is not yet committed still campaigns, or a group of two could be left with no one who
        may (dissertation, 4.2.2)."""
        me, voters = self._around.me, self.configuration.voters
        since = self.replication.log.configurations_since(self.commit)
        leaving = me not in voters and any(me in configuration.voters for configuration in since)
        self.elector.set_voters(voters, being_removed=leaving)

    # --- applying ---

    def _apply(self) -> None:
        """Applies what is committed and on this disk: what can be read here is what the machine says is here."""
        replication = self.replication
        through = min(replication.commit, replication.durable_index)
        if through <= self.applied or self._installing is not None:
            return
        try:
            entries = replication.log.entries(self.applied + 1, through, APPLY_BYTES_MAX)
        except Damaged as error:
            self.damage(error)
            return
        applied = self.machine.apply([entry for entry in entries if entry.kind == EntryKind.COMMAND])
        self.applied = entries[-1].index
        write = self._around.committer.pending_lazily(self.id)
        write.state.update(applied.rows)
        if applied.delete_payloads:
            write.delete_payloads.extend(applied.delete_payloads)
        write.applied = self.applied
        write.commit = replication.commit
        self._compact()
        self.proposals.applied(entries)
        self._applied_waits.reached(self.applied)
        if any(entry.kind == EntryKind.CONFIGURATION for entry in entries):
            self._configuration_applied()
        if replication.leading and not self._ready and self.applied >= replication.noop_index:
            self._ready = True
            self.machine.led(self.term)
            self._around.role_changed(self)
        self._around.applied(self)
        if self.applied < through:
            self._around.dirty(self)

    def _configuration_applied(self) -> None:
        """A leader that is no voter any more goes, once that is committed (C12)."""
        self.configured()
        settled = self.replication.log.configuration_index <= self.applied
        if self.elector.role is Role.LEADER and settled and self._around.me not in self.configuration.voters:
            self.elector.step_down()

    def _compact(self) -> None:
        log = self.replication.log
        log.trim_memory(min(self.applied, self.replication.durable_index))
        many = self.applied - log.base.index > self._limits.log_entries_max
        if not many and self._sizes_sum <= self._limits.log_bytes_max:
            return
        through = self.applied - self._limits.log_entries_max // 2 if many else log.base.index
        kept = self._sizes_sum
        for index, size in self._sizes:
            if index > self.applied or (index > through and kept <= self._limits.log_bytes_max // 2):
                break
            kept -= size
            through = max(through, index)
        if through > log.base.index:
            self._around.committer.pending_lazily(self.id).drop_through = log.drop_through(through)
            gone = next((i for i, (index, _) in enumerate(self._sizes) if index > through), len(self._sizes))
            self._sizes_sum -= sum(size for _, size in self._sizes[:gone])
            del self._sizes[:gone]

    # --- the snapshot receiver's ports ---

    @property
    def _saved(self) -> bool:
        """Whether nothing of this group's log is on its way to the disk."""
        return self.replication.durable_index == self.last_index

    def digests(self, keys: Sequence[bytes]) -> dict[bytes, tuple[int, int]]:
        return self._around.store.payload_digests(keys)

    def diverged(self, covered: Sequence[KeyRange], listed: dict[bytes, tuple[int, int]]) -> None:
        replication = self.replication
        first = replication.commit + 1
        while first <= self.last_index:
            entries = replication.log.entries(first, self.last_index, APPLY_BYTES_MAX)
            for entry in entries:
                for payload in entry.payloads:
                    within = any(low <= payload.key < high for low, high in covered)
                    if within and listed.get(payload.key) != (len(payload.data), payload.crc):
                        replication.truncate_divergent(entry.index)
                        return
            first = entries[-1].index + 1

    def keep(self, payloads: Sequence[Payload]) -> None:
        write, _ = self._around.committer.pending(self.id)
        write.payloads.extend(payloads)

    def ranges_of(self, rows: dict[bytes, bytes]) -> list[KeyRange]:
        return self.machine.ranges_of(rows)

    def install(self, offer: SnapshotOffer, rows: dict[bytes, bytes], ranges: list[KeyRange]) -> None:
        if offer.index <= self.commit or offer.term != self.term:
            return
        base = LogBase(offer.index, offer.index_term, offer.configuration)
        install = Install(base, rows, tuple(ranges), tuple(self.machine.payload_ranges()))
        write, ticket = self._around.committer.pending(self.id)
        write.install = install
        write.applied, write.state, write.drop_through, write.commit = None, {}, None, None
        assert not write.entries, "a snapshot is pulled only while nothing of the log is on its way to the disk"
        self._installing = (ticket, install)
        LOG.info("group %d switches to a snapshot at entry %d", self.id, offer.index)

    def _installed(self, install: Install) -> None:
        """The switch is on disk: log, state and commit index follow it."""
        self._installing = None
        base = install.base
        self.replication.log.reset(base)
        self._sizes, self._sizes_sum = [], 0
        self.applied = base.index
        self.machine.restore(install.state, base.index)
        self.configured()
        self.proposals.skipped(base.index)
        self.replication.installed(base.index)
        self._applied_waits.reached(base.index)
        self._around.applied(self)
