"""The contract of `consensus.store.Store`, on the real engine; most of it again after a restart."""

import pytest

from consensus.errors import Damaged, EntriesGone, InvariantBroken
from consensus.model import Configuration, Entry, EntryKind, HardState, LogBase, Member, Payload, encode_configuration
from consensus.store import GroupImage, Install, Write
from raftbroker.storage import layout, payload_key
from raftbroker.storage.engine import Batch
from tests.unit.storage.conftest import Opened
from tests.unit.storage.helpers import BASE, MEMBER, create, entries, entry

ALL = 1 << 30


def everything(group: int = 1, partition: int = 7) -> tuple[bytes, bytes]:
    return payload_key(partition, 0), payload_key(partition + 1, 0)


def test_a_new_store_holds_nothing(opened: Opened) -> None:
    assert opened.store.groups() == []
    assert not opened.store.marked(1)
    assert opened.store.node_row(b"id") is None
    assert not opened.store.full


def test_all_that_was_written_is_loaded(opened: Opened) -> None:
    configuration = Configuration((MEMBER,), (Member(2, "b" * 32),))
    change = Entry.of(2, 4, EntryKind.CONFIGURATION, encode_configuration(configuration))
    written = [*entries(1, 3), change, *entries(5, 6, term=2)]
    store = opened.store
    store.write(
        [
            create(),
            Write(
                1,
                hard_state=HardState(2, MEMBER),
                entries=written,
                commit=5,
                applied=4,
                state={b"a": b"1", b"b": b"2", b"c": b"3"},
            ),
            Write(1, state={b"b": None}, node={b"id": b"node 1"}),
        ]
    )
    store.sync()
    for store in opened.before_and_after_restart():
        image = store.load(1)
        assert image.hard_state == HardState(2, MEMBER)
        assert image.base == BASE
        assert image.last_index == 6
        assert image.terms == [(1, 1), (4, 2)]
        assert image.configurations == [(4, configuration)]
        assert (image.commit, image.applied) == (5, 4)
        assert image.state == {b"a": b"1", b"c": b"3"}
        assert store.entries(1, 1, 6, ALL) == written
        assert store.node_row(b"id") == b"node 1"
        assert store.groups() == [1]


def test_groups_do_not_see_one_another(opened: Opened) -> None:
    groups = [1, 2, 255, 256, 0xFFFFFFFF]
    opened.store.write([create(group) for group in groups])
    opened.store.write(
        [
            Write(group, entries=[entry(1, partition=n)], applied=1, state={b"group": b"%d" % group})
            for n, group in enumerate(groups)
        ]
    )
    opened.store.write([Write(255, remove=True)])
    for store in opened.before_and_after_restart():
        assert store.groups() == [1, 2, 256, 0xFFFFFFFF]
        assert store.marked(255)
        for n, group in enumerate(groups):
            if group != 255:
                assert store.load(group).state == {b"group": b"%d" % group}
                assert store.entries(group, 1, 1, ALL) == [entry(1, partition=n)]


def test_a_removed_group_is_gone_but_its_marker_and_hard_state(opened: Opened) -> None:
    store = opened.store
    voted = HardState(7, Member(2, "b" * 32))
    store.write([create(), Write(1, hard_state=voted, entries=entries(1, 40), applied=20, state={b"a": b"1"})])
    store.write([Write(1, remove=True, delete_payloads=[(payload_key(7, 0), payload_key(7, 20))])])
    for store in opened.before_and_after_restart():
        assert store.groups() == []
        assert store.marked(1)
        assert store.payload_digests([payload_key(7, n) for n in range(50)]) == {}
        assert store.load(1) == GroupImage(1, voted, LogBase(), 0, [], [], 0, 0, {})
        with pytest.raises(EntriesGone):
            store.entries(1, 1, 1, ALL)
        with pytest.raises(ValueError, match="empty learner only"):
            store.write([Write(1, create=LogBase(0, 0, Configuration((Member(1, "a" * 32),))))])
        with pytest.raises(ValueError, match="no replica"):
            store.write([Write(1, applied=1)])


