"""Snapshots: how a replica that the log can no longer serve gets the group's state, pulled piece by piece (C3, C11).

The leader offers a snapshot of its applied state; the receiver pulls the state's rows, then, page by page, a manifest
of the payloads that state refers to, and asks only for those it lacks: same key, same length, same CRC is the same
payload. One pull is under way at a time: that is the throttle, and a lost piece is asked for again, so a broken
connection resumes where it stopped. Payloads fetched for a snapshot that is then replaced by a newer one are kept.

Invariants: nothing of the old log or state changes before all is on disk, but for a tail that is proven to diverge
(a payload of an uncommitted entry that differs from the committed one); the switch is one atomic batch.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import google_crc32c
import msgspec

from consensus.log import RaftLog
from consensus.messages import (
    PULL_MANIFEST,
    PULL_PAYLOADS,
    PULL_STATE,
    GroupMessage,
    SnapshotGone,
    SnapshotOffer,
    SnapshotPiece,
    SnapshotPull,
)
from consensus.model import Member, Payload
from consensus.store import KeyRange, SnapshotReader

PIECE_BYTES_MAX = 1 << 20
MANIFEST_KEYS_MAX = 64
"""Payloads are read whole to be listed, so a page of large ones must not hold up the loop."""
RANGES_MAX = 1000
"""Ranges of keys asked for at once: there may be many thousands, and each page of the manifest names them again."""
STATE_BYTES_MAX = 512 << 20
"""State is collected in memory before the switch; a larger one is refused."""
IDLE_SECONDS = 30.0
"""A snapshot nobody pulls from is let go."""
ASK_AGAIN_SECONDS = 1.0

_encode = msgspec.msgpack.Encoder().encode


def piece_crc(rows: Sequence[tuple[bytes, bytes]], manifest: Sequence[tuple[bytes, int, int]]) -> int:
    return int(google_crc32c.value(_encode((rows, manifest))))


class _Session:
    def __init__(self, member: Member, offer: SnapshotOffer, reader: SnapshotReader, now: float) -> None:
        self.member = member
        self.offer = offer
        self.reader = reader
        self.used = now
        self.pulled = False


class SnapshotSender:
    """The leader's side: at most one session a follower."""

    def __init__(
        self,
        group: int,
        open_reader: Callable[[], SnapshotReader],
        send: Callable[[Member, GroupMessage], bool],
        clock: Callable[[], float],
    ) -> None:
        self._group = group
        self._open_reader = open_reader
        self._send = send
        self._clock = clock
        self._sessions: dict[Member, _Session] = {}
        self._count = 0

    def offer(self, member: Member, term: int, log: RaftLog, match: int) -> None:
        """Offers the snapshot this member is pulling, or a fresh one where it has that already (up to `match`).

        One that is being pulled stays, though the log's start may pass it: under steady writes the member would
        else begin again and again, and never have one whole. What it then lacks is less."""
        session = self._sessions.get(member)
        needed = log.base.index if session is None or not session.pulled else match + 1
        if session is None or session.offer.term != term or session.offer.index < needed:
            self._close(member)
            reader = self._open_reader()
            index = reader.applied
            index_term = log.term_at(index)
            if index_term is None:
                reader.close()
                return
            self._count += 1
            offer = SnapshotOffer(
                self._group, term, (term << 24) | self._count, index, index_term, log.configuration_at(index)
            )
            session = self._sessions[member] = _Session(member, offer, reader, self._clock())
        self._send(member, session.offer)

    def on_pull(self, source: Member, term: int, pull: SnapshotPull) -> None:
        session = self._sessions.get(source)
        if session is None or session.offer.snapshot != pull.snapshot:
            self._send(source, SnapshotGone(self._group, term, pull.snapshot))
            return
        session.used, session.pulled = self._clock(), True
        rows: list[tuple[bytes, bytes]] = []
        manifest: list[tuple[bytes, int, int]] = []
        payloads: list[Payload] = []
        more = False
        if pull.kind == PULL_STATE:
            rows, more = session.reader.state(pull.after, PIECE_BYTES_MAX)
        elif pull.kind == PULL_MANIFEST:
            manifest, more = session.reader.manifest(pull.ranges, MANIFEST_KEYS_MAX)
        elif pull.kind == PULL_PAYLOADS:
            payloads = session.reader.payloads(pull.keys, PIECE_BYTES_MAX)
            more = len(payloads) < len(pull.keys)
        piece = SnapshotPiece(
            self._group,
            term,
            pull.snapshot,
            pull.pull,
            pull.kind,
            tuple(rows),
            tuple(manifest),
            tuple(payloads),
            more,
            piece_crc(rows, manifest),
        )
        self._send(source, piece)

    def _close(self, member: Member) -> None:
        session = self._sessions.pop(member, None)
        if session is not None:
            session.reader.close()

    def tick(self) -> None:
        now = self._clock()
        for member in [m for m, s in self._sessions.items() if now - s.used > IDLE_SECONDS]:
            self._close(member)

    def close(self) -> None:
        for member in list(self._sessions):
            self._close(member)


