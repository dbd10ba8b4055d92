"""Record batches against kafka-python's bytes, against themselves, and against hostile bytes."""

import gzip
import struct
import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftbroker.state.batch import (
    HEADER_BYTES,
    BadBatch,
    Record,
    RecordDraft,
    check_batch,
    decode_batch,
    encode_batch,
    parse_header,
    place_batch,
    split_batches,
    verify_batch,
)
from raftbroker.state.compression import Codec
from tests.unit.state import vectors
from tests.unit.state.strategies import compress, drafts, seal, timestamps, with_body

T = 1_700_000_000_000
ONE = encode_batch([RecordDraft(b"key", b"value")], base_timestamp=T)


def read(records: list[RecordDraft], base_timestamp: int) -> list[Record]:
    return [
        Record(r.key, r.value, r.headers, base_timestamp if r.timestamp is None else r.timestamp, offset)
        for offset, r in enumerate(records)
    ]


def test_encoding_gives_the_bytes_of_kafka_python() -> None:
    assert place_batch(encode_batch(vectors.RECORDS, base_timestamp=T), 0, 0) == vectors.NONE


def test_encoding_for_a_producer_gives_the_bytes_of_kafka_python() -> None:
    batch = encode_batch(vectors.RECORDS, base_timestamp=T, producer_id=4711, producer_epoch=3, base_sequence=2**31 - 2)
    assert place_batch(batch, 0, 0) == vectors.IDEMPOTENT
    header = check_batch(vectors.IDEMPOTENT)
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (4711, 3, 2**31 - 2)
    assert header.last_sequence == 0  # 2^31 - 2, 2^31 - 1, then 0


@pytest.mark.parametrize("name", ["NONE", "IDEMPOTENT", "GZIP", "SNAPPY", "LZ4", "ZSTD"])
def test_reading_what_kafka_python_made(name: str) -> None:
    batch: bytes = getattr(vectors, name)
    header = check_batch(batch)
    assert (header.record_count, header.count, header.size) == (3, 3, len(batch))
    assert (header.base_timestamp, header.max_timestamp) == (T, T + 5)
    assert header.codec.name == ("NONE" if name == "IDEMPOTENT" else name)
    assert decode_batch(batch) == read(vectors.RECORDS, T)


@given(st.lists(drafts, min_size=1, max_size=8), timestamps)
def test_round_trip(records: list[RecordDraft], base_timestamp: int) -> None:
    batch = encode_batch(records, base_timestamp=base_timestamp)
    assert decode_batch(batch) == read(records, base_timestamp)
    header = check_batch(batch)
    assert header.max_timestamp == max(record.timestamp for record in read(records, base_timestamp))
    assert (header.count, header.next_offset, header.last_sequence) == (len(records), len(records), -1)


@pytest.mark.parametrize("codec", [Codec.GZIP, Codec.SNAPPY, Codec.LZ4, Codec.ZSTD])
@pytest.mark.parametrize("raw_snappy", [False, True])
def test_round_trip_compressed(codec: Codec, raw_snappy: bool) -> None:
    records = [RecordDraft(b"%d" % n, b"value %d " % n * 100) for n in range(300)]
    packed = compress(encode_batch(records, base_timestamp=T), codec, raw_snappy=raw_snappy)
    assert check_batch(packed).codec is codec
    assert decode_batch(packed) == read(records, T)


def test_long_fields_and_many_records() -> None:
    records = [RecordDraft(b"k" * 9000, b"v" * 100_000)] + [RecordDraft()] * 9000
    assert decode_batch(encode_batch(records, base_timestamp=T)) == read(records, T)


@given(st.lists(st.sampled_from([0, 1, 62, 63, 64, 100, 1024, 8190, 8191, 8192]), min_size=1, max_size=100))
def test_records_with_nothing_but_a_value_are_encoded_like_any(sizes: list[int]) -> None:
    values = [bytes([position]) * size for position, size in enumerate(sizes)]
    batch = encode_batch([RecordDraft(None, value) for value in values], base_timestamp=T)
    assert batch == encode_batch([RecordDraft(None, value, (), T) for value in values], base_timestamp=T)
    other = encode_batch([*(RecordDraft(None, value) for value in values), RecordDraft(b"key")], base_timestamp=T)
    assert other[HEADER_BYTES:].startswith(batch[HEADER_BYTES:])
    assert [(record.key, record.value, record.headers, record.timestamp) for record in decode_batch(batch)] == [
        (None, value, (), T) for value in values
    ]


