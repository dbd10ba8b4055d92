"""Counters and histograms of the front door, and the writer of Prometheus's text format (version 0.0.4).

Labels come only from the route table and from a closed set of words, never from what a client sends, so the number of
series is bounded. Counting is a dictionary look-up and an addition; text is only made when somebody scrapes.
"""

from bisect import bisect_left
from collections.abc import Iterable

import msgspec

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

Labels = tuple[tuple[str, str], ...]


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class TextWriter:
    """Collects samples by family, each family once with its HELP and TYPE, as the format demands."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def family(self, name: str, kind: str, help_: str, samples: Iterable[tuple[Labels, float]]) -> None:
        self._lines += (f"# HELP {name} {help_}", f"# TYPE {name} {kind}")
        for labels, value in samples:
            self.sample(name, labels, value)

    def sample(self, name: str, labels: Labels, value: float) -> None:
        shown = repr(float(value)) if isinstance(value, float) and not value.is_integer() else str(int(value))
        inner = ",".join(f'{key}="{_escape(text)}"' for key, text in labels)
        self._lines.append(f"{name}{{{inner}}} {shown}" if inner else f"{name} {shown}")

    def counter(self, name: str, help_: str, value: float) -> None:
        self.family(name, "counter", help_, [((), value)])

    def gauge(self, name: str, help_: str, value: float) -> None:
        self.family(name, "gauge", help_, [((), value)])

    def header(self, name: str, kind: str, help_: str) -> None:
        self._lines += (f"# HELP {name} {help_}", f"# TYPE {name} {kind}")

    def text(self) -> bytes:
        return ("\n".join(self._lines) + "\n").encode()


class Histogram:
    """Counts of durations in fixed buckets, and their sum."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.sum += seconds

    def write(self, writer: TextWriter, name: str, labels: Labels) -> None:
        total = 0
        for bound, count in zip((*map(str, SECONDS), "+Inf"), self.counts, strict=True):
            total += count
            writer.sample(f"{name}_bucket", (*labels, ("le", bound)), total)
        writer.sample(f"{name}_sum", labels, self.sum)
        writer.sample(f"{name}_count", labels, total)


class HttpMetrics(msgspec.Struct):
    """What the front door has done since the node started."""

    requests: dict[tuple[str, str, int], int] = {}
    """By method, route and status."""
    durations: dict[str, Histogram] = {}
    """By route; long polls and streams last as long as their clients want."""
    request_bytes: int = 0
    response_bytes: int = 0
    records_in: int = 0
    records_failed: int = 0
    records_out: int = 0

    def done(self, method: str, route: str, status: int, seconds: float) -> None:
        key = (method, route, status)
        self.requests[key] = self.requests.get(key, 0) + 1
        histogram = self.durations.get(route)
        if histogram is None:
            histogram = self.durations[route] = Histogram()
        histogram.observe(seconds)

    def write(self, writer: TextWriter) -> None:
        writer.family(
            "raftbroker_http_requests_total",
            "counter",
            "HTTP requests answered.",
            (
                ((("method", method), ("route", route), ("status", str(status))), count)
                for (method, route, status), count in sorted(self.requests.items())
            ),
        )
        name = "raftbroker_http_request_duration_seconds"
        writer.header(name, "histogram", "Time from a request's headers to the end of its answer.")
        for route, histogram in sorted(self.durations.items()):
            histogram.write(writer, name, (("route", route),))
        writer.counter("raftbroker_http_request_bytes_total", "Bytes of request bodies read.", self.request_bytes)
        writer.counter("raftbroker_http_response_bytes_total", "Bytes of response bodies sent.", self.response_bytes)
        writer.counter("raftbroker_http_records_in_total", "Records produced over HTTP.", self.records_in)
        writer.counter(
            "raftbroker_http_records_failed_total", "Records refused or failed over HTTP.", self.records_failed
        )
        writer.counter("raftbroker_http_records_out_total", "Records read over HTTP.", self.records_out)
