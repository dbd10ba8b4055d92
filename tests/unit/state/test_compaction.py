"""What compaction keeps of batches, against a dictionary; read back by kafka-python and aiokafka as well."""

import gc
import random
import tracemalloc
from collections.abc import Callable, Iterable

import aiokafka.record.default_records
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.record.default_records import DefaultRecordBatch

from raftbroker.state import compaction
from raftbroker.state.batch import (
    HEADER_BYTES,
    TRANSACTIONAL,
    BadBatch,
    Record,
    RecordDraft,
    decode_batch,
    encode_batch,
    parse_header,
    place_batch,
    verify_batch,
)
from raftbroker.state.compaction import Kept, KeyMap, compact_batch
from raftbroker.state.compression import Codec, decompress
from raftbroker.state.compression import compress as pack
from raftbroker.state.control_batch import encode_marker
from raftbroker.state.errors import DamagedBatch
from raftbroker.state.leader import Marker
from raftbroker.state.outline import outline, unpack, without_key
from tests.unit.state.strategies import compress, with_body

T = 1_700_000_000_000
MIB = 1 << 20


class Appended:
    """A batch in the log, and what is known of it apart from its bytes."""

    def __init__(self, data: bytes, aborted: bool = False) -> None:
        self.data, self.aborted = data, aborted
        self.header = parse_header(data)


def draft(key: bytes | None, value: bytes | None = b"value", timestamp: int | None = None) -> RecordDraft:
    return RecordDraft(key, value, (("trace", b"\x00"), ("none", None)), timestamp)


def batch_of(
    drafts: list[RecordDraft],
    codec: Codec = Codec.NONE,
    base: int = 0,
    *,
    append_time: int | None = None,
    attributes: int = 0,
) -> bytes:
    made = encode_batch(
        drafts, base_timestamp=T, producer_id=7, producer_epoch=2, base_sequence=40, attributes=attributes
    )
    if codec is not Codec.NONE:
        made = compress(made, codec)
    return place_batch(made, base, 5, append_time)


def marker(base: int, *, commit: bool) -> bytes:
    return place_batch(encode_marker(Marker(7, 2, 1, commit), T), base, 5)


def learned(batches: Iterable[Appended], bytes_max: int = MIB) -> KeyMap:
    keys = KeyMap(bytes_max)
    for one in batches:
        assert keys.learn(one.data, aborted=one.aborted)
    return keys


def keep(data: bytes, keys: KeyMap, **options: bool) -> Kept:
    chosen = {"aborted": False, "drop_tombstones": False, "drop_marker": False} | options
    return compact_batch(data, keys, **chosen)


def single(records: list[RecordDraft], **options: bool) -> Kept:
    data = batch_of(records)
    return keep(data, learned([Appended(data)]), **options)


# --- against a model ------------------------------------------------------------------------------------------

keys_or_none = st.sampled_from([None, b"", b"a", b"b", b"ab", b"\x00", b"long" * 40])
values = st.none() | st.binary(max_size=40)
times = st.none() | st.integers(T - 1000, T + 1000)


@st.composite
def logs(draw: st.DrawFn) -> list[Appended]:
    """A log of batches of every codec, with offsets that have gaps, aborted transactions and markers."""
    found: list[Appended] = []
    base = draw(st.integers(0, 2**40))
    for _ in range(draw(st.integers(1, 6))):
        if draw(st.integers(0, 5)) == 0:
            found.append(Appended(marker(base, commit=draw(st.booleans()))))
        else:
            drafts = draw(st.lists(st.builds(draft, keys_or_none, values, times), min_size=1, max_size=8))
            aborted = draw(st.integers(0, 4)) == 0
            data = batch_of(
                drafts,
                draw(st.sampled_from(Codec)),
                base,
                append_time=draw(st.none() | st.just(T + 77)),
                attributes=TRANSACTIONAL if aborted else 0,
            )
            found.append(Appended(data, aborted))
        base = found[-1].header.next_offset + draw(st.sampled_from([0, 0, 0, 3]))
    return found


