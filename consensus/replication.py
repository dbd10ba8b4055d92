"""Log replication for one Raft group: a pure state machine (Raft, sections 5.3 to 6; dissertation, chapters 3, 4, 6).

Election is not here: `election.Elector` says which term it is and who leads. This file decides what a message, a
completed flush or a proposal does to the log, the commit index and the followers. Effects leave through the
`Ports` handed in: `send` (a message, now), `save` (log changes, to the disk) and `configured`; the owner looks at
`commit` after each call.

The contract is persist, then send, then apply. An acknowledgement leaves only when everything it promises is
durable, the term included (C1); it counts once, from a voter, in its own term (C2); what matches is never dropped,
and nothing at or below the commit index is ever truncated (C3).
"""

from collections import deque
from collections.abc import Sequence
from enum import Enum
from typing import Protocol

import msgspec

from consensus.errors import EntriesGone, InvariantBroken
from consensus.log import RaftLog
from consensus.messages import Append, AppendReject, AppendReply, GroupMessage, Heartbeat, HeartbeatReply
from consensus.model import Entry, EntryKind, Member, Payload


class Limits(msgspec.Struct, frozen=True):
    """Bounds of replication, in bytes."""

    message_bytes_max: int = 1 << 20
    """Entries of one append message, unless a single entry is larger."""
    inflight_bytes_max: int = 16 << 20
    """Sent to one follower and not yet acknowledged (C4)."""


class Ports(Protocol):
    """Where the effects go."""

    def send(self, to: Member, message: GroupMessage) -> bool:
        """False where the message certainly does not leave."""

    def save(self, truncate_from: int | None, entries: Sequence[Entry]) -> int:
        """Hands log changes to the disk, in order, and answers the ticket that `durable` will name."""

    def configured(self) -> None:
        """Another configuration is in force."""


class State(Enum):
    PROBE = "probe"
    """Where the logs part is not known: one empty append at a time."""
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"
    """The follower needs what the log no longer holds."""


class Progress:
    """What the leader knows of one follower."""

    __slots__ = ("asked", "commit_sent", "inflight", "inflight_bytes", "match", "next", "round", "state")

    def __init__(self, next_index: int) -> None:
        self.match = 0
        self.next = next_index
        self.state = State.REPLICATE
        self.asked = False
        """In PROBE: a probe is under way. In SNAPSHOT: an offer is."""
        self.inflight: deque[tuple[int, int]] = deque()
        self.inflight_bytes = 0
        self.round = 0
        self.commit_sent = 0

    def become(self, state: State, next_index: int | None = None) -> None:
        self.state = state
        self.asked = False
        self.inflight.clear()
        self.inflight_bytes = 0
        self.next = max(self.match + 1, self.next if next_index is None else next_index)

    def sent(self, last_index: int, size: int) -> None:
        self.inflight.append((last_index, size))
        self.inflight_bytes += size
        self.next = last_index + 1

    def acknowledged(self, match: int) -> None:
        self.match = max(self.match, match)
        while self.inflight and self.inflight[0][0] <= self.match:
            self.inflight_bytes -= self.inflight.popleft()[1]
        self.next = max(self.next, self.match + 1)


