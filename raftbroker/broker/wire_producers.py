"""What nodes ask of the control leader for their idempotent producers."""

import msgspec

from raftbroker.broker.wire import Answer, Method


class AllocateRequest(msgspec.Struct, frozen=True, array_like=True):
    """`count` producer ids for `node` to give out; the answer is the first of them."""

    node: int
    count: int
    timeout: float


ALLOCATE_PRODUCER_IDS = Method("control.allocate_producer_ids.1", AllocateRequest, Answer[int])
