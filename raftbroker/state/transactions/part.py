"""Transactional ids and their transactions, decided as their ops are applied. See the package."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from raftbroker.state.shard import Change, Op, Query
from raftbroker.state.transactions import rows
from raftbroker.state.transactions.deadlines import Deadlines
from raftbroker.state.transactions.ops import (
    EPOCH_MAX,
    GROUPS_MAX,
    IDS_MAX,
    PARTITIONS_MAX,
    AddToTransaction,
    CompleteTransaction,
    DescribeTransaction,
    Done,
    EndTransaction,
    Initialized,
    InitProducer,
    ListTransactions,
    TransactionList,
    TransactionView,
    TxnError,
    TxnState,
    Verified,
    VerifyTransaction,
)
from raftbroker.state.transactions.rows import Transaction

DUE_MAX = 100
"""Time-outs, and ids forgotten, with one entry; the rest follow with the next."""
DECIDED = "\0decided transactions"
"""This name is touched when a transaction has been decided."""

_replace = msgspec.structs.replace
_ENDED = {TxnState.PREPARE_COMMIT: TxnState.COMPLETE_COMMIT, TxnState.PREPARE_ABORT: TxnState.COMPLETE_ABORT}


class TransactionsPart:
    ops: tuple[type[Op[Any]], ...] = (InitProducer, AddToTransaction, EndTransaction, CompleteTransaction)
    queries: tuple[type[Query[Any]], ...] = (VerifyTransaction, DescribeTransaction, ListTransactions)
    kinds = rows.KIND

    def __init__(self, ids_max: int = IDS_MAX) -> None:
        self._ids_max = ids_max
        self._transactions: dict[str, Transaction] = {}
        self._decided: dict[str, None] = {}
        self._open = Deadlines()
        self._idle = Deadlines()
        self._time_ms = 0
        self._apply: Mapping[type[Op[Any]], Callable[[Any, Change], Any]] = {
            InitProducer: self._init,
            AddToTransaction: self._add,
            EndTransaction: self._end,
            CompleteTransaction: self._complete,
        }

    # --- shard.Part ---------------------------------------------------------------------------------------

    def restore(self, rows_: dict[bytes, bytes]) -> None:
        self._transactions, self._decided = {}, {}
        self._open, self._idle = Deadlines(), Deadlines()
        for key, value in rows_.items():
            self._hold(key[1:].decode(), rows.decode(value))

    def apply(self, op: Any, change: Change) -> Any:
        self._time_ms = change.time_ms
        return self._apply[type(op)](op, change)

    def rows(self) -> dict[bytes, bytes]:
        return {rows.key(name): rows.encode(one) for name, one in self._transactions.items()}

    def next_deadline(self) -> int | None:
        """Of time-outs. Ids are forgotten in passing, with whatever else an entry is written for."""
        first = self._open.first()
        return None if first is None else first[0]

    def advance(self, change: Change) -> None:
        self._time_ms = change.time_ms
        for _ in range(DUE_MAX):
            first = self._open.first()
            if first is None or first[0] > change.time_ms:
                break
            self._fence(first[1], change)
        for _ in range(DUE_MAX):
            first = self._idle.first()
            if first is None or first[0] > change.time_ms:
                break
            self._forget(first[1], change)

    def payload_ranges(self) -> list[tuple[int, int]]:
        return []

    def query(self, query: Any) -> Any:
        if isinstance(query, VerifyTransaction):
            return self._verify(query)
        if isinstance(query, DescribeTransaction):
            found = self._transactions.get(query.name)
            if found is None:
                return TransactionView(TxnError.TRANSACTIONAL_ID_NOT_FOUND, query.name)
            return self._view(query.name, found, whole=True)
        assert isinstance(query, ListTransactions)
        return self._list(query)

    # --- reads --------------------------------------------------------------------------------------------

    def transaction(self, name: str) -> Transaction | None:
        return self._transactions.get(name)

    def decided(self) -> tuple[str, ...]:
        """The transactional ids whose transaction is decided and not yet complete, the oldest first."""
        return tuple(self._decided)

    def _verify(self, query: VerifyTransaction) -> Verified:
        error, one = self._producer(query.name, query.producer_id, query.epoch)
        if one is None:
            return Verified(error)
        if one.state.decided:
            return Verified(TxnError.CONCURRENT_TRANSACTIONS)
        belongs = set(query.partitions) <= set(one.partitions) and set(query.groups) <= set(one.groups)
        if one.state is not TxnState.ONGOING or not belongs:
            return Verified(TxnError.INVALID_TXN_STATE)
        return Verified(None, one.number)

    def _view(self, name: str, one: Transaction, *, whole: bool) -> TransactionView:
        age_ms = max(0, self._time_ms - one.began_ms) if one.began_ms >= 0 else -1
        view = TransactionView(None, name, one.state, one.producer_id, one.epoch, one.timeout_ms, age_ms)
        return _replace(view, partitions=one.partitions, groups=one.groups) if whole else view

    def _list(self, query: ListTransactions) -> TransactionList:
        found = [
            view
            for name, one in self._transactions.items()
            if (not query.states or one.state in query.states)
            and (not query.producer_ids or one.producer_id in query.producer_ids)
            and (view := self._view(name, one, whole=False)).age_ms >= query.age_ms
        ]
        return TransactionList(tuple(found))

    # --- ops ----------------------------------------------------------------------------------------------

    def _producer(self, name: str, producer_id: int, epoch: int) -> tuple[TxnError | None, Transaction | None]:
        """The transactional id, where this is its producer; else why not."""
        one = self._transactions.get(name)
        if one is None or one.producer_id != producer_id:
            return TxnError.INVALID_PRODUCER_ID_MAPPING, None
        return (None, one) if one.epoch == epoch else (TxnError.PRODUCER_FENCED, None)

    def _init(self, op: InitProducer, change: Change) -> Initialized:
        one = self._transactions.get(op.name)
        if one is None:
            if len(self._transactions) >= self._ids_max:
                return Initialized(TxnError.COORDINATOR_NOT_AVAILABLE)
            one = Transaction(
                producer_id=op.new_producer_id,
                epoch=-1,
                timeout_ms=op.timeout_ms,
                retain_ms=op.retain_ms,
                updated_ms=change.time_ms,
            )
        elif not _may_go_on(one, op):
            return Initialized(TxnError.PRODUCER_FENCED)
        if one.state.decided:
            return Initialized(TxnError.CONCURRENT_TRANSACTIONS)
        if one.state is TxnState.ONGOING:
            if op.expected_id >= 0 and op.expected_epoch != one.epoch:
                return Initialized(TxnError.PRODUCER_FENCED)
            self._fence(op.name, change)
            return Initialized(TxnError.CONCURRENT_TRANSACTIONS)
        following = _next_producer(one, op)
        if following is None:
            return Initialized(TxnError.PRODUCER_FENCED)
        self._put(op.name, following, change)
        return Initialized(None, following.producer_id, following.epoch)

    def _fence(self, name: str, change: Change) -> None:
        """Aborts what is open, whose producer may not go on."""
        one = self._transactions[name]
        self._put(name, _replace(one, epoch=one.epoch + 1, last_epoch=-1, state=TxnState.PREPARE_ABORT), change)

    def _add(self, op: AddToTransaction, change: Change) -> Done:
        error, one = self._producer(op.name, op.producer_id, op.epoch)
        if one is None:
            return Done(error)
        if one.state.decided:
            return Done(TxnError.CONCURRENT_TRANSACTIONS)
        if one.state is TxnState.ONGOING:
            partitions, groups = _merged(one.partitions, op.partitions), _merged(one.groups, op.groups)
            if (partitions, groups) == (one.partitions, one.groups):
                return Done()
            following = _replace(one, partitions=partitions, groups=groups)
        else:
            following = _replace(
                one,
                state=TxnState.ONGOING,
                number=one.number + 1,
                partitions=_merged((), op.partitions),
                groups=_merged((), op.groups),
                began_ms=change.time_ms,
            )
        if len(following.partitions) > PARTITIONS_MAX or len(following.groups) > GROUPS_MAX:
            return Done(TxnError.INVALID_REQUEST)
        self._put(op.name, following, change)
        return Done()

    def _end(self, op: EndTransaction, change: Change) -> Done:
        error, one = self._producer(op.name, op.producer_id, op.epoch)
        if one is None:
            return Done(error)
        if one.state is TxnState.ONGOING:
            state = TxnState.PREPARE_COMMIT if op.commit else TxnState.PREPARE_ABORT
            self._put(op.name, _replace(one, state=state), change)
            return Done()
        ended = (
            (TxnState.PREPARE_COMMIT, TxnState.COMPLETE_COMMIT)
            if op.commit
            else (
                TxnState.PREPARE_ABORT,
                TxnState.COMPLETE_ABORT,
            )
        )
        return Done() if one.state in ended else Done(TxnError.INVALID_TXN_STATE)

    def _complete(self, op: CompleteTransaction, change: Change) -> Done:
        one = self._transactions.get(op.name)
        if one is not None and one.state.decided and one.number == op.number:
            ended = _ENDED[one.state]
            self._put(op.name, _replace(one, state=ended, partitions=(), groups=(), began_ms=-1), change)
        return Done()

    # --- the state ----------------------------------------------------------------------------------------

    def _put(self, name: str, one: Transaction, change: Change) -> None:
        one = _replace(one, updated_ms=change.time_ms)
        self._hold(name, one)
        change.put(rows.key(name), rows.encode(one))
        change.touched(name)
        if one.state.decided:
            change.touched(DECIDED)

    def _hold(self, name: str, one: Transaction) -> None:
        self._transactions[name] = one
        self._open.discard(name)
        self._idle.discard(name)
        self._decided.pop(name, None)
        if one.state is TxnState.ONGOING:
            self._open.set(name, one.began_ms + one.timeout_ms)
        elif one.state.decided:
            self._decided[name] = None
        else:
            self._idle.set(name, one.updated_ms + one.retain_ms)

    def _forget(self, name: str, change: Change) -> None:
        del self._transactions[name]
        self._idle.discard(name)
        change.delete(rows.key(name))


def _merged(known: tuple[Any, ...], added: tuple[Any, ...]) -> tuple[Any, ...]:
    """In the order in which they came, each once."""
    new = dict.fromkeys(added)
    for one in known:
        new.pop(one, None)
    return (*known, *new) if new else known


def _exhausted(epoch: int) -> bool:
    return epoch >= EPOCH_MAX - 1


def _may_go_on(one: Transaction, op: InitProducer) -> bool:
    """Whether the producer that asks to go on can be this one, or is a new one."""
    if op.expected_id < 0 or op.expected_id == one.producer_id:
        return True
    return op.expected_id == one.last_producer_id and _exhausted(op.expected_epoch)


def _next_producer(one: Transaction, op: InitProducer) -> Transaction | None:
    """With nothing open: who the producer is from now on; None where it has been fenced."""
    goes_on = op.expected_id >= 0
    ended = _replace(one, state=TxnState.EMPTY, timeout_ms=op.timeout_ms, retain_ms=op.retain_ms)
    if not goes_on or one.epoch < 0 or op.expected_epoch == one.epoch:
        last = one.epoch if goes_on else -1
        if _exhausted(one.epoch):
            return _replace(
                ended,
                producer_id=op.new_producer_id,
                epoch=0,
                last_producer_id=one.producer_id if goes_on else -1,
                last_epoch=last,
            )
        return _replace(ended, epoch=one.epoch + 1, last_epoch=last, last_producer_id=-1)
    if op.expected_epoch == one.last_epoch:
        return ended
    return None
