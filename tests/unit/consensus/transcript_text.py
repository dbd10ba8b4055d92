"""How messages, writes and logs read in a golden transcript: one line each, with all that matters in it.

An entry is index/term and what it holds: `3/1 "x"`. A member is its node's number, with a prime for each directory
that node has lost.
"""

from collections.abc import Callable, Sequence

from consensus.log import RaftLog
from consensus.messages import (
    PULL_MANIFEST,
    PULL_PAYLOADS,
    PULL_STATE,
    Append,
    AppendReject,
    AppendReply,
    GroupMessage,
    Heartbeat,
    HeartbeatReply,
    Message,
    PreVote,
    PreVoteReply,
    Request,
    RequestVote,
    Response,
    SnapshotGone,
    SnapshotOffer,
    SnapshotPiece,
    SnapshotPull,
    TimeoutNow,
    Vote,
)
from consensus.model import Configuration, Entry, EntryKind, Member, Payload, decode_configuration
from consensus.store import KeyRange, Write

_ONE, _TWO = Member(1, f"{100:032x}"), Member(2, f"{200:032x}")
_PAYLOAD = Payload.of(b"r000", b"x")
_ENTRY = Entry.of(2, 4, EntryKind.COMMAND, b"x", (_PAYLOAD,))
SAMPLES: tuple[Message, ...] = (
    PreVote(1, 2, 3, 1),
    PreVoteReply(1, 1, 2, True),
    RequestVote(1, 2, 3, 1, False),
    Vote(1, 2),
    TimeoutNow(1, 2),
    Append(1, 2, 3, 1, (_ENTRY,), 3),
    AppendReply(1, 2, 4),
    AppendReject(1, 2, 3, 1, 1),
    Heartbeat(1, 2, 3, 7),
    HeartbeatReply(1, 2, 7),
    SnapshotOffer(1, 2, (2 << 24) | 1, 3, 1, Configuration((_ONE,), (_TWO,))),
    SnapshotPull(1, 2, (2 << 24) | 1, 1, PULL_STATE, b"w000", (), ()),
    SnapshotPull(1, 2, (2 << 24) | 1, 2, PULL_MANIFEST, None, ((b"r000", b"r001"),), ()),
    SnapshotPull(1, 2, (2 << 24) | 1, 3, PULL_PAYLOADS, None, (), (b"r000",)),
    SnapshotPiece(1, 2, (2 << 24) | 1, 3, PULL_PAYLOADS, (), (), (_PAYLOAD,), False, 0),
    SnapshotGone(1, 2, (2 << 24) | 1),
    Request(1, "formation.get.1", b"", 2000),
    Response(1, "", b"answer"),
)
"""One message of every kind, and more where kinds have kinds."""

Label = Callable[[Member], str]


