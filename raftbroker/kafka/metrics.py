"""What the Kafka front door counts: requests and time by API, connections, and the bytes that it holds.

Labels are the APIs that are served, never what a client sends, so the number of series is bounded.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

Labels = tuple[tuple[str, str], ...]


class Metric(NamedTuple):
    """A family of samples in Prometheus's sense."""

    name: str
    kind: str
    """counter or gauge."""
    help: str
    samples: Sequence[tuple[Labels, float]]


class KafkaMetrics:
    def __init__(self) -> None:
        self.requests: dict[str, int] = {}
        """Answered, by API."""
        self.seconds: dict[str, float] = {}
        """From a request's begin to its answer, by API; long polls last as long as their clients want."""
        self.request_bytes = 0
        self.answer_bytes = 0
        self.connections_made = 0
        self.connections_refused = 0
        """Beyond the bound on connections."""
        self.connections_broken = 0
        """Closed for what their clients sent."""
        self.connections_cut = 0
        """Cut off for not taking their answers."""

    def done(self, api: str, seconds: float, request_bytes: int, answer_bytes: int) -> None:
        self.requests[api] = self.requests.get(api, 0) + 1
        self.seconds[api] = self.seconds.get(api, 0.0) + seconds
        self.request_bytes += request_bytes
        self.answer_bytes += answer_bytes

    def families(self, connections: int, requests_held: int, answers_held: int) -> Iterator[Metric]:
        for name, help_, by_api in (
            ("raftbroker_kafka_requests_total", "Kafka requests served.", self.requests),
            ("raftbroker_kafka_request_seconds_total", "Time from their begin to their answers.", self.seconds),
        ):
            yield Metric(name, "counter", help_, [((("api", api),), value) for api, value in sorted(by_api.items())])
        yield Metric("raftbroker_kafka_connections", "gauge", "Kafka clients connected.", [((), connections)])
        for name, help_, value in (
            ("connections_made", "Connections accepted.", self.connections_made),
            ("connections_refused", "Connections closed at once for their number.", self.connections_refused),
            ("connections_broken", "Connections closed for what their clients sent.", self.connections_broken),
            ("connections_cut", "Connections cut off for not taking their answers.", self.connections_cut),
            ("request_bytes", "Bytes of Kafka requests served.", self.request_bytes),
            ("answer_bytes", "Bytes of answers to them.", self.answer_bytes),
        ):
            yield Metric(f"raftbroker_kafka_{name}_total", "counter", help_, [((), value)])
        held: list[tuple[Labels, float]] = [
            ((("what", "requests"),), requests_held),
            ((("what", "answers"),), answers_held),
        ]
        yield Metric("raftbroker_kafka_held_bytes", "gauge", "Bytes of requests and unsent answers.", held)
