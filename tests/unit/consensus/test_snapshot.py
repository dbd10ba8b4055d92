"""Snapshot sender and receiver by themselves, over two real stores: pieces that are lost, repeated, late or changed.

Pieces are made small, so that a snapshot of a few rows takes many.
"""

from collections.abc import Callable, Sequence
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus import snapshot
from consensus.log import RaftLog
from consensus.messages import GroupMessage, SnapshotGone, SnapshotOffer, SnapshotPiece, SnapshotPull
from consensus.model import Configuration, Entry, EntryKind, LogBase, Member, Payload
from consensus.snapshot import SnapshotReceiver, SnapshotSender
from consensus.store import KeyRange, Write
from raftbroker.storage.store import LogStore
from tests.simulation.disk import Platter, SimEngine

LEADER, FOLLOWER = Member(1, "a" * 32), Member(2, "b" * 32)
GROUP, TERM = 7, 3
ROWS = 9


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "PIECE_BYTES_MAX", 40)
    monkeypatch.setattr(snapshot, "MANIFEST_KEYS_MAX", 2)


def key(number: int) -> bytes:
    return b"p%03d" % number


def payload(number: int, data: bytes = b"") -> Payload:
    return Payload.of(key(number), data or b"%03d" % number * (1 + number % 5))


def row(number: int) -> tuple[bytes, bytes]:
    return b"s%03d" % number, b"state of %d" % number


class Exchange:
    """A leader that has applied nine entries with a payload each, a follower that has what the test gives it."""

    def __init__(self, here: Sequence[Payload] = ()) -> None:
        self.now = 100.0
        self.leader_store = LogStore(SimEngine(Platter(Random(1))))
        self.store = LogStore(SimEngine(Platter(Random(2))))
        entries = [Entry.of(2, n, EntryKind.COMMAND, b"", (payload(n),)) for n in range(1, ROWS + 1)]
        base = LogBase(0, 0, Configuration((LEADER, FOLLOWER)))
        state: dict[bytes, bytes | None] = dict(map(row, range(1, ROWS + 1)))
        self.leader_store.write([Write(GROUP, create=base, entries=entries, applied=ROWS, state=state)])
        self.store.write([Write(GROUP, create=base, payloads=list(here))])
        self.log = RaftLog(base, lambda first, last, size: entries[first - 1 : last])
        self.log.append(entries)
        self.under_way: list[tuple[Member, GroupMessage]] = []
        self.sent: list[GroupMessage] = []
        self.readers = 0
        self.match = 0
        self.differing: set[bytes] = set()
        self.covered: list[KeyRange] = []
        self.listed: dict[bytes, tuple[int, int]] = {}
        self.kept: list[bytes] = []
        self.installed: list[tuple[SnapshotOffer, dict[bytes, bytes], list[KeyRange]]] = []
        clock: Callable[[], float] = lambda: self.now  # noqa: E731
        self.sender = SnapshotSender(GROUP, self._open, self.send, clock)
        self.receiver = SnapshotReceiver(GROUP, self, clock)

    def _open(self) -> "Exchange.Reader":
        self.readers += 1
        return Exchange.Reader(self)

    class Reader:
        """The store's, counted."""

        def __init__(self, exchange: "Exchange") -> None:
            self._exchange = exchange
            self._reader = exchange.leader_store.open_snapshot(GROUP)
            self.applied = self._reader.applied
            self.state = self._reader.state
            self.manifest = self._reader.manifest
            self.payloads = self._reader.payloads

        def close(self) -> None:
            self._exchange.readers -= 1
            self._reader.close()

    # --- the receiver's ports -------------------------------------------------------------------------------

    def send(self, to: Member, message: GroupMessage) -> bool:
        self.under_way.append((to, message))
        self.sent.append(message)
        return True

    def digests(self, keys: Sequence[bytes]) -> dict[bytes, tuple[int, int]]:
        return self.store.payload_digests(keys)

    def diverged(self, covered: Sequence[KeyRange], listed: dict[bytes, tuple[int, int]]) -> None:
        self.covered += covered
        self.listed |= listed
        here = self.store.payload_digests(list(listed))
        self.differing |= {key for key, digest in here.items() if digest != listed[key]}

    def keep(self, payloads: Sequence[Payload]) -> None:
        self.kept += [one.key for one in payloads]
        self.store.write([Write(GROUP, payloads=list(payloads))])

    def ranges_of(self, rows: dict[bytes, bytes]) -> list[KeyRange]:
        assert rows == dict(map(row, range(1, ROWS + 1))), "asked only once the state is whole"
        return [(key(1), key(4)), (key(5), key(ROWS + 1))]

    def install(self, offer: SnapshotOffer, rows: dict[bytes, bytes], ranges: list[KeyRange]) -> None:
        self.installed.append((offer, rows, ranges))

    # --- what happens ---------------------------------------------------------------------------------------

    def offer(self) -> None:
        self.sender.offer(FOLLOWER, TERM, self.log, self.match)

    def deliver(self, position: int = 0, *, again: bool = False) -> None:
        _, message = self.under_way[position] if again else self.under_way.pop(position)
        if isinstance(message, SnapshotOffer):
            if not self.installed:
                self.receiver.on_offer(LEADER, message)
        elif isinstance(message, SnapshotPull):
            self.sender.on_pull(FOLLOWER, TERM, message)
        elif isinstance(message, SnapshotPiece):
            self.receiver.on_piece(LEADER, message)
        elif isinstance(message, SnapshotGone):
            self.receiver.on_gone(LEADER, message)

    def run(self) -> None:
        while self.under_way:
            self.deliver()

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.receiver.tick()
        self.sender.tick()

    def pulls(self) -> list[SnapshotPull]:
        return [message for message in self.sent if isinstance(message, SnapshotPull)]

    def check_installed(self) -> None:
        assert len(self.installed) == 1
        offer, rows, ranges = self.installed[0]
        assert (offer.index, offer.index_term, offer.configuration.voters) == (ROWS, 2, (LEADER, FOLLOWER))
        assert rows == dict(map(row, range(1, ROWS + 1)))
        assert ranges == [(key(1), key(4)), (key(5), key(ROWS + 1))]
        wanted = [n for n in range(1, ROWS + 1) if n != 4]
        digests = self.store.payload_digests([key(n) for n in range(ROWS + 5)])
        assert {k: digests[k] for k in map(key, wanted)} == {
            one.key: (len(one.data), one.crc) for one in map(payload, wanted)
        }


