"""What the coordinator of a transaction asks of the leaders of its partitions."""

import msgspec

from raftbroker.broker.wire import Answer, Method
from raftbroker.state.leader import Marker


class PlacedMarker(msgspec.Struct, frozen=True, array_like=True):
    partition: int
    """Its id."""
    marker: Marker


class MarkersRequest(msgspec.Struct, frozen=True, array_like=True):
    """Markers for partitions of one Raft group. Answered once each is committed, or not needed."""

    control: int
    group: int
    timeout: float
    markers: tuple[PlacedMarker, ...]


WRITE_MARKERS = Method("write_markers.1", MarkersRequest, Answer[int])
"""Answers how many were written now. May be repeated."""