class Replication:
    """One replica's share in one group."""

    def __init__(self, group: int, me: Member, log: RaftLog, term: int, commit: int, ports: Ports, limits: Limits):
        self.group = group
        self.me = me
        self.log = log
        self.term = term
        self.commit = commit
        self.durable_index = log.last_index
        """Entries up to here are on this node's disk."""
        self.leader: Member | None = None
        self.leading = False
        self.noop_index = 0
        self.matched = 0
        """As a follower: the log is equal to this term's leader's up to here."""
        self.round = 0
        self.followers: dict[Member, Progress] = {}
        self.snapshot_wanted: set[Member] = set()
        self._ports = ports
        self._limits = limits
        self._saving: deque[tuple[int, int]] = deque()
        self._ticket_last = 0
        self._ticket_durable = 0
        self._term_ticket = 0
        self._reply_due = False

    # --- what the election tells ---

    @property
    def last_index(self) -> int:
        return self.log.last_index

    @property
    def last_term(self) -> int:
        return self.log.last_term

    def term_saved(self, term: int, ticket: int) -> None:
        """The term (or the vote in it) has been handed to the disk under `ticket`."""
        if term < self.term:
            raise InvariantBroken(f"group {self.group}: term went back from {self.term} to {term}")
        self._term_ticket = self._ticket_last = ticket
        if term > self.term:
            self.term = term
            self.follow(None)

    def follow(self, leader: Member | None) -> None:
        """Follow `leader` in the current term; None while it is not known."""
        if leader == self.leader and not self.leading:
            return
        self.leader = leader
        self.leading = False
        self.matched = 0
        self._reply_due = False
        self.followers = {}
        self.snapshot_wanted = set()

    def lead(self, term: int) -> None:
        """This node was elected in `term`: the no-op that commits what earlier terms left is appended at once."""
        if term != self.term:
            raise InvariantBroken(f"group {self.group}: elected in term {term} while in {self.term}")
        self.leader = self.me
        self.leading = True
        self.matched = 0
        self.snapshot_wanted = set()
        next_index = self.log.last_index + 1
        self.followers = {m: Progress(next_index) for m in self.log.configuration.members if m != self.me}
        self.noop_index = self.append(EntryKind.NOOP, b"").index

    # --- the leader's log ---

    def append(self, kind: EntryKind, command: bytes, payloads: tuple[Payload, ...] = ()) -> Entry:
        """Appends one entry of the current term; `flush` sends it. The caller has checked that it may."""
        if not self.leading:
            raise InvariantBroken(f"group {self.group}: only a leader appends")
        entry = Entry.of(self.term, self.log.last_index + 1, kind, command, payloads)
        self._save(None, (entry,))
        return entry

    def _save(self, truncate_from: int | None, entries: Sequence[Entry]) -> None:
        before = self.log.configuration
        if truncate_from is not None:
            if truncate_from <= self.commit:
                raise InvariantBroken(
                    f"group {self.group}: truncation from {truncate_from} would drop committed entries (commit "
                    f"{self.commit}): this node's log or its leader's is not what was written"
                )
            self.log.truncate_from(truncate_from)
            kept = truncate_from - 1
            self._saving = deque((ticket, min(last, kept)) for ticket, last in self._saving)
            self.durable_index = min(self.durable_index, kept)
            self.matched = min(self.matched, kept)
        self.log.append(tuple(entries))
        self._ticket_last = self._ports.save(truncate_from, entries)
        self._saving.append((self._ticket_last, self.log.last_index))
        if self.log.configuration != before:
            self._configure()

    def _configure(self) -> None:
        if self.leading:
            members = [m for m in self.log.configuration.members if m != self.me]
            old = self.followers
            self.followers = {m: old.get(m) or Progress(self.log.last_index + 1) for m in members}
            self.snapshot_wanted &= set(members)
            for member in members:
                if member not in old:
                    self.followers[member].become(State.PROBE)
        self._ports.configured()

    def durable(self, ticket: int) -> None:
        """Everything saved up to `ticket` is on this node's disk."""
        self._ticket_durable = max(self._ticket_durable, ticket)
        while self._saving and self._saving[0][0] <= ticket:
            self.durable_index = self._saving.popleft()[1]
        if self.leading:
            self._advance_commit()
        elif self._reply_due:
            self._reply()

    def installed(self, index: int) -> None:
        """The log was replaced by a snapshot at `index`, durably; `log` has been reset to it already."""
        self.commit = self.durable_index = index
        self.matched = max(self.matched, index) if self.leader is not None else 0
        self._saving.clear()
        self._reply_due = self.leader is not None and not self.leading
        if self._reply_due:
            self._reply()

    # --- following ---

    def on_append(self, message: Append) -> None:
        """An append of the current term from its leader (the election has accepted both)."""
        log = self.log
        entries = message.entries
        for offset, entry in enumerate(entries, message.prev_index + 1):
            if entry.index != offset or entry.term > message.term or not entry.sound:
                raise ValueError(f"entry {entry.index} of an append at {message.prev_index} is not what was sent")
        known = log.term_at(message.prev_index)
        if known is None and message.prev_index > log.last_index:
            self._reject(message.prev_index, log.last_index)
            return
        if known is not None and known != message.prev_term:
            if message.prev_index <= self.commit:
                raise InvariantBroken(f"group {self.group}: committed entry {message.prev_index} has another term")
            self._reject(message.prev_index, log.last_at_or_below_term(message.prev_index - 1, message.prev_term))
            return
        fresh = self._first_new(entries)
        if fresh < len(entries):
            first = entries[fresh].index
            self._save(first if first <= log.last_index else None, entries[fresh:])
        self.matched = max(self.matched, message.prev_index + len(entries))
        self._commit_to(min(message.commit, self.matched))
        self._reply_due = True
        if self.durable_index >= self.matched:
            self._reply()

    def _first_new(self, entries: tuple[Entry, ...]) -> int:
        """Position of the first entry that is not in the log yet: what matches is kept (C3)."""
        for position, entry in enumerate(entries):
            if entry.index <= self.log.base.index:
                continue
            if self.log.term_at(entry.index) != entry.term:
                return position
        return len(entries)

    def _reject(self, rejected: int, hint: int) -> None:
        if self.leader is not None:
            term = self.log.term_at(hint)
            self._ports.send(self.leader, AppendReject(self.group, self.term, rejected, hint, term or 0))

    def _reply(self) -> None:
        """Acknowledges what is durable, if the term is, too; what is not yet follows with its flush."""
        if self.leader is None or self._ticket_durable < self._term_ticket:
            return
        match = min(self.matched, self.durable_index)
        self._ports.send(self.leader, AppendReply(self.group, self.term, match))
        self._reply_due = match < self.matched

    def on_heartbeat(self, message: Heartbeat) -> None:
        """Answers at once, whatever the disk does; commits no more than is known to match (C1, C3)."""
        if self.leader is not None:
            self._ports.send(self.leader, HeartbeatReply(self.group, self.term, message.round))
        self._commit_to(min(message.commit, self.matched))

    def truncate_divergent(self, index: int) -> None:
        """Drops the uncommitted tail from `index`, whose payload is proven to differ from a committed one."""
        self._save(index, ())

    def already_has(self, index: int, term: int) -> bool:
        """Whether a snapshot at (index, term) brings nothing: what is below it is here, and acknowledged again."""
        if index > self.commit and self.log.term_at(index) != term:
            return False
        self.matched = max(self.matched, min(self.commit, self.log.last_index))
        if self.log.term_at(index) == term:
            self.matched = max(self.matched, index)
            self._commit_to(index)
        self._reply_due = True
        self._reply()
        return True

    # --- leading ---

    def on_append_reply(self, source: Member, message: AppendReply) -> None:
        progress = self.followers.get(source)
        if not self.leading or progress is None or message.term != self.term:
            return
        if message.match > self.log.last_index:
            raise InvariantBroken(f"group {self.group}: {source} acknowledges {message.match}, which was never sent")
        progress.acknowledged(message.match)
        if progress.state is State.PROBE or (
            progress.state is State.SNAPSHOT and message.match >= self.log.base.index and progress.match > 0
        ):
            self.snapshot_wanted.discard(source)
            progress.become(State.REPLICATE)
        self._advance_commit()

    def on_append_reject(self, source: Member, message: AppendReject) -> None:
        progress = self.followers.get(source)
        if not self.leading or progress is None or message.term != self.term:
            return
        stale = message.rejected <= progress.match or progress.state is State.SNAPSHOT
        if stale or (progress.state is State.PROBE and message.rejected != progress.next - 1):
            return
        below = self.log.last_at_or_below_term(min(message.hint_index, message.rejected - 1), message.hint_term)
        if message.hint_index < self.log.base.index:
            below = message.hint_index
        progress.become(State.PROBE, below + 1)

    def on_heartbeat_reply(self, source: Member, message: HeartbeatReply) -> None:
        progress = self.followers.get(source)
        if self.leading and progress is not None and message.term == self.term:
            progress.round = max(progress.round, min(message.round, self.round))

    def peer_lost(self, member: Member) -> None:
        """Its connection broke: what was under way may not have arrived."""
        progress = self.followers.get(member)
        if progress is not None and progress.state is State.REPLICATE:
            progress.become(State.PROBE, progress.match + 1)
        elif progress is not None:
            progress.asked = False

    @property
    def _may_speak(self) -> bool:
        """Leads, in a term that is on disk: a single voter is elected in the call that begins the term (C1)."""
        return self.leading and self._ticket_durable >= self._term_ticket

    def flush(self) -> None:
        """Sends every follower what it lacks, as far as the bounds let; called once per loop turn."""
        if self._may_speak:
            for member, progress in self.followers.items():
                self._flush_one(member, progress)

    def _flush_one(self, member: Member, progress: Progress) -> None:
        if progress.state is State.PROBE and not progress.asked:
            progress.asked = self._probe(member, progress)
        while progress.state is State.REPLICATE and progress.next <= self.log.last_index:
            if progress.inflight_bytes >= self._limits.inflight_bytes_max:
                return
            previous_term = self.log.term_at(progress.next - 1)
            try:
                if previous_term is None:
                    raise EntriesGone("below the base")
                entries = self.log.entries(progress.next, self.log.last_index, self._limits.message_bytes_max)
            except EntriesGone:
                self._want_snapshot(member, progress)
                return
            message = Append(self.group, self.term, progress.next - 1, previous_term, tuple(entries), self.commit)
            if not self._ports.send(member, message):
                progress.become(State.PROBE, progress.match + 1)
                return
            progress.sent(entries[-1].index, sum(entry.size for entry in entries))
            progress.commit_sent = self.commit

    def _probe(self, member: Member, progress: Progress) -> bool:
        term = self.log.term_at(progress.next - 1)
        if term is None:
            self._want_snapshot(member, progress)
            return True
        return self._ports.send(member, Append(self.group, self.term, progress.next - 1, term, (), self.commit))

    def _want_snapshot(self, member: Member, progress: Progress) -> None:
        progress.become(State.SNAPSHOT)
        self.snapshot_wanted.add(member)

    def heartbeat(self) -> None:
        """One round to every member; also asks again where an answer is overdue. Called every heartbeat interval."""
        if not self._may_speak:
            return
        self.round += 1
        for member, progress in self.followers.items():
            progress.commit_sent = min(self.commit, progress.match)
            self._ports.send(member, Heartbeat(self.group, self.term, progress.commit_sent, self.round))
            if progress.state is State.REPLICATE and progress.inflight:
                self._probe(member, progress)
            elif progress.state is State.PROBE:
                progress.asked = False
            elif progress.state is State.SNAPSHOT:
                self.snapshot_wanted.add(member)
        self.flush()

    def tell_commit(self) -> None:
        """Lets followers know of a commit that no append has carried yet. Called every tick."""
        if not self._may_speak:
            return
        for member, progress in self.followers.items():
            known = min(self.commit, progress.match)
            if progress.commit_sent < known:
                progress.commit_sent = known
                self._ports.send(member, Heartbeat(self.group, self.term, known, self.round))

    def quorum_round(self) -> int:
        """The latest heartbeat round that a majority of voters, this one counted, has answered (C6)."""
        rounds = sorted(
            (self.round if m == self.me else self._followed(m).round for m in self.log.configuration.voters),
            reverse=True,
        )
        return rounds[self.log.configuration.majority - 1] if rounds else 0

    def _followed(self, member: Member) -> Progress:
        return self.followers.get(member) or Progress(1)

    def _advance_commit(self) -> None:
        """A majority of voters' durable indexes; entries of the current term only (C1; Raft, 5.4.2)."""
        if not self.leading:
            return
        configuration = self.log.configuration
        matches = sorted(
            (self.durable_index if m == self.me else self._followed(m).match for m in configuration.voters),
            reverse=True,
        )
        if not matches:
            return
        index = matches[configuration.majority - 1]
        if index > self.commit and self.log.term_at(index) == self.term:
            self.commit = index

    def _commit_to(self, index: int) -> None:
        if index > self.log.last_index:
            raise InvariantBroken(f"group {self.group}: commit {index} beyond the log's end {self.log.last_index}")
        self.commit = max(self.commit, index)
