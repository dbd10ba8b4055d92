"""Which batches count for a reader of committed transactions (KIP-98), as Kafka's clients tell."""

from collections.abc import Iterator, Sequence

from raftbroker.state.batch import parse_header


def committed(batches: Sequence[bytes], aborted: Sequence[tuple[int, int]]) -> Iterator[tuple[bytes, bool]]:
    """Each of the batches, all below the last stable offset, and whether its records count: those of aborted
    transactions and markers do not. `aborted` has (producer id, first offset) of every aborted transaction that
    overlaps the batches, ascending by first offset."""
    skipped: set[int] = set()
    following = 0
    for batch in batches:
        header = parse_header(batch)
        while following < len(aborted) and aborted[following][1] < header.next_offset:
            skipped.add(aborted[following][0])
            following += 1
        if header.control:
            skipped.discard(header.producer_id)
        yield batch, not (header.control or (header.transactional and header.producer_id in skipped))