def test_a_removed_group_comes_back_as_an_empty_learner(opened: Opened) -> None:
    store = opened.store
    voted = HardState(7, Member(2, "b" * 32))
    store.write([create(), Write(1, hard_state=voted, entries=entries(1, 4), state={b"a": b"1"}, applied=4)])
    store.write([Write(1, remove=True)])
    store.write([Write(1, create=LogBase(), entries=entries(1, 2))])
    for store in opened.before_and_after_restart():
        image = store.load(1)
        assert (image.hard_state, image.last_index, image.applied, image.state) == (voted, 2, 0, {})


def test_a_refused_batch_changes_nothing(opened: Opened) -> None:
    store = opened.store
    store.write([create()])
    with pytest.raises(InvariantBroken):
        store.write([Write(1, entries=entries(1, 2)), Write(1, entries=entries(4, 5))])
    assert store.load(1).last_index == 0
    store.write([Write(1, entries=entries(1, 2))])
    assert store.load(1).last_index == 2


def test_truncation_takes_the_payloads_along(opened: Opened) -> None:
    store = opened.store
    store.write([create(), Write(1, entries=entries(1, 60))])
    store.write([Write(1, truncate_from=31)])
    keys = [payload_key(7, n) for n in range(1, 61)]
    for store in opened.before_and_after_restart():
        assert store.load(1).last_index == 30
        assert sorted(store.payload_digests(keys)) == keys[:30]
        with pytest.raises(EntriesGone):
            store.entries(1, 31, 31, ALL)
    store.write([Write(1, truncate_from=50)])
    assert store.load(1).last_index == 30


def test_a_payload_that_the_same_write_brings_again_stays(opened: Opened) -> None:
    store = opened.store
    store.write([create(), Write(1, entries=entries(1, 5))])
    new = [entry(index, term=2, seed=9) for index in range(3, 6)]
    store.write([Write(1, truncate_from=3, entries=new)])
    for store in opened.before_and_after_restart():
        assert store.entries(1, 1, 5, ALL) == entries(1, 2) + new


def test_writes_of_one_group_in_one_batch_build_on_each_other(opened: Opened) -> None:
    store = opened.store
    store.write([create(), Write(1, entries=entries(1, 5))])
    new = [entry(index, term=3, partition=8) for index in range(4, 9)]
    store.write(
        [
            Write(1, entries=entries(6, 9)),
            Write(1, truncate_from=4, entries=entries(4, 6, term=2)),
            Write(1, truncate_from=4, entries=new),
        ]
    )
    store.write([Write(2, create=BASE), Write(2, entries=entries(1, 3, partition=9)), Write(2, remove=True)])
    for store in opened.before_and_after_restart():
        assert store.entries(1, 1, 8, ALL) == entries(1, 3) + new
        keys = [payload_key(7, n) for n in range(1, 10)]
        assert sorted(store.payload_digests(keys)) == keys[:3]
        assert store.payload_digests([payload_key(9, n) for n in range(1, 10)]) == {}
        assert store.groups() == [1]
        assert store.marked(2)


def test_dropping_a_prefix_keeps_the_records(opened: Opened) -> None:
    store = opened.store
    store.write([create(), Write(1, entries=entries(1, 100), applied=80, commit=90)])
    store.write([Write(1, drop_through=LogBase(50, 1, BASE.configuration))])
    store.write([Write(1, drop_through=LogBase(40, 1, BASE.configuration))])
    keys = [payload_key(7, n) for n in range(1, 101)]
    for store in opened.before_and_after_restart():
        image = store.load(1)
        assert image.base == LogBase(50, 1, BASE.configuration)
        assert (image.last_index, image.applied, image.commit) == (100, 80, 90)
        assert len(store.payload_digests(keys)) == 100
        with pytest.raises(EntriesGone):
            store.entries(1, 50, 60, ALL)
        assert store.entries(1, 51, 52, ALL) == entries(51, 52)
    with pytest.raises(InvariantBroken):
        store.write([Write(1, truncate_from=50)])
    with pytest.raises(InvariantBroken):
        store.write([Write(1, drop_through=LogBase(101, 1, BASE.configuration))])


