"""The load generator, a process of its own: `python -m bench.load`.

It takes one `Load` as a JSON line, prepares its connections and bodies, warms up, says that it is ready, begins when
told with another line, and answers one JSON line, `LoadResult`. Each connection is a thread with a blocking socket
that sends the next request once the last was answered: threads spend their time in the kernel, so this takes little
of the CPU that the nodes need.
"""

import base64
import contextlib
import os
import sys
import threading
import time

import msgspec

from bench.client import Answer, Connection, request
from bench.processes import Failed
from bench.results import HttpCase, quantile

_GOOD = b'"error_code":null'
_PAUSE_SECONDS_MAX = 1.0


class Load(msgspec.Struct, frozen=True):
    address: str
    """Of the node that is asked."""
    topic: str
    case: HttpCase
    warm_up: float
    seconds: float
    start: int = 0
    """For reads: the offsets there are, first and past the last."""
    end: int = 0


class LoadResult(msgspec.Struct, frozen=True):
    seconds: float
    requests: int
    records: int
    median_ms: float
    p99_ms: float
    throttled: int


def media_type(format_: str) -> str:
    return f"application/vnd.kafka.{format_}.v2+json"


def produce_body(case: HttpCase) -> bytes:
    """A v2 request; JSON values have exactly `size` bytes, quotes included, and nothing that JSON must escape."""
    values = []
    for _ in range(case.records):
        data = os.urandom(case.size)
        if case.format == "binary":
            values.append(base64.b64encode(data).decode())
        else:
            values.append(base64.b64encode(data).decode()[: case.size - 2])
    return msgspec.json.encode({"records": [{"value": value} for value in values]})


class _Worker:
    """One connection's thread."""

    def __init__(self, load: Load, number: int) -> None:
        self.times: list[tuple[float, float, int]] = []
        """Of each request: when it was answered, the seconds it took, its records."""
        self.throttled = 0
        self.failure: Exception | None = None
        self._load = load
        self._connection = Connection(load.address)
        case = load.case
        if case.produce:
            path = f"/topics/{load.topic}/partitions/0"
            content = media_type(case.format)
            self._raw = request("POST", load.address, path, produce_body(case), content_type=content)
        span = load.end - load.start
        self._offset = load.start + span * number // case.connections

    def run(self, end: float) -> None:
        """Sends requests until `end`; forgets what it knew of earlier ones."""
        self.times, self.throttled = [], 0
        try:
            while (began := time.perf_counter()) < end:
                records = self._produce() if self._load.case.produce else self._read()
                now = time.perf_counter()
                if records:
                    self.times.append((now, now - began, records))
        except Exception as error:  # noqa: BLE001  told by the main thread, which then fails
            self.failure = error

    def _produce(self) -> int:
        case = self._load.case
        answer = self._connection.send(self._raw)
        if self._throttled(answer):
            return 0
        if answer.status != 200 or answer.body.count(_GOOD) != case.records:
            raise Failed(f"produce was answered with status {answer.status}: {answer.text}")
        return case.records

    def _read(self) -> int:
        load, case = self._load, self._load.case
        limit = f"&max_records={case.records}" if case.records == 1 else ""
        path = f"/topics/{load.topic}/partitions/0/records?offset={self._offset}{limit}"
        answer = self._connection.send(request("GET", load.address, path, accept=media_type(case.format)))
        if self._throttled(answer):
            return 0
        if answer.status != 200:
            raise Failed(f"a read at offset {self._offset} was answered with status {answer.status}: {answer.text}")
        records = answer.number("x-next-offset") - self._offset
        if records <= 0 or len(answer.body) < records * case.size:
            raise Failed(f"a read at offset {self._offset} brought {records} records in {len(answer.body)} bytes")
        self._offset += records
        if self._offset >= load.end:
            self._offset = load.start
        return records

    def _throttled(self, answer: Answer) -> bool:
        if answer.status != 429:
            return False
        self.throttled += 1
        time.sleep(min(_PAUSE_SECONDS_MAX, float(answer.headers.get("retry-after", "0.1"))))
        return True


def run_all(workers: list[_Worker], seconds: float) -> LoadResult:
    """All connections at once, for so long."""
    began = time.perf_counter()
    threads = [threading.Thread(target=worker.run, args=(began + seconds,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for worker in workers:
        if worker.failure is not None:
            raise worker.failure
    times = [one for worker in workers for one in worker.times]
    if not times:
        raise Failed(f"no request was answered in {seconds:g} s")
    took = [1000 * each for _, each, _ in times]
    return LoadResult(
        max(now for now, _, _ in times) - began,
        len(times),
        sum(records for _, _, records in times),
        quantile(took, 0.5),
        quantile(took, 0.99),
        sum(worker.throttled for worker in workers),
    )


def main() -> int:
    load = msgspec.json.decode(sys.stdin.buffer.readline(), type=Load)
    workers = [_Worker(load, number) for number in range(load.case.connections)]
    try:
        run_all(workers, load.warm_up)
        _say(b"ready")
        if sys.stdin.buffer.readline():
            _say(msgspec.json.encode(run_all(workers, load.seconds)))
    except (Failed, OSError) as error:
        sys.stderr.write(f"the load generator failed: {error}\n")
        return 1
    return 0


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
