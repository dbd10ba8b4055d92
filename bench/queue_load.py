"""The load generator for queues, a process of its own: `python -m bench.queue_load`.

It takes one `QueueLoad` as a JSON line, and then one `QueuePhase` a line until its standard input ends, each answered
with a `QueueRate`. Each client is a thread with a connection of its own that sends the next request once the last was
answered. What a client has received it keeps until a phase acknowledges it.
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
from bench.results import QueuePhase, QueueRate, quantile

LOCK_MS = 3_600_000
"""No lock runs out while it is measured."""
WAIT_MS = 5_000
"""A receive that does not wait may be told of nothing while others are being decided."""
JSON = "application/json"
_PAUSE_SECONDS = 0.1


class QueueLoad(msgspec.Struct, frozen=True):
    address: str
    """Of the node that is asked."""
    queue: str
    size: int
    """Bytes of one message's body."""


class _Received(msgspec.Struct, frozen=True):
    lock_token: str


class _Answered(msgspec.Struct, frozen=True):
    messages: list[_Received]


_answered = msgspec.json.Decoder(_Answered).decode


class Supply:
    """How many messages the clients of a phase may still ask for together."""

    def __init__(self, count: int | None) -> None:
        self._left = count
        self._lock = threading.Lock()

    def take(self, wanted: int) -> int:
        with self._lock:
            if self._left is None:
                return wanted
            count = min(wanted, self._left)
            self._left -= count
            return count


class Client:
    """One client's thread: what it does in a phase, and what it holds between phases."""

    def __init__(self, load: QueueLoad) -> None:
        self.times: list[tuple[float, float, int]] = []
        """Of each request: when it was answered, the seconds it took, its messages."""
        self.throttled = 0
        self.failure: Exception | None = None
        self._load = load
        self._connection = Connection(load.address)
        self._tokens: list[str] = []
        self._made: dict[tuple[str, int], bytes] = {}
        """Requests that are all alike, by what they ask for."""

    def run(self, phase: QueuePhase, supply: Supply, end: float) -> None:
        """Requests until `end`, until the supply is used up, or until there is nothing to do."""
        self.times, self.throttled = [], 0
        step = {"send": self._send, "receive": self._receive, "acknowledge": self._acknowledge}[phase.verb]
        try:
            while (began := time.perf_counter()) < end:
                count = supply.take(phase.batch)
                done = step(count) if count else None
                if done is None:
                    return
                now = time.perf_counter()
                if done:
                    self.times.append((now, now - began, done))
        except Exception as error:  # noqa: BLE001  told by the main thread, which then fails
            self.failure = error

    def _make(self, verb: str, body: object) -> bytes:
        path = f"/queues/{self._load.queue}/{verb}"
        return request("POST", self._load.address, path, msgspec.json.encode(body), content_type=JSON)

    def _ask(self, raw: bytes) -> Answer | None:
        """The answer; None where it is to be tried again."""
        answer = self._connection.send(raw)
        if answer.status == 429:
            self.throttled += 1
            time.sleep(_PAUSE_SECONDS)
            return None
        if answer.status != 200:
            raise Failed(f"a request to queue {self._load.queue} was answered {answer.status}: {answer.text}")
        return answer

    def _send(self, count: int) -> int | None:
        raw = self._made.get(("messages", count))
        if raw is None:
            text = base64.b64encode(os.urandom(self._load.size)).decode()[: self._load.size - 2]
            raw = self._made["messages", count] = self._make("messages", {"messages": [{"body": text}] * count})
        return count if self._ask(raw) is not None else 0

    def _receive(self, count: int) -> int | None:
        """None once the queue is empty."""
        raw = self._made.get(("receive", count))
        if raw is None:
            raw = self._made["receive", count] = self._make(
                "receive", {"max_messages": count, "lock_ms": LOCK_MS, "wait_ms": WAIT_MS}
            )
        answer = self._ask(raw)
        if answer is None:
            return 0
        found = _answered(answer.body).messages
        self._tokens += [message.lock_token for message in found]
        return len(found) or None

    def _acknowledge(self, count: int) -> int | None:
        """None once this client holds nothing."""
        tokens = self._tokens[-count:]
        if not tokens:
            return None
        answer = self._ask(self._make("ack", {"lock_tokens": tokens}))
        if answer is None:
            return 0
        if b'"error_code"' in answer.body:
            raise Failed(f"an acknowledgement was refused: {answer.text}")
        del self._tokens[-len(tokens) :]
        return len(tokens)


def run_phase(clients: list[Client], phase: QueuePhase) -> QueueRate:
    """All clients at once. Raises Failed."""
    supply = Supply(phase.messages_max)
    began = time.perf_counter()
    threads = [
        threading.Thread(target=client.run, args=(phase, supply, began + phase.seconds_max)) for client in clients
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for client in clients:
        if client.failure is not None:
            raise client.failure
    times = [one for client in clients for one in client.times]
    if not times:
        raise Failed(f"nothing was done in {phase.name}")
    took = [1000 * each for _, each, _ in times]
    return QueueRate(
        phase,
        max(now for now, _, _ in times) - began,
        len(times),
        sum(count for _, _, count in times),
        quantile(took, 0.5),
        quantile(took, 0.99),
        sum(client.throttled for client in clients),
    )


def main() -> int:
    lines = sys.stdin.buffer
    load = msgspec.json.decode(lines.readline(), type=QueueLoad)
    clients: list[Client] = []
    try:
        for line in iter(lines.readline, b""):
            phase = msgspec.json.decode(line, type=QueuePhase)
            clients += [Client(load) for _ in range(phase.clients - len(clients))]
            sys.stdout.buffer.write(msgspec.json.encode(run_phase(clients[: phase.clients], phase)) + b"\n")
            sys.stdout.buffer.flush()
    except (Failed, OSError) as error:
        sys.stderr.write(f"the load generator failed: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