def test_plain_records_between_others() -> None:
    records = [
        RecordDraft(None, b"a" * 100),
        RecordDraft(b"key", b"b" * 100),
        RecordDraft(None, b"c" * 100, (("name", b"value"),)),
        RecordDraft(None, b"d" * 100, (), T + 1),
        RecordDraft(None, b"e" * 10),
        RecordDraft(None, b"f" * 100),
    ]
    batch = encode_batch(records, base_timestamp=T)
    assert decode_batch(batch) == read(records, T)
    assert decode_batch(place_batch(batch, 7, 1, T + 9)) == [
        Record(r.key, r.value, r.headers, T + 9, 7 + position) for position, r in enumerate(records)
    ]


@pytest.mark.parametrize("last", [b"\x02", b"\xff"])
def test_a_plain_record_that_does_not_end_in_no_headers(last: bytes) -> None:
    body = encode_batch([RecordDraft(None, b"a" * 100)], base_timestamp=T)[HEADER_BYTES:-1] + last
    with pytest.raises(BadBatch):
        decode_batch(with_body(ONE, Codec.NONE, body))


def test_a_batch_needs_a_record() -> None:
    with pytest.raises(ValueError, match="at least one"):
        encode_batch([], base_timestamp=T)


# --- placing --------------------------------------------------------------------------------------------


def test_placing_sets_offset_and_epoch_and_nothing_else() -> None:
    placed = place_batch(ONE, 2**40, 7)
    header = check_batch(placed)
    assert (header.base_offset, header.leader_epoch, header.next_offset) == (2**40, 7, 2**40 + 1)
    assert placed[16:] == ONE[16:]
    assert decode_batch(placed)[0].offset == 2**40


def test_placing_with_append_time_gives_every_record_that_time() -> None:
    batch = compress(encode_batch(vectors.RECORDS, base_timestamp=T), Codec.ZSTD)
    placed = place_batch(batch, 5, 1, append_time_ms=T + 1000)
    header = verify_batch(placed)
    assert header.log_append_time
    assert header.max_timestamp == T + 1000
    assert [(record.offset, record.timestamp) for record in decode_batch(placed)] == [
        (5, T + 1000),
        (6, T + 1000),
        (7, T + 1000),
    ]


def test_a_term_beyond_32_bits_stays_a_valid_epoch() -> None:
    assert verify_batch(place_batch(ONE, 0, 2**31 + 5)).leader_epoch == 5


def test_splitting() -> None:
    batches = [vectors.NONE, ONE, vectors.ZSTD]
    assert split_batches(b"".join(batches)) == batches
    assert split_batches(b"") == []
    for cut in (1, 11, 60, len(ONE) - 1):
        with pytest.raises(BadBatch):
            split_batches(vectors.NONE + ONE[:cut])


# --- refusals -------------------------------------------------------------------------------------------


def patched(batch: bytes, layout: str, at: int, number: int) -> bytes:
    changed = bytearray(batch)
    struct.pack_into(layout, changed, at, number)
    return seal(bytes(changed))


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        (b"", "at least 61"),
        (ONE[:60], "at least 61"),
        (ONE[:-1], "there are"),
        (ONE + b"x", "there are"),
        (ONE[:16] + b"\x01" + ONE[17:], "magic 1"),
        (ONE[:-1] + b"\x7f", "CRC"),
        (patched(ONE, ">i", 57, 2), "last offset delta"),
        (patched(ONE, ">i", 57, 0), "last offset delta"),
        (patched(ONE, ">i", 57, -1), "last offset delta"),
        (patched(ONE, ">i", 23, -1), "last offset delta"),
        (patched(ONE, ">i", 23, 1), "last offset delta"),
        (patched(ONE, ">h", 21, 5), "codec 5"),
        (patched(ONE, ">h", 21, 0x08), "LogAppendTime"),
        (patched(ONE, ">h", 21, 0x10), "transactional id, which is missing"),
        (patched(ONE, ">h", 21, 0x20), "control"),
        (patched(ONE, ">h", 21, 0x80), "bits"),
        (patched(ONE, ">q", 43, -2), "negative"),
        (patched(ONE, ">q", 43, 5), "idempotent producer sends both"),
        (patched(patched(ONE, ">i", 57, 10**6), ">i", 23, 10**6 - 1), "do not fit"),
    ],
)
def test_what_a_producer_may_not_send(batch: bytes, reason: str) -> None:
    with pytest.raises(BadBatch, match=reason):
        check_batch(batch)


def test_every_flipped_bit_under_the_crc_is_found() -> None:
    for position in range(16, len(ONE)):
        damaged = bytearray(ONE)
        damaged[position] ^= 0x10
        with pytest.raises(BadBatch):
            check_batch(bytes(damaged))


