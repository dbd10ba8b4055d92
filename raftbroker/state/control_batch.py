"""Control batches: the markers that end transactions, as Kafka's clients read them (KIP-98).

A batch of one record with attributes transactional and control. Its key is version i16 = 0 and type i16 (0 abort, 1
commit), its value version i16 = 0 and the coordinator's epoch i32. Clients look at the type and skip the record.
"""

import struct

from raftbroker.state.batch import CONTROL, TRANSACTIONAL, RecordDraft, encode_batch
from raftbroker.state.leader import Marker

_KEY = struct.Struct(">hh")
_VALUE = struct.Struct(">hi")
_ABORT, _COMMIT = 0, 1


def encode_marker(marker: Marker, timestamp_ms: int, coordinator_epoch: int = 0) -> bytes:
    """The marker as a batch with base offset 0. `coordinator_epoch` is for people who read logs; clients ignore it."""
    record = RecordDraft(_KEY.pack(0, _COMMIT if marker.commit else _ABORT), _VALUE.pack(0, coordinator_epoch))
    return encode_batch(
        [record],
        base_timestamp=timestamp_ms,
        producer_id=marker.producer_id,
        producer_epoch=marker.epoch,
        attributes=TRANSACTIONAL | CONTROL,
    )
