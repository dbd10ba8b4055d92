"""What an idempotent producer sent behind a batch that was refused: refused for the same reason.

A producer may have five requests under way. When the first is refused for a passing reason (no leader yet, a full disk,
too few replicas), those behind it must not be appended: after a producer's first batches, which the partition's state
knows nothing of, any sequence would be taken, and the first one's repetition come out of order. Nor should they be
called out of order: librdkafka then takes a new epoch, under which it repeats what may have been appended already.

Remembered for as long as requests under way may come in; then the partition's state alone decides. Bounded; the oldest
goes first.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from raftbroker.state.batch import SEQUENCE_MAX, BatchHeader

KEEP_SECONDS = 10.0


class _Gap(NamedTuple):
    epoch: int
    sequence: int
    """Of the first record that was refused."""
    error: Exception
    until: float


class Gaps:
    def __init__(self, clock: Callable[[], float], most: int = 10_000) -> None:
        self._clock = clock
        self._most = most
        self._gaps: OrderedDict[tuple[int, int], _Gap] = OrderedDict()

    def refused(self, partition: int, header: BatchHeader, error: Exception) -> None:
        """The batch was certainly not appended, and may come again."""
        if header.producer_id < 0:
            return
        if self.before(partition, header) is not None:
            return
        place = partition, header.producer_id
        self._gaps[place] = _Gap(header.producer_epoch, header.base_sequence, error, self._clock() + KEEP_SECONDS)
        self._gaps.move_to_end(place)
        if len(self._gaps) > self._most:
            self._gaps.popitem(last=False)

    def before(self, partition: int, header: BatchHeader) -> Exception | None:
        """Why a batch of the same producer and epoch before this one was refused; None where none is missing. The
        missing one itself, or another epoch, ends the gap."""
        if not self._gaps:
            return None
        place = partition, header.producer_id
        gap = self._gaps.get(place)
        if gap is None:
            return None
        ahead = (header.base_sequence - gap.sequence) & SEQUENCE_MAX
        if header.producer_epoch == gap.epoch and 0 < ahead <= SEQUENCE_MAX // 2 and self._clock() < gap.until:
            return gap.error
        if header.producer_epoch >= gap.epoch:
            del self._gaps[place]
        return None
