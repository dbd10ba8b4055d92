"""`register`: every config of a topic is a register that clients read, write, and compare and set through any node, and
must be linearizable.

Only configs that change nothing in the broker are used. A few registers are busy at a time, each for a bounded number
of operations, so that the checker's search stays small; then come the next ones. A register that was never set holds
nil. Every third worker only reads, from one node and never for long, so that a node that should not answer is asked
also when whatever is written through it hangs.
"""

import itertools
from collections.abc import AsyncIterator
from random import Random

from jepsen.client import Http
from jepsen.recorder import Op, Outcome
from jepsen.workloads.base import Client, Setting, Workload

TOPICS = 12
CONFIGS = (
    "delete.retention.ms",
    "file.delete.delay.ms",
    "flush.messages",
    "flush.ms",
    "index.interval.bytes",
    "max.compaction.lag.ms",
    "segment.bytes",
    "segment.index.bytes",
    "segment.ms",
)
BUSY_MIN, BUSY_OF = 4, 5
"""How many registers are busy at a time: so many, or one for so many workers."""
OPERATIONS = 80
"""Of one register before the next one's turn comes."""
VALUE_FIRST = 1000
READERS = 3
"""Every so manieth worker only reads, from its own node..."""
READ_SECONDS = 0.5
"""... for so long."""


class RegisterWorkload(Workload):
    """A key is topic * len(CONFIGS) + config."""

    name = "register"
    writes = ("write",)

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.keys = (0,)
        self._busy = max(BUSY_MIN, setting.concurrency // BUSY_OF)
        self._values = itertools.count(VALUE_FIRST)
        self._drawn = itertools.count()
        self._seen: dict[int, int | None] = {}
        """What each register held when somebody last knew: what a compare-and-set expects, often in vain."""

    async def prepare(self, http: Http) -> None:
        for topic in range(TOPICS):
            await self.make_topic(http, topic_name(topic), 1)

    def client(self, process: int, worker: int) -> "RegisterClient":
        urls = self.setting.urls
        if self._only_reads(worker):
            return RegisterClient(Http([urls[worker // READERS % len(urls)]], 0, READ_SECONDS), self.cluster_id)
        return RegisterClient(Http(urls, process), self.cluster_id)

    def _only_reads(self, worker: int) -> bool:
        return worker % READERS == READERS - 1

    def next(self, worker: int, random: Random) -> Op:
        turn = next(self._drawn) // (OPERATIONS * self._busy)
        key = (turn * self._busy + random.randrange(self._busy)) % (TOPICS * len(CONFIGS))
        draw = 1.0 if self._only_reads(worker) else random.random()
        if draw < 1 / 3:
            return Op("write", (key, next(self._values)), keys=(0,))
        if draw < 2 / 3:
            return Op("cas", (key, (self._seen.get(key), next(self._values))), keys=(0,))
        return Op("read", (key, None))

    def saw(self, worker: int, op: Op, outcome: Outcome) -> None:
        if outcome.type != "ok":
            return
        value = op.value if outcome.value is None else outcome.value
        assert isinstance(value, tuple)
        key, held = value
        self._seen[key] = held[1] if isinstance(held, tuple) else held

    async def final(self, worker: int) -> AsyncIterator[Op]:
        """Reads those registers that were busy last, through whatever node the client has."""
        last = max(0, next(self._drawn) - 1) // (OPERATIONS * self._busy)
        for key in range(last * self._busy, (last + 1) * self._busy):
            yield Op("read", (key % (TOPICS * len(CONFIGS)), None))


class RegisterClient(Client):
    """Reads and writes through one node, until that one is away and `http` knows another."""

    def __init__(self, http: Http, cluster_id: str) -> None:
        self._http = http
        self._base = f"/v3/clusters/{cluster_id}/topics"

    async def close(self) -> None:
        await self._http.close()

    async def invoke(self, op: Op) -> Outcome:
        if op.f == "crash":
            return Outcome("info")
        assert isinstance(op.value, tuple)
        key, value = op.value
        topic, config = divmod(key, len(CONFIGS))
        path = f"{self._base}/{topic_name(topic)}/configs/{CONFIGS[config]}"
        if op.f != "read":
            answer = await self._http.write("PUT", path, _change(value))
            return answer if isinstance(answer, Outcome) else Outcome("ok")
        answer = await self._http.read(path)
        if isinstance(answer, Outcome):
            return answer
        match answer.decode():
            case {"is_default": True}:
                return Outcome("ok", (key, None))
            case {"value": str(held)}:
                return Outcome("ok", (key, int(held)))
        return Outcome.failed(answer.problem)


def _change(value: object) -> dict[str, str | None]:
    """What a write of a value, or of one in place of another, asks for."""
    if not isinstance(value, tuple):
        return {"value": str(value)}
    before, after = value
    return {"value": str(after), "expected_value": None if before is None else str(before)}


def topic_name(topic: int) -> str:
    return f"register-{topic}"
