"""What replicas say to each other, as msgpack arrays (C7).

Every message is a tagged `msgspec` struct; a frame carries a list of them. Decoding is strict: a wrong type,
an unknown tag or trailing bytes raise `msgspec.DecodeError`/`ValidationError` and cost the sender its connection.

`group` names the Raft group, `term` is the sender's term in it. Sender and receiver are not in the message: the
connection proves the sender (`transport.Peer`).
"""

import msgspec

from consensus.model import Configuration, Entry, Payload


class Message(msgspec.Struct, frozen=True, array_like=True, tag_field="t", gc=False):
    """The root of all messages."""


class GroupMessage(Message, frozen=True, array_like=True, gc=False):
    group: int
    term: int


# --- election -------------------------------------------------------------------------------------------


class PreVote(GroupMessage, frozen=True, array_like=True, tag=1, gc=False):
    """Would you vote for me in `term`? Changes nothing at either end (Raft dissertation, 9.6)."""

    last_index: int
    last_term: int


class PreVoteReply(GroupMessage, frozen=True, array_like=True, tag=2, gc=False):
    """`asked` is the term asked about; `term` the answerer's own, from which the asker may learn."""

    asked: int
    granted: bool


class RequestVote(GroupMessage, frozen=True, array_like=True, tag=3, gc=False):
    """Sent once the sender's own vote is durable. `transfer` passes leader stickiness (C13)."""

    last_index: int
    last_term: int
    transfer: bool


class Vote(GroupMessage, frozen=True, array_like=True, tag=4, gc=False):
    """A vote for the receiver in `term`; sent once it is durable, counted once per term and voter (C2)."""


class TimeoutNow(GroupMessage, frozen=True, array_like=True, tag=5, gc=False):
    """The leader asks its chosen successor to campaign at once."""


# --- replication ----------------------------------------------------------------------------------------


class Append(GroupMessage, frozen=True, array_like=True, tag=10, gc=False):
    """Entries following (prev_index, prev_term); with none it is a probe."""

    prev_index: int
    prev_term: int
    entries: tuple[Entry, ...]
    commit: int


class AppendReply(GroupMessage, frozen=True, array_like=True, tag=11, gc=False):
    """`match`: the log is durable and equal to the leader's up to here. Sent only once that is so (C1)."""

    match: int


class AppendReject(GroupMessage, frozen=True, array_like=True, tag=12, gc=False):
    """No entry (`rejected`, prev_term) here. Entries may match at `hint_index` of `hint_term`, not above."""

    rejected: int
    hint_index: int
    hint_term: int


class Heartbeat(GroupMessage, frozen=True, array_like=True, tag=13, gc=False):
    """`round` grows with each heartbeat of the leader; reads wait for a majority to have answered one (C6)."""

    commit: int
    round: int


class HeartbeatReply(GroupMessage, frozen=True, array_like=True, tag=14, gc=False):
    """Says only that in `term` this round was heard; nothing about the log. Never waits for a disk (C1)."""

    round: int


# --- snapshots: the receiver pulls ----------------------------------------------------------------------


class SnapshotOffer(GroupMessage, frozen=True, array_like=True, tag=20, gc=False):
    """The receiver is below the log's start: it should pull the snapshot `snapshot` at (index, index_term)."""

    snapshot: int
    index: int
    index_term: int
    configuration: Configuration


class SnapshotPull(GroupMessage, frozen=True, array_like=True, tag=21, gc=False):
    """Asks for the next piece: state rows after `after`, then the manifest of payloads in `ranges`, then
    payloads by key. One pull is under way at a time, which is the throttle."""

    snapshot: int
    pull: int
    kind: int
    after: bytes | None
    ranges: tuple[tuple[bytes, bytes], ...]
    keys: tuple[bytes, ...]


class SnapshotPiece(GroupMessage, frozen=True, array_like=True, tag=22, gc=False):
    """The answer to pull number `pull`; `crc` covers the msgpack of (rows, manifest), payloads carry theirs."""

    snapshot: int
    pull: int
    kind: int
    rows: tuple[tuple[bytes, bytes], ...]
    manifest: tuple[tuple[bytes, int, int], ...]
    payloads: tuple[Payload, ...]
    more: bool
    crc: int


class SnapshotGone(GroupMessage, frozen=True, array_like=True, tag=23, gc=False):
    """The sender no longer has that snapshot (it was idle too long, or leads no more)."""

    snapshot: int


PULL_STATE, PULL_MANIFEST, PULL_PAYLOADS = 1, 2, 3


# --- everything else between nodes ----------------------------------------------------------------------


class Request(Message, frozen=True, array_like=True, tag=30, gc=False):
    """A call of `method` on the receiving node; `deadline_ms` is how long the caller will wait."""

    id: int
    method: str
    body: bytes
    deadline_ms: int


class Response(Message, frozen=True, array_like=True, tag=31, gc=False):
    """`error` is empty on success; else the error's class name, and `body` its message in UTF-8."""

    id: int
    error: str
    body: bytes


AnyMessage = (
    PreVote
    | PreVoteReply
    | RequestVote
    | Vote
    | TimeoutNow
    | Append
    | AppendReply
    | AppendReject
    | Heartbeat
    | HeartbeatReply
    | SnapshotOffer
    | SnapshotPull
    | SnapshotPiece
    | SnapshotGone
    | Request
    | Response
)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[AnyMessage])


def encode_messages(messages: list[Message]) -> bytes:
    return _encoder.encode(messages)


def decode_messages(body: bytes | memoryview) -> list[Message]:
    """Raises msgspec.DecodeError (ValidationError is one) for anything that is not a list of messages."""
    return list(_decoder.decode(body))
