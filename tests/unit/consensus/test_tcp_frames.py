"""Framing: any cut of the byte stream gives the same frames; what is no frame gives BadFrame and nothing else."""

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus import frames
from consensus.frames import (
    BadFrame,
    FrameReader,
    encode_message,
    frame_head,
    frames_of,
    messages_of,
    pieces_of,
    seal,
)
from consensus.messages import (
    Append,
    AppendReply,
    Message,
    Request,
    Response,
    SnapshotPiece,
    decode_messages,
    encode_messages,
)
from consensus.model import Entry, EntryKind, Payload
from tests.unit.consensus.tcp_world import beat, frame_of, large


def read(stream: bytes, cuts: random.Random, bytes_max: int = 64 << 20, step_max: int = 100_000) -> list[bytes]:
    """The frames in the stream when it arrives in pieces of random sizes."""
    reader = FrameReader(bytes_max)
    found: list[bytes] = []
    position = 0
    while position < len(stream):
        space = reader.space()
        assert len(space), "there is always something left to receive into"
        count = min(len(space), len(stream) - position, cuts.randint(1, step_max))
        space[:count] = stream[position : position + count]
        position += count
        reader.filled(count)
        while (frame := reader.next()) is not None:
            found.append(bytes(frame))
        if cuts.random() < 0.02:
            reader.shrink()
    return found


@given(
    st.lists(st.integers(1, 300) | st.integers(60_000, 70_000) | st.sampled_from([5 << 20, 1 << 20]), max_size=12),
    st.randoms(use_true_random=False),
    st.sampled_from([1, 7, 5_000, 200_000, 10 << 20]),
)
@settings(max_examples=25, deadline=None)
def test_frames_survive_any_cut(sizes: list[int], cuts: random.Random, step_max: int) -> None:
    if step_max < 5_000:
        sizes = [min(size, 3_000) for size in sizes]
    bodies = [bytes((position % 251,)) * size for position, size in enumerate(sizes)]
    stream = b"".join(seal(body) for body in bodies)
    assert read(stream, cuts, step_max=step_max) == [b"\x01" + body for body in bodies]


def test_the_buffer_follows_what_it_must_hold() -> None:
    reader = FrameReader(64 << 20)
    assert len(reader._view) == 64 << 10
    frame = seal(b"x" * (20 << 20))
    position = 0
    while position < len(frame):
        space = reader.space()
        count = min(len(space), len(frame) - position)
        space[:count] = frame[position : position + count]
        reader.filled(count)
        position += count
        found = reader.next()
    assert found is not None
    assert len(found) == (20 << 20) + 1
    assert len(reader._view) < 21 << 20
    assert reader.next() is None
    assert len(reader._view) == 64 << 10, "a very large buffer is given back at once"


@pytest.mark.parametrize("length", [0, 1, 1025, 1 << 31, (1 << 32) - 1])
def test_a_length_out_of_bounds_is_refused_before_the_bytes_come(length: int) -> None:
    reader = FrameReader(1024)
    reader.space()[:4] = length.to_bytes(4, "big")
    reader.filled(4)
    with pytest.raises(BadFrame, match=f"a frame of {length} bytes, where 2 to 1024 are allowed"):
        reader.next()
    assert len(reader._view) == 64 << 10


@given(st.lists(st.sampled_from([0, 1, 50, 70_000, 600_000, 1 << 20, 2 << 20]), min_size=1, max_size=40))
@settings(max_examples=30, deadline=None)
def test_messages_are_framed_in_order_and_in_moderate_frames(sizes: list[int]) -> None:
    messages = [Request(number, "m", b"x" * size, 0) for number, size in enumerate(sizes)]
    stream = b"".join(frames_of([encode_message(message) for message in messages]))
    found = read(stream, random.Random(1), step_max=10 << 20)
    lists = [decode_messages(frame[1:]) for frame in found]
    assert [message for frame in lists for message in frame] == messages
    for frame, decoded in zip(found, lists, strict=True):
        assert len(frame) <= frames.FRAME_BYTES_SOFT + 10 or len(decoded) == 1


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 65_535, 65_536, 70_000])
def test_a_frame_of_many_messages_is_what_the_codec_makes(count: int) -> None:
    messages: list[Message] = [beat(1)] * count
    encoded = [encode_message(message) for message in messages]
    framed = frame_head(count, sum(map(len, encoded))) + b"".join(encoded)
    assert framed == frame_of(encode_messages(messages))