def test_all_of_it_arrives_in_pieces_and_only_once() -> None:
    exchange = Exchange()
    exchange.offer()
    exchange.run()
    exchange.check_installed()
    assert sorted(exchange.kept) == [key(n) for n in range(1, ROWS + 1) if n != 4]
    assert [pull.pull for pull in exchange.pulls()] == list(range(1, len(exchange.pulls()) + 1))
    assert len(exchange.pulls()) > 10
    assert not exchange.receiver.active


def test_payloads_that_are_here_are_not_sent_again() -> None:
    exchange = Exchange([payload(2), payload(3), payload(9), payload(12)])
    exchange.offer()
    exchange.run()
    exchange.check_installed()
    assert sorted(exchange.kept) == [key(n) for n in (1, 5, 6, 7, 8)]
    assert exchange.differing == set()


def test_a_payload_that_differs_is_reported_before_it_is_fetched() -> None:
    exchange = Exchange([payload(2, b"another"), payload(3), payload(4, b"outside of what the state refers to")])
    exchange.offer()
    while not exchange.differing:
        assert key(2) not in exchange.kept
        exchange.deliver()
    assert exchange.differing == {key(2)}
    exchange.run()
    exchange.check_installed()
    assert key(2) in exchange.kept
    assert key(3) not in exchange.kept


def test_ranges_are_asked_for_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "RANGES_MAX", 1)
    exchange = Exchange([payload(2), payload(9)])
    exchange.offer()
    exchange.run()
    exchange.check_installed()
    assert {len(pull.ranges) for pull in exchange.pulls()} == {0, 1}
    assert sorted(exchange.kept) == [key(n) for n in (1, 3, 5, 6, 7, 8, 10, 11, 12) if n <= ROWS]
    ranges = [(key(1), key(4)), (key(5), key(ROWS + 1))]
    for n in range(ROWS + 2):
        inside = any(low <= key(n) < high for low, high in ranges)
        assert inside == any(low <= key(n) < high for low, high in exchange.covered)