def test_a_control_batch_reads_as_no_records() -> None:
    assert decode_batch(patched(ONE, ">h", 21, 0x20)) == []


def test_too_much_behind_compression_is_refused() -> None:
    batch = encode_batch([RecordDraft(None, bytes(1 << 20))] * 4, base_timestamp=T)
    for codec in (Codec.GZIP, Codec.SNAPPY, Codec.LZ4, Codec.ZSTD):
        for raw_snappy in (False, True):
            packed = compress(batch, codec, raw_snappy=raw_snappy)
            assert len(decode_batch(packed, bytes_max=5 << 20)) == 4
            with pytest.raises(BadBatch, match="holds more than"):
                decode_batch(packed, bytes_max=3 << 20)


def test_the_bound_is_exact() -> None:
    batch = encode_batch([RecordDraft(None, bytes(100_000))], base_timestamp=T)
    size = len(batch) - HEADER_BYTES
    for codec in (Codec.GZIP, Codec.SNAPPY, Codec.LZ4, Codec.ZSTD):
        packed = compress(batch, codec)
        assert len(decode_batch(packed, bytes_max=size)) == 1
        with pytest.raises(BadBatch):
            decode_batch(packed, bytes_max=size - 1)


def test_a_bomb_is_stopped_before_it_goes_off() -> None:
    bomb = gzip.compress(bytes(64 << 20), 6)
    tracemalloc.start()
    try:
        with pytest.raises(BadBatch, match="holds more than"):
            decode_batch(with_body(ONE, Codec.GZIP, bomb), bytes_max=1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_size_that_snappy_only_claims_is_not_believed() -> None:
    for body in (b"\xff\xff\xff\xff\x0f\0", b"\x82SNAPPY\0" + bytes(11) + b"\x06\xff\xff\xff\xff\x0f\0"):
        with pytest.raises(BadBatch, match="holds more than"):
            decode_batch(with_body(ONE, Codec.SNAPPY, body))


def test_xerial_blocks_that_are_cut_off() -> None:
    whole = compress(encode_batch([RecordDraft(None, b"v" * 90_000)], base_timestamp=T), Codec.SNAPPY)[HEADER_BYTES:]
    for cut in (9, 17, 19, 20, len(whole) - 1):
        with pytest.raises(BadBatch):
            decode_batch(with_body(ONE, Codec.SNAPPY, whole[:cut]))


def test_gzip_members_in_a_row_are_one_stream() -> None:
    body = encode_batch([RecordDraft(b"k", b"v")], base_timestamp=T)[HEADER_BYTES:]
    halves = [compress(with_body(ONE, Codec.NONE, part), Codec.GZIP)[HEADER_BYTES:] for part in (body[:4], body[4:])]
    assert decode_batch(with_body(ONE, Codec.GZIP, b"".join(halves)))[0].value == b"v"


def test_records_that_lie_about_their_lengths() -> None:
    body = ONE[HEADER_BYTES:]
    assert body[:5] == bytes([2 * (len(body) - 1), 0, 0, 0, 6])
    for bad in (
        bytes([body[0] + 2]) + body[1:],
        bytes([body[0] - 2]) + body[1:],
        bytes([1]) + body[1:],
        body[:4] + bytes([100]) + body[5:],
        body[:4] + bytes([3]) + body[5:],
        body[:3] + bytes([2]) + body[4:],
        body[:-1] + bytes([2]),
        body + b"\0",
        b"\x80" * 20,
        b"",
    ):
        with pytest.raises(BadBatch):
            decode_batch(with_body(ONE, Codec.NONE, bad))


# --- hostile bytes raise BadBatch only ------------------------------------------------------------------


def survives(data: bytes) -> None:
    for function in (parse_header, check_batch, split_batches):
        with suppress(BadBatch):
            function(data)
    with suppress(BadBatch):
        decode_batch(data, bytes_max=1 << 16)


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    survives(data)


@given(st.sampled_from(list(Codec)), st.binary(max_size=200), st.integers(-1, 5))
def test_any_bytes_as_records(codec: Codec, body: bytes, count: int) -> None:
    batch = patched(patched(with_body(ONE, codec, body), ">i", 57, count), ">i", 23, count - 1)
    survives(batch)


@given(st.sampled_from(["NONE", "GZIP", "SNAPPY", "LZ4", "ZSTD"]), st.data())
def test_sound_batches_with_changed_bytes_under_a_good_crc(name: str, data: st.DataObject) -> None:
    changed = bytearray(getattr(vectors, name))
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(21, len(changed) - 1))] = data.draw(st.integers(0, 255))
    del changed[data.draw(st.integers(HEADER_BYTES, len(changed))) :]
    survives(seal(bytes(changed)))
