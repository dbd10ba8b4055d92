"""The bytes between two nodes: frames of u32 length | version byte | body (C7).

The length is big-endian and counts the version byte and the body. After the handshake a body is a msgpack list of
messages; an empty list says only "still here". A frame is bounded: a longer one, an empty one or one of another
version is a `BadFrame`, which costs the sender its connection and nothing else.

`FrameReader` receives straight into its own buffer, which grows to the size of the frame under way, so that a large
frame is neither joined from pieces nor scanned twice. The bodies it hands out are views into that buffer, good
only until the next call. On the way out, `pieces_of` leaves large byte strings where they are: a megabyte that goes
to two followers is not copied even once before the kernel takes it.
"""

import struct
from collections.abc import Callable

import msgspec

from consensus.errors import ConsensusError
from consensus.messages import Append, Message, Request, Response, SnapshotPiece, decode_messages

VERSION = 1
FRAME_BYTES_SOFT = 1 << 20
"""A frame takes no further message once it would pass this: the receiver works while the rest is under way."""

_BUFFER_BYTES = 64 << 10
_BUFFER_BYTES_KEPT = 4 << 20
_BUFFER_STEP = 256 << 10
_LARGE_BYTES = 64 << 10
"""From here on a byte string is worth a piece of its own."""
_LENGTH = struct.Struct(">I")
_HEAD = struct.Struct(">IB")
_ARRAY16 = struct.Struct(">BH")
_ARRAY32 = struct.Struct(">BI")
_ARRAY4 = tuple(bytes((0x90 | count,)) for count in range(16))
_BYTES32 = struct.Struct(">BI")

encode_any = msgspec.msgpack.Encoder().encode
encode_message: Callable[[Message], bytes] = encode_any


class BadFrame(ConsensusError):
    """What was received is not a frame of this protocol; the message says what is wrong with it."""


def seal(body: bytes) -> bytes:
    """One frame around a body."""
    return _HEAD.pack(len(body) + 1, VERSION) + body


def array_head(count: int) -> bytes:
    """What precedes the items of a msgpack array."""
    if count < 16:
        return _ARRAY4[count]
    return _ARRAY16.pack(0xDC, count) if count < 1 << 16 else _ARRAY32.pack(0xDD, count)


def frame_head(count: int, size: int) -> bytes:
    """What precedes `count` encoded messages of `size` bytes together in a frame."""
    array = array_head(count)
    return _HEAD.pack(1 + len(array) + size, VERSION) + array


FRAME_HEAD_BYTES = len(frame_head(1, 0))
"""What precedes a message that has a frame to itself; messages that share one have less of it each."""
FRAME_OVERHEAD_BYTES = FRAME_HEAD_BYTES - 4
"""What a frame holds beside its only message."""
PING = frame_head(0, 0)


def frames_of(messages: list[bytes]) -> list[bytes]:
    """The encoded messages in frames of about `FRAME_BYTES_SOFT`, as pieces to be written one after the other."""
    pieces: list[bytes] = []
    first, size = 0, 0
    for position, message in enumerate(messages):
        if size and size + len(message) > FRAME_BYTES_SOFT:
            pieces.append(frame_head(position - first, size))
            pieces += messages[first:position]
            first, size = position, 0
        size += len(message)
    pieces.append(frame_head(len(messages) - first, size))
    pieces += messages[first:]
    return pieces


def messages_of(frame: memoryview) -> list[Message]:
    """The messages in a frame (version byte and body). Raises BadFrame for anything that is not such a list."""
    if frame[0] != VERSION:
        raise BadFrame(f"a frame of version {frame[0]}; this node speaks version {VERSION}")
    body = frame[1:]
    if len(body) >= 5 and body[0] == 0xDD and _LENGTH.unpack_from(body, 1)[0] > len(body):
        raise BadFrame("a list that claims more messages than its frame has bytes")
    try:
        return decode_messages(body)
    except (msgspec.MsgspecError, ValueError, RecursionError, MemoryError) as error:
        raise BadFrame(f"a frame that is not a list of messages ({error})") from error