def test_every_page_of_the_manifest_says_what_may_stand_where() -> None:
    """The pages cover the state's ranges without a gap, so that a payload that is not listed is known to be extra."""
    exchange = Exchange()
    exchange.offer()
    exchange.run()
    ranges = [(key(1), key(4)), (key(5), key(ROWS + 1))]
    keys = [key(n) + end for n in range(ROWS + 2) for end in (b"", b"\x00", b"\x01")]
    for one in keys:
        within = any(low <= one < high for low, high in ranges)
        assert within == any(low <= one < high for low, high in exchange.covered), one
    assert set(exchange.listed) == {key(n) for n in (1, 2, 3, *range(5, ROWS + 1))}


@given(
    st.lists(
        st.tuples(st.sampled_from(["deliver"] * 8 + ["again", "again", "lose", "time", "offer"]), st.integers(0, 50)),
        max_size=120,
    )
)
@settings(max_examples=100, deadline=None)
def test_lost_repeated_and_late_pieces_are_no_trouble(steps: list[tuple[str, int]]) -> None:
    exchange = Exchange([payload(3)])
    exchange.offer()
    for step, number in steps:
        position = number % len(exchange.under_way) if exchange.under_way else 0
        if step == "time":
            exchange.pass_time(0.6)
        elif step == "offer":
            exchange.offer()
        elif exchange.under_way and step == "lose":
            exchange.under_way.pop(position)
        elif exchange.under_way and not exchange.installed:
            exchange.deliver(position, again=step == "again")
    for _ in range(80):
        exchange.offer()
        exchange.run()
        exchange.pass_time(1.1)
    exchange.check_installed()


def test_a_lost_piece_is_asked_for_again_after_a_while_and_not_before() -> None:
    exchange = Exchange()
    exchange.offer()
    exchange.deliver()
    exchange.under_way.clear()
    exchange.pass_time(snapshot.ASK_AGAIN_SECONDS * 0.9)
    assert len(exchange.pulls()) == 1
    exchange.pass_time(snapshot.ASK_AGAIN_SECONDS * 0.2)
    assert len(exchange.pulls()) == 2
    assert exchange.pulls()[0] == exchange.pulls()[1]


def _forged_rows(piece: SnapshotPiece) -> SnapshotPiece:
    return msgspec.structs.replace(piece, rows=((b"s001", b"forged"), *piece.rows[1:]))


def _forged_manifest(piece: SnapshotPiece) -> SnapshotPiece:
    return msgspec.structs.replace(piece, manifest=((key(1), 3, 1), *piece.manifest[1:]))


def _forged_payload(piece: SnapshotPiece) -> SnapshotPiece:
    first = piece.payloads[0]
    return msgspec.structs.replace(piece, payloads=(Payload(first.key, b"forged", first.crc), *piece.payloads[1:]))


@pytest.mark.parametrize(
    ("field", "forge"), [("rows", _forged_rows), ("manifest", _forged_manifest), ("payloads", _forged_payload)]
)
def test_a_piece_that_changed_on_its_way_is_refused_and_asked_for_again(
    field: str, forge: Callable[[SnapshotPiece], SnapshotPiece]
) -> None:
    exchange = Exchange()
    exchange.offer()
    while not (isinstance(piece := exchange.under_way[0][1], SnapshotPiece) and getattr(piece, field)):
        exchange.deliver()
    exchange.under_way.clear()
    with pytest.raises(ValueError, match="not what was sent"):
        exchange.receiver.on_piece(LEADER, forge(piece))
    exchange.pass_time(1.1)
    exchange.run()
    exchange.check_installed()


def test_payloads_that_were_not_asked_for_are_refused() -> None:
    exchange = Exchange()
    exchange.offer()
    while not (isinstance(exchange.under_way[0][1], SnapshotPiece) and exchange.under_way[0][1].payloads):
        exchange.deliver()
    piece = exchange.under_way.pop(0)[1]
    assert isinstance(piece, SnapshotPiece)
    for payloads in ((), (payload(99),)):
        with pytest.raises(ValueError, match="not asked for"):
            exchange.receiver.on_piece(LEADER, msgspec.structs.replace(piece, payloads=payloads))
    assert exchange.kept == []