class ReceiverPorts(Protocol):
    def send(self, to: Member, message: GroupMessage) -> bool: ...

    def digests(self, keys: Sequence[bytes]) -> dict[bytes, tuple[int, int]]:
        """(length, CRC) of the payloads here."""

    def diverged(self, covered: Sequence[KeyRange], listed: dict[bytes, tuple[int, int]]) -> None:
        """In these ranges the committed payloads are those `listed`, with (length, CRC): uncommitted entries that
        brought others there must go, or what they brought would stand between committed records."""

    def keep(self, payloads: Sequence[Payload]) -> None:
        """Stores payloads that were fetched."""

    def ranges_of(self, rows: dict[bytes, bytes]) -> list[KeyRange]: ...

    def install(self, offer: SnapshotOffer, rows: dict[bytes, bytes], ranges: list[KeyRange]) -> None:
        """All has arrived: switch."""


class SnapshotReceiver:
    """The receiving side: one snapshot at a time."""

    def __init__(self, group: int, ports: ReceiverPorts, clock: Callable[[], float]) -> None:
        self._group = group
        self._ports = ports
        self._clock = clock
        self._source: Member | None = None
        self._offer: SnapshotOffer | None = None
        self._pull: SnapshotPull | None = None
        self._pulled_at = 0.0
        self._rows: dict[bytes, bytes] = {}
        self._bytes = 0
        self._ranges: list[KeyRange] = []
        self._left: list[KeyRange] = []
        self._missing: list[bytes] = []
        self._manifest_more = False

    @property
    def active(self) -> bool:
        return self._offer is not None

    def on_offer(self, source: Member, offer: SnapshotOffer) -> None:
        if self._offer is not None and self._offer.snapshot == offer.snapshot and self._source == source:
            return
        self.stop()
        self._source, self._offer = source, offer
        self._ask(PULL_STATE, after=None)

    def stop(self) -> None:
        self._offer = self._source = self._pull = None
        self._rows, self._bytes, self._ranges, self._left, self._missing = {}, 0, [], [], []

    def on_gone(self, source: Member, message: SnapshotGone) -> None:
        if self._offer is not None and source == self._source and message.snapshot == self._offer.snapshot:
            self.stop()

    def tick(self) -> None:
        if self._pull is not None and self._clock() - self._pulled_at > ASK_AGAIN_SECONDS:
            self._send_pull()

    def _ask(
        self, kind: int, *, after: bytes | None = None, ranges: Sequence[KeyRange] = (), keys: Sequence[bytes] = ()
    ) -> None:
        assert self._offer is not None
        number = 1 if self._pull is None else self._pull.pull + 1
        self._pull = SnapshotPull(
            self._group, self._offer.term, self._offer.snapshot, number, kind, after, tuple(ranges), tuple(keys)
        )
        self._send_pull()

    def _send_pull(self) -> None:
        assert self._source is not None
        assert self._pull is not None
        self._pulled_at = self._clock()
        self._ports.send(self._source, self._pull)

    def on_piece(self, source: Member, piece: SnapshotPiece) -> None:
        """Raises ValueError for a piece that is not what was sent."""
        if self._offer is None or self._pull is None or source != self._source:
            return
        if piece.snapshot != self._offer.snapshot or piece.pull != self._pull.pull:
            return
        if piece.crc != piece_crc(piece.rows, piece.manifest) or not all(p.sound for p in piece.payloads):
            raise ValueError(f"snapshot piece {piece.pull} of group {self._group} is not what was sent")
        if piece.kind == PULL_STATE:
            self._take_state(piece)
        elif piece.kind == PULL_MANIFEST:
            self._take_manifest(piece)
        else:
            self._take_payloads(piece)

    def _take_state(self, piece: SnapshotPiece) -> None:
        self._rows.update(piece.rows)
        self._bytes += sum(len(key) + len(value) for key, value in piece.rows)
        if self._bytes > STATE_BYTES_MAX:
            self.stop()
            raise ValueError(f"the state of group {self._group} is larger than {STATE_BYTES_MAX} bytes")
        if piece.more and piece.rows:
            self._ask(PULL_STATE, after=piece.rows[-1][0])
            return
        self._ranges = self._ports.ranges_of(self._rows)
        self._left = list(self._ranges)
        self._next_page()

    def _next_page(self) -> None:
        if self._left:
            self._ask(PULL_MANIFEST, ranges=self._left[:RANGES_MAX])
            return
        assert self._offer is not None
        offer, rows, ranges = self._offer, self._rows, self._ranges
        self.stop()
        self._ports.install(offer, rows, ranges)

    def _take_manifest(self, piece: SnapshotPiece) -> None:
        listed = {key: (length, crc) for key, length, crc in piece.manifest}
        covered, self._left = self._left[:RANGES_MAX], self._left[RANGES_MAX:]
        if piece.more and piece.manifest:
            seen = piece.manifest[-1][0] + b"\x00"
            self._left = [(max(low, seen), high) for low, high in covered if high > seen] + self._left
            covered = [(low, min(high, seen)) for low, high in covered if low < seen]
        self._ports.diverged(covered, listed)
        here = self._ports.digests(list(listed))
        self._missing = [key for key, digest in listed.items() if here.get(key) != digest]
        self._next_payloads()

    def _next_payloads(self) -> None:
        if self._missing:
            self._ask(PULL_PAYLOADS, keys=self._missing)
        else:
            self._next_page()

    def _take_payloads(self, piece: SnapshotPiece) -> None:
        arrived = {payload.key for payload in piece.payloads}
        if not arrived or not arrived <= set(self._missing):
            raise ValueError(f"snapshot piece {piece.pull} of group {self._group} holds what was not asked for")
        self._ports.keep(piece.payloads)
        self._missing = [key for key in self._missing if key not in arrived]
        self._next_payloads()
