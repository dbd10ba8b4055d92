"""What the handlers of transactions share: how refusals are told to clients.

A client that is told NOT_COORDINATOR or COORDINATOR_NOT_AVAILABLE finds the coordinator anew and repeats its request,
which does no harm even if it was carried out.
"""

import logging

from consensus.errors import ConsensusError, NotLeader
from raftbroker.broker.errors import BrokerError, Internal, Rejected
from raftbroker.kafka.errors import ErrorCode, code_of
from raftbroker.state.transactions.ops import TxnError

log = logging.getLogger(__name__)

FENCED_FROM = 2
"""The version from which on clients of AddPartitionsToTxn, AddOffsetsToTxn and EndTxn know PRODUCER_FENCED."""


def refusal(error: TxnError | None, version: int) -> ErrorCode:
    """The code of what a transaction answers."""
    if error is None:
        return ErrorCode.NONE
    if error is TxnError.PRODUCER_FENCED and version < FENCED_FROM:
        return ErrorCode.INVALID_PRODUCER_EPOCH
    return ErrorCode[error]


def failure(error: BrokerError | ConsensusError) -> ErrorCode:
    """The code of what kept a request from being decided."""
    if isinstance(error, NotLeader):
        return ErrorCode.NOT_COORDINATOR
    if isinstance(error, Internal):
        log.error("a request about a transaction failed: %s", error)
        return ErrorCode.UNKNOWN_SERVER_ERROR
    return code_of(error) if isinstance(error, Rejected) else ErrorCode.COORDINATOR_NOT_AVAILABLE