def test_bytes_bound_what_is_read_but_never_to_nothing(opened: Opened) -> None:
    opened.store.write([create(), Write(1, entries=entries(1, 10, size=1000))])
    assert len(opened.store.entries(1, 1, 10, 1)) == 1
    three = sum(e.size for e in entries(1, 3, size=1000))
    assert len(opened.store.entries(1, 1, 10, three)) == 3
    assert len(opened.store.entries(1, 1, 10, three - 1)) == 2
    assert len(opened.store.entries(1, 9, 10, ALL)) == 2


def test_trimmed_payloads_answer_entries_gone(opened: Opened) -> None:
    store = opened.store
    store.write([create(), Write(1, entries=entries(1, 10))])
    store.write([Write(1, applied=10, delete_payloads=[(payload_key(7, 0), payload_key(7, 4))])])
    with pytest.raises(EntriesGone):
        store.entries(1, 3, 10, ALL)
    assert store.entries(1, 4, 10, ALL) == entries(4, 10)
    assert opened.reopen().load(1).last_index == 10


def test_an_install_replaces_the_log_and_the_state(opened: Opened) -> None:
    store = opened.store
    store.write([create(), Write(1, entries=entries(1, 30), applied=20, state={b"old": b"1", b"both": b"1"})])
    received = [Payload.of(payload_key(7, n), b"received %d" % n) for n in range(101, 104)]
    store.write([Write(1, payloads=received)])
    install = Install(
        LogBase(200, 5, BASE.configuration),
        {b"new": b"2", b"both": b"2"},
        keep=((payload_key(7, 25), payload_key(7, 27)), (payload_key(7, 100), payload_key(7, 110))),
        drop=(everything(),),
    )
    store.write([Write(1, install=install, entries=entries(201, 202, term=5))])
    for store in opened.before_and_after_restart():
        image = store.load(1)
        assert image.base == install.base
        assert (image.last_index, image.applied, image.commit) == (202, 200, 200)
        assert image.state == install.state
        kept = [25, 26, 101, 102, 103, 201, 202]
        assert list(store.payload_digests([payload_key(7, n) for n in range(300)])) == [payload_key(7, n) for n in kept]
        with pytest.raises(EntriesGone):
            store.entries(1, 30, 30, ALL)


def test_the_commit_hint_is_clamped(opened: Opened) -> None:
    opened.store.write([create(), Write(1, entries=entries(1, 5), commit=99)])
    assert opened.reopen().load(1).commit == 5
    opened.store.write([Write(1, applied=4, commit=1)])
    assert opened.reopen().load(1).commit == 4


def test_a_group_may_begin_above_zero(opened: Opened) -> None:
    base = LogBase(41, 3, BASE.configuration)
    opened.store.write([create(base=base), Write(1, entries=entries(42, 43, term=4))])
    image = opened.reopen().load(1)
    assert (image.base, image.applied, image.last_index, image.terms) == (base, 41, 43, [(42, 4)])


@pytest.mark.parametrize("what", ["row", "gap", "term", "state", "payload", "base", "hard state", "applied"])
def test_what_fails_its_checks_is_damaged(opened: Opened, what: str) -> None:
    """Rows that RocksDB would vouch for, and that are wrong all the same."""
    store = opened.store
    store.write([create(), Write(1, entries=entries(1, 9), applied=3, hard_state=HardState(1, MEMBER))])
    batch = Batch()
    row = bytearray(layout.row_of(entry(5)))
    if what == "row":
        row[-20] ^= 4
        batch.put("raft", layout.entry_key(1, 5), bytes(row))
    elif what == "gap":
        batch.delete("raft", layout.entry_key(1, 5))
    elif what == "term":
        batch.put("raft", layout.entry_key(1, 5), layout.row_of(entry(5, term=9)))
    elif what == "state":
        batch.put("raft", layout.entry_key(1, 5), b"\xc1")
    elif what == "base":
        batch.put("node", layout.meta_key(1, layout.BASE), b"\xc1")
    elif what == "hard state":
        batch.put("node", layout.meta_key(1, layout.HARD_STATE), b"\xc1")
    elif what == "applied":
        batch.put("node", layout.meta_key(1, layout.APPLIED), layout.pack_number(10))
    else:
        batch.put("log", payload_key(7, 5), b"x" * 100)
    engine = opened.store._engine
    engine.write(batch)
    if what == "payload":
        with pytest.raises(Damaged, match="fails its CRC"):
            store.entries(1, 5, 5, ALL)
        assert store.entries(1, 1, 4, ALL) == entries(1, 4)
    else:
        with pytest.raises(Damaged):
            store.load(1)