payloads = st.builds(
    lambda key, size: Payload.of(key, b"p" * size),
    st.binary(max_size=20),
    st.sampled_from([0, 9, 65_535, 65_536, 99_999]),
)
entries = st.builds(
    lambda index, command, parts: Entry.of(3, index, EntryKind.COMMAND, command, tuple(parts)),
    st.integers(0, 1 << 60),
    st.binary(max_size=300) | st.just(b"c" * 70_000),
    st.lists(payloads, max_size=20),
)
big_messages = st.one_of(
    st.builds(lambda parts: Append(1, 2, 3, 4, tuple(parts), 5), st.lists(entries, max_size=18)),
    st.builds(
        lambda parts, after: SnapshotPiece(1, 2, 3, 4, 5, ((after, after),), ((after, 1, 2),), tuple(parts), True, 7),
        st.lists(payloads, max_size=3),
        st.binary(max_size=80),
    ),
    st.builds(lambda size: Request(1, "method", b"b" * size, 1 << 31), st.sampled_from([0, 65_535, 65_536, 100_000])),
    st.builds(lambda size: Response(1, "Error", b"b" * size), st.sampled_from([0, 65_535, 65_536, 100_000])),
    st.just(AppendReply(1, 2, 3)),
)


@given(big_messages)
@settings(max_examples=100, deadline=None)
def test_pieces_are_the_encoding_with_the_large_parts_left_in_place(message: Message) -> None:
    pieces = pieces_of(message)
    encoded = encode_message(message)
    if pieces is None:
        assert len(encoded) < (1 << 16) * 20
    else:
        assert b"".join(pieces) == encoded
        assert decode_messages(b"\x91" + b"".join(pieces)) == [message]
    if isinstance(message, Append):
        data = [p.data for entry in message.entries for p in entry.payloads if len(p.data) >= 1 << 16]
        assert (pieces is not None) == bool(data)
        assert all(any(piece is part for piece in pieces or ()) for part in data), "not copied"


HOSTILE = [
    b"",
    b"\xc0",
    b"\x91\xc0",
    b"\x91\x90",
    b"\x91\x91\x63",
    b"\x91\x92\x0a\x01",
    b"\x80",
    b"\x90\x90",
    b"\xdd\xff\xff\xff\xff",
    b"\xdc\xff\xff",
    b"\xdd\x7f\xff\xff\xff" + b"\x00" * 20,
    b"\x91" * 100_000,
    b"\x91\x95\x1e\x01\xd9\x02\xff\xfe\xc4\x00\x00",
    encode_messages([large(800)])[:-1],
    encode_messages([large(800)]) + b"\x00",
]


@pytest.mark.parametrize("body", HOSTILE, ids=lambda body: body[:8].hex() or "empty")
def test_known_bad_bodies_are_bad_frames(body: bytes) -> None:
    with pytest.raises(BadFrame):
        messages_of(memoryview(b"\x01" + body))


def test_another_version_is_named() -> None:
    with pytest.raises(BadFrame, match="a frame of version 2; this node speaks version 1"):
        messages_of(memoryview(b"\x02\x90"))


SAMPLES = encode_messages(
    [
        beat(1),
        Append(1, 2, 3, 4, (Entry.of(1, 2, 1, b"command", (Payload.of(b"key", b"data"),)),), 5),
        Request(1, "method", b"body", 1000),
        Response(1, "", b"body"),
    ]
)


def mutate(sample: bytes, randomness: random.Random) -> bytes:
    changed = bytearray(sample)
    for _ in range(randomness.randint(1, 4)):
        changed[randomness.randrange(len(changed))] = randomness.choice((0, 0x90, 0xC1, 0xC6, 0xDD, 0xFF, 0x7F))
    return bytes(changed)


mutated = st.builds(lambda randomness: mutate(SAMPLES, randomness), st.randoms(use_true_random=False))


@given(st.binary(max_size=200) | mutated)
@settings(max_examples=400, deadline=None)
def test_whatever_comes_is_messages_or_a_bad_frame(body: bytes) -> None:
    try:
        found = messages_of(memoryview(b"\x01" + body))
    except BadFrame:
        return
    assert msgspec.msgpack.decode(encode_messages(found)) is not None
