"""Markers: the ends of transactions in the logs of their partitions, written by the partitions' leaders.

A marker may be asked for again and again: one that is in the log already, or on its way there, is not written twice.
What a partition knows of a transaction that has ended is in `state.leader`.
"""

import asyncio
from collections.abc import Sequence

from consensus.errors import Refused
from consensus.model import Payload
from raftbroker.broker.context import Context
from raftbroker.broker.group_writer import GroupWriter
from raftbroker.broker.produce import Producer
from raftbroker.broker.wire_transactions import MarkersRequest, PlacedMarker
from raftbroker.state.batch import parse_header, place_batch
from raftbroker.state.control_batch import encode_marker
from raftbroker.state.errors import FencedEpoch, PartitionDropped
from raftbroker.state.keys import payload_key
from raftbroker.state.leader import Accept, Duplicate
from raftbroker.state.partition_commands import AppendBatches, AppendHeader, encode_partition


class Markers:
    def __init__(self, context: Context, producer: Producer) -> None:
        self._context = context
        self._producer = producer

    async def write_here(self, request: MarkersRequest) -> int:
        """Raises NotLeader and other Refused, Unknown."""
        await self._context.as_far_as(request)
        writer = self._producer.writer(request.group)
        written, in_flight = self._write(writer, request.markers, request.timeout)
        for one in in_flight:
            await asyncio.shield(one)
        return written

    def _write(
        self, writer: GroupWriter, markers: Sequence[PlacedMarker], timeout: float
    ) -> tuple[int, list["asyncio.Future[int]"]]:
        """Decides, places and proposes, in one call. How many are new, and what has to end well for all to be
        written."""
        term, time_ms = writer.group.term, writer.time_ms()
        waited: list[asyncio.Future[int]] = []
        fate: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        appends: list[AppendHeader] = []
        payloads: list[Payload] = []
        for one in markers:
            try:
                decision = writer.decisions.decide_marker(one.partition, one.marker)
            except (FencedEpoch, PartitionDropped):
                continue  # nothing of the transaction is there, nor ever will be
            if isinstance(decision, Duplicate):
                assert isinstance(decision.token, asyncio.Future)
                waited.append(decision.token)
            elif isinstance(decision, Accept):
                batch = place_batch(encode_marker(one.marker, time_ms, term), decision.base_offset, term)
                header = parse_header(batch)
                appends.append(
                    writer.decisions.accepted(one.partition, header, decision, token=fate, marker=one.marker)
                )
                payloads.append(Payload.of(payload_key(one.partition, decision.base_offset), batch))
        if appends:
            waited.append(fate)
            self._propose(writer, AppendBatches(time_ms, tuple(appends)), payloads, timeout, fate)
        return len(appends), waited

    def _propose(
        self,
        writer: GroupWriter,
        command: AppendBatches,
        payloads: Sequence[Payload],
        timeout: float,
        fate: "asyncio.Future[int]",
    ) -> None:
        try:
            entry = writer.group.propose(encode_partition(command), payloads, timeout=timeout)
        except Refused:
            for append in reversed(command.batches):
                writer.decisions.withdraw(append.partition, append.base_offset)
            raise
        for append, payload in zip(command.batches, payloads, strict=True):
            writer.keep(append, payload)
        entry.add_done_callback(lambda done: _share(done, fate))


def _share(entry: "asyncio.Future[int]", fate: "asyncio.Future[int]") -> None:
    error = entry.exception()
    if error is None:
        fate.set_result(entry.result())
        return
    fate.set_exception(error)
    fate.exception()  # those who wait have it; where nobody does any more, that is no fault