def expected(log: list[Appended], learned_count: int, drop_tombstones: bool) -> list[list[Record]]:
    """What stays of each batch: a record with a key of which no newer one is among those learned."""
    newest: dict[bytes, int] = {}
    for one in log[:learned_count]:
        if not one.aborted:
            newest.update({record.key: record.offset for record in decode_batch(one.data) if record.key is not None})
    return [
        []
        if one.aborted
        else [
            record
            for record in decode_batch(one.data)
            if record.key is not None
            and newest.get(record.key, -1) <= record.offset
            and not (drop_tombstones and record.value is None)
        ]
        for one in log
    ]


def check(log: list[Appended], learned_count: int, drop_tombstones: bool, drop_marker: bool) -> None:
    keys = learned(log[:learned_count])
    assert keys.end == log[learned_count - 1].header.next_offset
    for one, records in zip(log, expected(log, learned_count, drop_tombstones), strict=True):
        kept = keep(one.data, keys, aborted=one.aborted, drop_tombstones=drop_tombstones, drop_marker=drop_marker)
        if one.header.control:
            assert kept.data is (None if drop_marker else one.data)
            continue
        assert (kept.records, kept.removed) == (len(records), one.header.record_count - len(records))
        assert kept.tombstones == sum(record.value is None for record in records)
        if not records:
            assert (kept.data, kept.max_timestamp) == (None, -1)
        elif not kept.removed:
            assert kept.data is one.data
        else:
            assert kept.data is not None
            check_new(one, kept.data, records)


def check_new(one: Appended, data: bytes, records: list[Record]) -> None:
    assert decode_batch(data) == records
    before, after = one.header, verify_batch(data)
    for field in (
        *("base_offset", "last_offset_delta", "next_offset", "leader_epoch", "magic", "attributes", "codec"),
        *("base_timestamp", "producer_id", "producer_epoch", "base_sequence", "last_sequence", "log_append_time"),
    ):
        assert getattr(after, field) == getattr(before, field), field
    assert after.record_count == len(records)
    assert after.max_timestamp == max(record.timestamp for record in records)
    check_elsewhere(data, records)


