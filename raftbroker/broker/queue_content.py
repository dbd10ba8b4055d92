"""A message's content as it is stored: a payload of its shard, opaque to the state, one for each message.

Everything that no decision needs is here: body, key, headers, the time at which it was sent, and in a dead-letter queue
where it comes from. A message keeps its content when it moves, but for that.
"""

import hashlib

import msgspec

from raftbroker.broker.errors import Internal
from raftbroker.broker.queue_views import DeadLetter

FORMAT = 1


class Content(msgspec.Struct, frozen=True, array_like=True):
    format: int
    body: bytes
    is_json: bool
    key: str | None
    headers: tuple[tuple[str, str], ...]
    timestamp: int
    receipt: str = ""
    """In a dead-letter queue: where the sender is told once the message has been brought back."""
    dead_letter: DeadLetter | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Content).decode


def encode_content(content: Content) -> bytes:
    return _encode(content)


def decode_content(data: bytes) -> Content:
    """Raises Internal."""
    try:
        content = _decode(data)
    except msgspec.DecodeError as error:
        raise Internal(f"a queue's message cannot be read: {error}") from error
    if content.format != FORMAT:
        raise Internal(f"a queue's message has format {content.format}: a newer raftbroker wrote it")
    return content


def key_hash(key: str | None) -> int:
    """Below 2**64; 0 for no key."""
    if key is None:
        return 0
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") or 1


def id_hash(text: str) -> bytes:
    """16 bytes that stand for a client's own id."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