def pieces_of(message: Message) -> list[bytes] | None:
    """What `encode_message` gives, in pieces that leave the large byte strings in place; None where there are none."""
    match message:
        case Append(entries=entries):
            large = any(len(payload.data) >= _LARGE_BYTES for entry in entries for payload in entry.payloads)
        case SnapshotPiece(payloads=payloads):
            large = any(len(payload.data) >= _LARGE_BYTES for payload in payloads)
        case Request(body=body) | Response(body=body):
            large = len(body) >= _LARGE_BYTES
        case _:
            return None
    if not large:
        return None
    pieces: list[bytes] = []
    rest = bytearray()
    _cut(message, pieces, rest)
    pieces.append(bytes(rest))
    return pieces


def _cut(value: object, pieces: list[bytes], rest: bytearray) -> None:
    """Encodes `value` onto `rest`, which becomes a piece whenever a large byte string, a piece as it is, comes."""
    if isinstance(value, bytes) and len(value) >= _LARGE_BYTES:
        pieces.append(bytes(rest) + _BYTES32.pack(0xC6, len(value)))
        pieces.append(value)
        rest.clear()
    elif isinstance(value, msgspec.Struct):
        tag = value.__struct_config__.tag
        fields = [getattr(value, field) for field in value.__struct_fields__]
        _cut(tuple(fields) if tag is None else (tag, *fields), pieces, rest)
    elif isinstance(value, tuple):
        rest += array_head(len(value))
        for item in value:
            _cut(item, pieces, rest)
    else:
        rest += encode_any(value)


class FrameReader:
    """Cuts the received bytes into frames."""

    __slots__ = ("_end", "_large", "_start", "_view", "bytes_max")

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        """The longest frame taken, version byte and body."""
        self._view = memoryview(bytearray(_BUFFER_BYTES))
        self._start = 0
        self._end = 0
        self._large = False

    def space(self) -> memoryview:
        """Where to receive next; never empty."""
        return self._view[self._end :]

    def filled(self, count: int) -> bool:
        """Takes `count` received bytes; whether they filled all the space there was."""
        self._end += count
        return self._end == len(self._view)

    def next(self) -> memoryview | None:
        """The next whole frame without its length, or None until more was received. Raises BadFrame."""
        view, start = self._view, self._start
        available = self._end - start
        if available < 4:
            self._make_room(4)
            return None
        length: int = _LENGTH.unpack_from(view, start)[0]
        if not 1 < length <= self.bytes_max:
            raise BadFrame(f"a frame of {length} bytes, where 2 to {self.bytes_max} are allowed")
        if available - 4 < length:
            self._make_room(4 + length)
            return None
        self._start = start = start + 4 + length
        return view[start - length : start]

    def shrink(self) -> None:
        """Gives back a buffer that no large frame has needed since the last call."""
        if not self._large and len(self._view) > _BUFFER_BYTES and self._end - self._start <= _BUFFER_BYTES // 2:
            self._move(_BUFFER_BYTES)
        self._large = False

    def _make_room(self, needed: int) -> None:
        """Sees to it that a frame of `needed` bytes fits from `_start` on, with something left to receive into."""
        capacity = len(self._view)
        if needed > _BUFFER_BYTES:
            self._large = True
        elif capacity > _BUFFER_BYTES_KEPT:
            self._move(_BUFFER_BYTES)
            return
        if self._start == self._end:
            self._start = self._end = 0
        if needed > capacity:
            self._move(-(-needed // _BUFFER_STEP) * _BUFFER_STEP)
        elif needed > capacity - self._start:
            self._move(capacity)

    def _move(self, capacity: int) -> None:
        rest = self._view[self._start : self._end]
        if capacity != len(self._view):
            self._view = memoryview(bytearray(max(capacity, len(rest) + 4)))
        self._view[: len(rest)] = rest
        self._start, self._end = 0, len(rest)