def test_a_snapshot_is_one_moment(opened: Opened) -> None:
    store = opened.store
    store.write([create(), Write(1, entries=entries(1, 9), applied=9, state={b"%d" % n: b"old" for n in range(9)})])
    snapshot = store.open_snapshot(1)
    store.write(
        [
            Write(
                1,
                applied=9,
                state={b"%d" % n: None for n in range(9)},
                delete_payloads=[everything()],
                entries=entries(10, 12),
            )
        ]
    )
    rows: list[tuple[bytes, bytes]] = []
    more = True
    while more:
        piece, more = snapshot.state(rows[-1][0] if rows else None, 1)
        assert len(piece) == 1
        rows += piece
    assert rows == [(b"%d" % n, b"old") for n in range(9)]
    manifest, more = snapshot.manifest([everything()], 4)
    assert (len(manifest), more) == (4, True)
    manifest, more = snapshot.manifest(
        [(payload_key(7, 5), payload_key(7, 6)), (payload_key(7, 8), payload_key(9, 0))], 4
    )
    assert not more
    assert [key for key, _, _ in manifest] == [payload_key(7, 5), payload_key(7, 8), payload_key(7, 9)]
    payloads = snapshot.payloads([key for key, _, _ in manifest], ALL)
    assert payloads == [entry(n).payloads[0] for n in (5, 8, 9)]
    assert [(p.key, len(p.data), p.crc) for p in payloads] == manifest
    assert len(snapshot.payloads([key for key, _, _ in manifest], 1)) == 1
    with pytest.raises(Damaged):
        snapshot.payloads([payload_key(7, 12)], ALL)
    assert snapshot.applied == 9
    snapshot.close()
    with pytest.raises(OSError, match="closed"):
        snapshot.state(None, 1)


def test_records_are_read_by_offset(opened: Opened) -> None:
    written = [(0, b"zero" * 10), (10, b"ten" * 10), (25, b"twentyfive")]
    payloads = [Payload.of(payload_key(3, offset), data) for offset, data in written]
    others = [Payload.of(payload_key(partition, 5), b"other") for partition in (2, 4)]
    opened.store.write([create(), Write(1, payloads=payloads + others)])
    reader = opened.reader
    assert [reader.floor(3, offset) for offset in (0, 9, 10, 24, 25, 1 << 62)] == [0, 0, 10, 10, 25, 25]
    assert reader.floor(1, 99) is None
    assert reader.floor(2, 4) is None
    assert reader.read(3, 0, 100, ALL) == written
    assert reader.read(3, 0, 25, ALL) == written[:2]
    assert reader.read(3, 10, 100, 1) == written[1:2]
    assert reader.read(3, 10, 100, 40) == written[1:]
    assert reader.read(3, 26, 100, ALL) == []


def test_a_tail_truncated_in_the_batch_of_the_switch_takes_its_payloads_along(opened: Opened) -> None:
    """Its payload lies inside what the snapshot keeps, but is none of the snapshot's: it must not stand among them."""
    store = opened.store
    store.write([create(), Write(1, entries=entries(1, 5), commit=4, applied=4)])
    base = LogBase(9, 2, BASE.configuration)
    keep = (payload_key(7, 0), payload_key(7, 9))
    assert payload_key(7, 5) in store.payload_digests([payload_key(7, 5)])
    store.write([Write(1, truncate_from=5, install=Install(base, {}, (keep,), (keep,)))])
    for store in opened.before_and_after_restart():
        kept = [n for n in range(10) if store.payload_digests([payload_key(7, n)])]
        assert kept == [1, 2, 3, 4]