class Text:
    """`label` names a member."""

    def __init__(self, label: Label) -> None:
        self.label = label

    def configuration(self, configuration: Configuration) -> str:
        voters = " ".join(self.label(m) for m in configuration.voters) or "none"
        learners = " ".join(self.label(m) for m in configuration.learners)
        return f"voters {voters}" + (f", learners {learners}" if learners else "")

    def entry(self, entry: Entry) -> str:
        what = "noop"
        if entry.kind == EntryKind.COMMAND:
            what = f'"{entry.command.decode(errors="replace")}"'
        elif entry.kind == EntryKind.CONFIGURATION:
            what = f"({self.configuration(decode_configuration(entry.command))})"
        return f"{entry.index}/{entry.term} {what}"

    def entries(self, entries: Sequence[Entry]) -> str:
        return ", ".join(self.entry(entry) for entry in entries) or "nothing"

    def log(self, log: RaftLog, durable: int) -> str:
        entries: list[Entry] = []
        while log.base.index + len(entries) < log.last_index:
            entries += log.entries(log.base.index + len(entries) + 1, log.last_index, 1 << 30)
        return f"after {log.base.index}/{log.base.term}: {self.entries(entries)}; durable {durable}"

    # --- messages -------------------------------------------------------------------------------------------

    def message(self, message: Message) -> str:
        if isinstance(message, GroupMessage):
            detail = self._detail(message)
            return f"{type(message).__name__} term {message.term}{', ' + detail if detail else ''}"
        if isinstance(message, Request):
            return f"Request {message.method}"
        return type(message).__name__

    def _detail(self, message: GroupMessage) -> str:
        match message:
            case PreVote(last_index=index, last_term=term):
                return f"log ends at {index}/{term}"
            case PreVoteReply(asked=asked, granted=granted):
                return f"asked about term {asked}: {'yes' if granted else 'no'}"
            case RequestVote(last_index=index, last_term=term, transfer=transfer):
                return f"log ends at {index}/{term}{', for a transfer' if transfer else ''}"
            case Append():
                after = f"after {message.prev_index}/{message.prev_term}"
                return f"{after}: {self.entries(message.entries)}; commit {message.commit}"
            case AppendReply(match=match):
                return f"match {match}"
            case AppendReject():
                return f"not {message.rejected}, perhaps {message.hint_index}/{message.hint_term}"
            case Heartbeat(commit=commit, round=number):
                return f"round {number}, commit {commit}"
            case HeartbeatReply(round=number):
                return f"round {number}"
        return self._snapshot_detail(message)

    def _snapshot_detail(self, message: GroupMessage) -> str:
        match message:
            case SnapshotOffer():
                at = f"{message.index}/{message.index_term}"
                return f"{snapshot(message.snapshot)} at {at}, {self.configuration(message.configuration)}"
            case SnapshotPull():
                head = f"{snapshot(message.snapshot)} pull {message.pull}: "
                if message.kind == PULL_STATE:
                    return head + "state" + (f" after {message.after.decode()}" if message.after else "")
                if message.kind == PULL_MANIFEST:
                    return head + "manifest of " + ranges(message.ranges)
                return head + "payloads " + " ".join(key.decode() for key in message.keys)
            case SnapshotPiece():
                found = [f"{key.decode()}={value.decode()}" for key, value in message.rows]
                found += [f"{key.decode()} ({length} bytes)" for key, length, _ in message.manifest]
                found += [f"{p.key.decode()}={p.data.decode()}" for p in message.payloads]
                more = ", more" if message.more else ""
                return f"{snapshot(message.snapshot)} piece {message.pull}: {' '.join(found) or 'nothing'}{more}"
            case SnapshotGone():
                return snapshot(message.snapshot)
        return ""

    # --- what goes to disk ----------------------------------------------------------------------------------

    def write(self, write: Write) -> str:
        parts: list[str] = []
        if write.create is not None:
            parts.append("create")
        if write.hard_state is not None:
            vote = write.hard_state.vote
            parts.append(f"term {write.hard_state.term} vote {self.label(vote) if vote else 'none'}")
        parts += self._log_write(write)
        if write.commit is not None:
            parts.append(f"commit {write.commit}")
        if write.applied is not None:
            parts.append(f"applied {write.applied}")
        if write.delete_payloads:
            parts.append("delete " + ranges(write.delete_payloads))
        if write.drop_through is not None:
            parts.append(f"drop through {write.drop_through.index}/{write.drop_through.term}")
        if write.remove:
            parts.append("remove")
        if write.node:
            parts.append("node rows")
        return "; ".join(parts)

    def _log_write(self, write: Write) -> list[str]:
        parts: list[str] = []
        if write.install is not None:
            parts.append(f"install {write.install.base.index}/{write.install.base.term}")
        if write.truncate_from is not None:
            parts.append(f"truncate from {write.truncate_from}")
        if write.payloads:
            parts.append("payloads " + " ".join(payload.key.decode() for payload in write.payloads))
        if write.entries:
            parts.append("entries " + self.entries(write.entries))
        return parts


def snapshot(number: int) -> str:
    """A snapshot's number is the leader's term and a count."""
    return f"#{number >> 24}.{number & 0xFFFFFF}"


def ranges(found: Sequence[KeyRange]) -> str:
    return " ".join(f"{low.decode()}..{high.decode()}" for low, high in found) or "nothing"
