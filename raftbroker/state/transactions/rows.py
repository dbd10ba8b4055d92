"""What is on disk: b"x" + transactional id (UTF-8) -> `Transaction`."""

import msgspec

from raftbroker.state.transactions.ops import TxnState

KIND = b"x"


class Transaction(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A transactional id, its producer, and its last transaction."""

    producer_id: int
    epoch: int
    """-1 before the first InitProducerId has ended."""
    last_epoch: int = -1
    """What the producer had before its last InitProducerId, where that said it: one repeated is recognised by it."""
    last_producer_id: int = -1
    """As that, where the producer id was replaced as well."""
    timeout_ms: int
    retain_ms: int
    state: TxnState = TxnState.EMPTY
    number: int = 0
    """Of the last transaction; they count from 1."""
    partitions: tuple[int, ...] = ()
    """Ids, in the order in which they were added."""
    groups: tuple[str, ...] = ()
    began_ms: int = -1
    updated_ms: int


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Transaction).decode


def key(name: str) -> bytes:
    return KIND + name.encode()