def check_elsewhere(data: bytes, records: list[Record]) -> None:
    """The same records come out of two independent readers."""
    theirs = DefaultRecordBatch(data)
    assert theirs.validate_crc()
    got = [(r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in theirs]
    assert got == [(r.offset, r.timestamp, r.key, r.value, r.headers) for r in records]
    other = aiokafka.record.default_records.DefaultRecordBatch(data)
    assert other.validate_crc()
    assert [(r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in other] == got
    assert other.next_offset == parse_header(data).next_offset


@settings(max_examples=200)
@given(logs(), st.integers(1, 6), st.booleans(), st.booleans())
def test_newest_of_each_key_stays(log: list[Appended], count: int, drop_tombstones: bool, drop_marker: bool) -> None:
    check(log, min(count, len(log)), drop_tombstones, drop_marker)


@settings(max_examples=100)
@given(logs())
def test_compacting_again_changes_nothing(log: list[Appended]) -> None:
    keys = learned(log)
    once = [kept.data for one in log if (kept := keep(one.data, keys, aborted=one.aborted)).data is not None]
    again = learned(Appended(data) for data in once)
    assert all(keep(data, again).data is data for data in once)


def forgets(keys: KeyMap, batch: bytes, **options: bool) -> bool:
    return parse_header(batch).base_offset % 2 == 0 or LEARN(keys, batch, **options)


def believes_the_aborted(keys: KeyMap, batch: bytes, **options: bool) -> bool:
    return LEARN(keys, batch, aborted=False)


def takes_a_part(keys: KeyMap, base_offset: int, records: list[compaction.Outline]) -> bool:
    return LEARN_RECORDS(keys, base_offset, records[:2])


def keeps_the_oldest(record: compaction.Outline, base: int, keys: KeyMap, drop_tombstones: bool) -> bool:
    return record.key is None or (keys.newest(record.key) or 0) >= base + record.offset_delta


def mistakes_the_empty_key(record: compaction.Outline, base: int, keys: KeyMap, drop_tombstones: bool) -> bool:
    return bool(record.key) and STAYS(record, base, keys, drop_tombstones)


def lets_tombstones_go(record: compaction.Outline, base: int, keys: KeyMap, drop_tombstones: bool) -> bool:
    return not record.tombstone and STAYS(record, base, keys, drop_tombstones)


LEARN, LEARN_RECORDS, STAYS = KeyMap.learn, KeyMap._learn, compaction._stays
PLANTED: list[tuple[object, str, Callable[..., object]]] = [
    (KeyMap, "learn", forgets),
    (KeyMap, "learn", believes_the_aborted),
    (KeyMap, "_learn", takes_a_part),
    (compaction, "_stays", keeps_the_oldest),
    (compaction, "_stays", mistakes_the_empty_key),
    (compaction, "_stays", lets_tombstones_go),
    (compaction, "_digest", lambda key: bytes([len(key)]) * 16),
    (compaction, "compress", lambda codec, data: pack(Codec.GZIP, data)),
    (compaction, "with_records", lambda data, *rest: place_batch(WITH_RECORDS(data, *rest), 0, 5)),
    (compaction, "with_records", lambda data, attributes, newest, *rest: WITH_RECORDS(data, attributes, T, *rest)),
]
WITH_RECORDS = compaction.with_records


@pytest.mark.parametrize(("place", "name", "bug"), PLANTED)
def test_planted_bugs_are_found(
    place: object, name: str, bug: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model sees each of these, in logs drawn without hypothesis, which would shrink them first."""
    monkeypatch.setattr(place, name, bug)
    logs = [drawn(random.Random(seed)) for seed in range(50)]
    with pytest.raises((AssertionError, BadBatch)):
        check_all(logs)


def check_all(logs: list[list[Appended]]) -> None:
    for number, log in enumerate(logs):
        check(log, len(log), number % 2 == 0, True)


def drawn(draw: random.Random) -> list[Appended]:
    log: list[Appended] = []
    base = 1001
    for _ in range(5):
        drafts = [
            draft(draw.choice([None, b"", b"a", b"b", b"ab"]), draw.choice([None, b"v"]), T + draw.randrange(9))
            for _ in range(draw.randrange(1, 6))
        ]
        log.append(Appended(batch_of(drafts, draw.choice(list(Codec)), base), draw.random() < 0.2))
        base = log[-1].header.next_offset
    return log


def test_drawn_logs_are_right() -> None:
    """So that what the planted bugs break is the bug's doing."""
    check_all([drawn(random.Random(seed)) for seed in range(50)])


# --- batches of which nothing, or all, or what cannot be told stays --------------------------------------------


def test_nothing_stays() -> None:
    assert single([draft(None), draft(None)]) == Kept(None, 0, 2, 0, -1)
    assert single([draft(b"a", None)], drop_tombstones=True) == Kept(None, 0, 1, 0, -1)
    assert single([draft(b"a")], aborted=True) == Kept(None, 0, 1, 0, -1)


@pytest.mark.parametrize("codec", Codec)
def test_an_empty_batch_takes_readers_over_its_offsets(codec: Codec) -> None:
    data = batch_of([draft(None), draft(None)], codec, 30, attributes=TRANSACTIONAL)
    kept = keep(data, KeyMap(0), keep_empty=True)
    assert kept.data is not None
    header = verify_batch(kept.data)
    assert (len(kept.data), header.record_count, header.next_offset) == (HEADER_BYTES, 0, 32)
    assert (header.codec, header.transactional, header.producer_id, header.last_sequence) == (Codec.NONE, False, 7, 41)
    assert (kept.records, kept.removed, kept.max_timestamp) == (0, 2, parse_header(data).max_timestamp)
    assert decode_batch(kept.data) == []
    check_elsewhere(kept.data, [])
    again = KeyMap(0)
    assert again.learn(kept.data, aborted=False)
    assert keep(kept.data, again, keep_empty=True).data is kept.data
    assert keep(kept.data, again).data is None


def test_markers() -> None:
    for commit in (False, True):
        data = marker(9, commit=commit)
        keys = learned([Appended(data)])
        assert (keys.count, keys.end) == (0, 10)
        assert keep(data, keys) == Kept(data, 1, 0, 0, T)
        assert keep(data, keys, drop_marker=True) == Kept(None, 0, 1, 0, -1)
        empty = keep(data, keys, drop_marker=True, keep_empty=True).data
        assert empty is not None
        assert not verify_batch(empty).control


def test_append_time_stays() -> None:
    data = batch_of([draft(b"a"), draft(b"b"), draft(b"a")], append_time=T + 99)
    kept = keep(data, learned([Appended(data)]))
    assert kept.data is not None
    assert [(record.offset, record.timestamp) for record in decode_batch(kept.data)] == [(1, T + 99), (2, T + 99)]
    assert kept.max_timestamp == T + 99


def test_offsets_behind_the_map_stay() -> None:
    keys = learned([Appended(batch_of([draft(b"a")], base=4))])
    later = batch_of([draft(b"a"), draft(b"a"), draft(b"new")], base=5)
    assert keep(later, keys).data is later


@pytest.mark.parametrize("body", [b"\xff" * 40, b"\x00", b"", b"\x10\x00\x00\x00\x02k\x10v\x00"])
def test_what_cannot_be_read_stays(body: bytes) -> None:
    data = with_body(batch_of([draft(b"a")]), Codec.NONE, body)
    keys = KeyMap(MIB)
    assert keys.learn(data, aborted=False)
    assert (keys.count, keys.end) == (0, 1)
    assert keep(data, keys) == Kept(data, 1, 0, 0, T, readable=False)
    assert keep(data, keys, aborted=True).data is None


def test_a_bomb_is_not_unpacked() -> None:
    data = batch_of([draft(b"a", bytes(8 * MIB)), draft(b"a")], Codec.ZSTD)
    keys = KeyMap(0)
    tracemalloc.start()
    try:
        assert keys.learn(data, aborted=False, bytes_max=MIB)
        kept = compact_batch(data, keys, aborted=False, drop_tombstones=False, drop_marker=False, bytes_max=MIB)
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()
    assert kept.data is data
    assert not kept.readable


def test_damage_is_raised() -> None:
    data = bytearray(batch_of([draft(b"a")]))
    data[-1] ^= 1
    with pytest.raises(DamagedBatch):
        KeyMap(MIB).learn(bytes(data), aborted=False)
    with pytest.raises(DamagedBatch):
        keep(bytes(data), KeyMap(MIB))
    with pytest.raises(BadBatch):
        keep(batch_of([draft(b"a")]) + b"more", KeyMap(MIB))


@given(st.binary(max_size=60))
def test_any_records_are_read_or_refused(body: bytes) -> None:
    data = with_body(batch_of([draft(b"a"), draft(b"b")]), Codec.NONE, body)
    header = parse_header(data)
    try:
        records = decode_batch(data)
    except BadBatch:
        return  # `outline` does not look at headers, so it may take what is refused here
    assert [(one.key, one.tombstone) for one in outline(header, body)] == [(r.key, r.value is None) for r in records]


def test_records_without_key_are_named() -> None:
    for codec in Codec:
        data = batch_of([draft(b""), draft(None), draft(b"a", None), draft(None, None)], codec)
        assert without_key(parse_header(data), data) == [1, 3]
        assert without_key(parse_header(data), memoryview(data)) == [1, 3]


@given(st.lists(st.builds(draft, st.none() | st.binary(max_size=300), values, times), min_size=1, max_size=300))
def test_outlines_are_what_a_reader_reads(drafts: list[RecordDraft]) -> None:
    data = batch_of(drafts)
    header = parse_header(data)
    body = unpack(header, data)
    records, outlines = decode_batch(data), outline(header, body)
    assert [(r.key, r.value is None, r.offset, r.timestamp - T) for r in records] == [
        (one.key, one.tombstone, one.offset_delta, one.timestamp_delta) for one in outlines
    ]
    assert b"".join(body[one.start : one.end] for one in outlines) == body


# --- the map --------------------------------------------------------------------------------------------------


def many(count: int, base: int = 0, prefix: bytes = b"key-") -> bytes:
    return batch_of([RecordDraft(prefix + b"%d" % number, b"v") for number in range(count)], base=base)


def test_a_full_map_learns_nothing_of_a_batch() -> None:
    keys = KeyMap(12_000)
    half = keys.capacity * 2 // 3
    assert keys.learn(many(half), aborted=False)
    assert not keys.learn(many(half, half, b"other-"), aborted=False)
    assert (keys.count, keys.end, keys.newest(b"other-0")) == (half, half, None)
    assert keys.learn(many(half, half), aborted=False), "keys that it has need no room"
    assert (keys.count, keys.end, keys.newest(b"key-3")) == (half, 2 * half, half + 3)
    assert keys.learn(many(keys.capacity - half, 2 * half, b"fit-"), aborted=False)
    assert keys.count == keys.capacity
    assert not keys.learn(many(1, 10_000, b"one-"), aborted=False)
    assert keys.newest(b"never") is None
    assert keys.learn(many(1, 10_000, b"one-"), aborted=True)


def test_one_key_over_and_over_fits_into_the_smallest_map() -> None:
    data = batch_of([draft(b"same")] * 5000)
    keys = KeyMap(0)
    assert keys.learn(data, aborted=False)
    assert (keys.count, keys.newest(b"same")) == (1, 4999)
    kept = keep(data, keys)
    assert (kept.records, kept.removed) == (1, 4999)


@settings(max_examples=50)
@given(st.integers(0, 3000), st.integers(0, 200_000))
def test_a_map_has_room_for_the_keys_expected(keys_max: int, bytes_max: int) -> None:
    keys = KeyMap(bytes_max, keys_max)
    assert keys.capacity >= min(keys_max, (bytes_max - 4000) // 34)
    assert keys.size_bytes <= max(bytes_max, 7 * 24)
    assert keys.size_bytes <= 31 * keys_max + 4000


def test_memory_is_what_it_was_given() -> None:
    data = [many(2500, 2500 * turn, b"%d-" % turn * 20) for turn in range(12)]
    tracemalloc.start()
    try:
        keys = KeyMap(MIB)
        for one in data:
            assert keys.learn(one, aborted=False)
        gc.collect()  # the interpreter keeps tuples and numbers for later: this lets go of them
        # what the code learning them has asked for; the process may hold threads of which this test knows nothing
        ours = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/raftbroker/state/*")])
    finally:
        tracemalloc.stop()
    taken = sum(trace.size for trace in ours.traces)
    assert keys.count == 30_000
    assert keys.size_bytes <= MIB, "in pages of its own, which tracemalloc does not see"
    assert taken < 4096
    newest = {b"%d-" % turn * 20 + b"%d" % number: 2500 * turn + number for turn in range(12) for number in (0, 2499)}
    assert {key: keys.newest(key) for key in newest} == newest


# --- compression ----------------------------------------------------------------------------------------------


@given(st.sampled_from(Codec), st.binary(max_size=2000) | st.binary(max_size=9).map(lambda part: part * 20_000))
def test_what_is_compressed_is_read_again(codec: Codec, data: bytes) -> None:
    assert bytes(decompress(codec, pack(codec, data), len(data) or 1)) == data


def test_lz4_frames_are_read_by_java() -> None:
    """Its reader takes version 1, independent blocks, and no reserved bits."""
    for data in (b"a", bytes(300_000), random.Random(1).randbytes(300_000)):
        frame = pack(Codec.LZ4, data)
        assert frame[:4] == b"\x04\x22\x4d\x18"
        assert (frame[4] >> 6, frame[4] >> 5 & 1, frame[4] & 3, frame[5] & 0x8F) == (1, 1, 0, 0)
