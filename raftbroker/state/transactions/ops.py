"""What may be asked of a transactional id (tags 30 to 59), and what becomes of it. `name` is the transactional id.

Every outcome says its `error`, None for done. Each of these ops may be repeated: what was done the first time is done.
"""

from enum import IntEnum, StrEnum
from typing import ClassVar

import msgspec

from raftbroker.state.shard import Op, Query

IDS_MAX = 50_000
"""Transactional ids in one shard. One that is idle is forgotten after its time; then there is room for others."""
PARTITIONS_MAX = 5_000
"""In one transaction."""
GROUPS_MAX = 1_000
"""Consumer groups in one transaction."""
EPOCH_MAX = 2**15 - 1
"""Producer epochs are i16. The last is kept for fencing the one before; then comes a new producer id."""


class TxnError(StrEnum):
    """Why a transaction refused an op, as Kafka names its error codes."""

    CONCURRENT_TRANSACTIONS = "CONCURRENT_TRANSACTIONS"
    """The transaction before is still being completed: ask again in a moment."""
    COORDINATOR_NOT_AVAILABLE = "COORDINATOR_NOT_AVAILABLE"
    """There are too many transactional ids."""
    INVALID_PRODUCER_ID_MAPPING = "INVALID_PRODUCER_ID_MAPPING"
    INVALID_REQUEST = "INVALID_REQUEST"
    """The transaction has too many partitions or groups."""
    INVALID_TXN_STATE = "INVALID_TXN_STATE"
    PRODUCER_FENCED = "PRODUCER_FENCED"
    TRANSACTIONAL_ID_NOT_FOUND = "TRANSACTIONAL_ID_NOT_FOUND"


class TxnState(IntEnum):
    """As it is stored; `title` is what Kafka's tools call it."""

    EMPTY = 0
    ONGOING = 1
    PREPARE_COMMIT = 2
    PREPARE_ABORT = 3
    COMPLETE_COMMIT = 4
    COMPLETE_ABORT = 5

    @property
    def title(self) -> str:
        return self.name.title().replace("_", "")

    @property
    def decided(self) -> bool:
        """The outcome is certain, and not yet everywhere."""
        return self in (TxnState.PREPARE_COMMIT, TxnState.PREPARE_ABORT)


class Done(msgspec.Struct, frozen=True, array_like=True):
    error: TxnError | None = None


class Initialized(msgspec.Struct, frozen=True, array_like=True):
    error: TxnError | None = None
    producer_id: int = -1
    epoch: int = -1


class InitProducer(Op[Initialized], frozen=True, array_like=True, tag=30, kw_only=True):
    """A producer begins, or goes on after an error, with the next epoch. What is open is aborted first: the answer is
    CONCURRENT_TRANSACTIONS until that has been done."""

    outcome: ClassVar[type[Initialized]] = Initialized

    new_producer_id: int
    """Drawn by the asker; used where the transactional id is new or its epochs are used up."""
    expected_id: int = -1
    expected_epoch: int = -1
    """What the producer goes on from (KIP-360); -1 where it is a new one."""
    timeout_ms: int
    """Of its transactions."""
    retain_ms: int
    """How long the transactional id is remembered while it is idle."""


class AddToTransaction(Op[Done], frozen=True, array_like=True, tag=31, kw_only=True):
    """Partitions (their ids) and consumer groups become part of the transaction, which begins with the first."""

    outcome: ClassVar[type[Done]] = Done

    producer_id: int
    epoch: int
    partitions: tuple[int, ...] = ()
    groups: tuple[str, ...] = ()


class EndTransaction(Op[Done], frozen=True, array_like=True, tag=32, kw_only=True):
    """Decides the transaction."""

    outcome: ClassVar[type[Done]] = Done

    producer_id: int
    epoch: int
    commit: bool


class CompleteTransaction(Op[Done], frozen=True, array_like=True, tag=33):
    """All partitions and groups know how the transaction of this number has ended."""

    outcome: ClassVar[type[Done]] = Done

    number: int


# --- queries --------------------------------------------------------------------------------------------------


class Verified(msgspec.Struct, frozen=True, array_like=True):
    error: TxnError | None = None
    number: int = 0
    """Of the transaction that is open."""


class VerifyTransaction(Query[Verified], frozen=True, array_like=True, tag=30, kw_only=True):
    """Whether all of these are part of the producer's open transaction; INVALID_TXN_STATE where not (KIP-890)."""

    answer: ClassVar[type[Verified]] = Verified

    producer_id: int
    epoch: int
    partitions: tuple[int, ...] = ()
    groups: tuple[str, ...] = ()


class TransactionView(msgspec.Struct, frozen=True, array_like=True):
    error: TxnError | None = None
    name: str = ""
    state: TxnState = TxnState.EMPTY
    producer_id: int = -1
    epoch: int = -1
    timeout_ms: int = 0
    age_ms: int = -1
    """How long ago the transaction began; -1 while there is none."""
    partitions: tuple[int, ...] = ()
    groups: tuple[str, ...] = ()


class DescribeTransaction(Query[TransactionView], frozen=True, array_like=True, tag=31):
    answer: ClassVar[type[TransactionView]] = TransactionView


class TransactionList(msgspec.Struct, frozen=True, array_like=True):
    transactions: tuple[TransactionView, ...]
    """Without their partitions and groups."""


class ListTransactions(Query[TransactionList], frozen=True, array_like=True, tag=32, kw_only=True):
    """Those of one shard; `name` says nothing. Empty filters let everything pass."""

    answer: ClassVar[type[TransactionList]] = TransactionList

    states: tuple[TxnState, ...] = ()
    producer_ids: tuple[int, ...] = ()
    age_ms: int = -1
    """Only transactions that have been open for longer; -1 for all."""