def test_a_piece_from_another_node_or_of_another_snapshot_is_ignored() -> None:
    exchange = Exchange()
    exchange.offer()
    exchange.deliver()
    exchange.deliver()
    piece = exchange.under_way.pop(0)[1]
    assert isinstance(piece, SnapshotPiece)
    exchange.receiver.on_piece(Member(3, "c" * 32), piece)
    exchange.receiver.on_piece(LEADER, msgspec.structs.replace(piece, snapshot=99))
    exchange.receiver.on_gone(Member(3, "c" * 32), SnapshotGone(GROUP, TERM, piece.snapshot))
    assert len(exchange.pulls()) == 1
    assert exchange.receiver.active


def test_a_snapshot_nobody_pulls_from_is_let_go_and_the_receiver_starts_anew_with_the_next() -> None:
    exchange = Exchange()
    exchange.offer()
    while not exchange.kept:
        exchange.deliver()
    kept = list(exchange.kept)
    exchange.under_way.clear()
    exchange.now += snapshot.IDLE_SECONDS + 1
    exchange.sender.tick()
    assert exchange.readers == 0
    exchange.receiver.tick()
    exchange.run()
    assert any(isinstance(message, SnapshotGone) for message in exchange.sent)
    assert not exchange.receiver.active
    exchange.offer()
    exchange.run()
    exchange.check_installed()
    assert len(exchange.kept) == len(set(exchange.kept)), f"{kept} were fetched already and are kept"


def test_what_the_leader_writes_meanwhile_is_not_in_the_snapshot() -> None:
    exchange = Exchange()
    exchange.offer()
    exchange.deliver()
    write = Write(GROUP, applied=ROWS, state={b"s001": b"changed", b"s002": None})
    write.delete_payloads = [(key(1), key(9))]
    exchange.leader_store.write([write])
    exchange.run()
    exchange.check_installed()


def test_one_session_a_follower_replaced_when_the_term_moves() -> None:
    exchange = Exchange()
    exchange.offer()
    exchange.offer()
    assert exchange.readers == 1
    assert exchange.sent[0] == exchange.sent[1]
    exchange.sender.offer(FOLLOWER, TERM + 1, exchange.log, 0)
    assert exchange.readers == 1
    assert exchange.sent[2] != exchange.sent[0]
    exchange.sender.close()
    assert exchange.readers == 0


@pytest.mark.parametrize("pulled", [False, True])
def test_a_snapshot_that_is_being_pulled_stays_though_the_logs_start_passes_it(pulled: bool) -> None:
    exchange = Exchange()
    exchange.offer()
    if pulled:
        exchange.deliver()
        exchange.deliver()
    exchange.log.append([Entry.of(2, ROWS + 1, EntryKind.NOOP)])
    exchange.log.drop_through(ROWS + 1)
    exchange.leader_store.write([Write(GROUP, entries=[Entry.of(2, ROWS + 1, EntryKind.NOOP)], applied=ROWS + 1)])
    exchange.offer()
    assert exchange.readers == 1
    offers = [message.index for message in exchange.sent if isinstance(message, SnapshotOffer)]
    assert offers == [ROWS, ROWS if pulled else ROWS + 1]
    if pulled:
        exchange.run()
        exchange.check_installed()
        exchange.match = ROWS
        exchange.offer()
        assert [m.index for m in exchange.sent if isinstance(m, SnapshotOffer)] == [ROWS, ROWS, ROWS + 1]


def test_an_offer_below_the_logs_start_would_be_useless_and_is_not_made() -> None:
    exchange = Exchange()
    behind = RaftLog(LogBase(ROWS + 1, 2), lambda first, last, size: [])
    exchange.sender.offer(FOLLOWER, TERM, behind, 0)
    assert (exchange.sent, exchange.readers) == ([], 0)


def test_state_beyond_its_bound_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "STATE_BYTES_MAX", 60)
    exchange = Exchange()
    exchange.offer()
    with pytest.raises(ValueError, match="larger than 60 bytes"):
        exchange.run()
    assert not exchange.receiver.active
