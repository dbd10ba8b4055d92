"""`log`: clients send to partitions and poll them, and in the end each reads all of every partition, from its own node.

A key is one partition: `TOPICS` topics of `PARTITIONS` each. Values count up per key. Sends take every way in that
there is over HTTP; half of the clients send under an Idempotency-Key, repeat what ended unknown, and now and then
what ended well: both must give the offset of the first time. A client that polls reads from any node, at its own
place in each partition.

In the last phase each worker polls everything through one node, from the beginning, and every node is read whole once
more (`:final-read`): the logs of all nodes must be equal.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator
from random import Random

from jepsen.client import Http
from jepsen.recorder import NOTHING, Op, Outcome
from jepsen.workloads.base import Client, Setting, Workload
from jepsen.workloads.kafka_child import Child, KafkaClient
from jepsen.workloads.log_http import FINAL, PARTITIONS, POLL, SEND, TOPICS, HttpLogClient, end_at_last, topic_name

SENDS_MAX = 4
PROBES = 4
"""Every so manieth worker only probes: from its own node, one partition after the other, and never waits for long."""
PROBE_SECONDS = 1.0


class LogWorkload(Workload):
    """See the module's text."""

    name = "log"
    writes = ("send", "txn")

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.keys = tuple(range(TOPICS * PARTITIONS))
        self._values = {key: itertools.count() for key in self.keys}
        self._sent: dict[int, int] = dict.fromkeys(self.keys, -1)
        """Per key, the highest offset acknowledged..."""
        self._read: dict[int, int] = dict.fromkeys(self.keys, -1)
        """... and the highest one polled."""
        self._turns = itertools.count()
        """Of the keys, among the workers that probe."""
        self._assigned: set[int] = set()
        """Workers whose clients have been assigned partitions."""
        self._final_reads: dict[int, dict[int, int]] = {}
        self._ending = False
        self._children: dict[int, Child] = {}

    @property
    def remarks(self) -> list[str]:
        if self.setting.sub_via == "subscribe" and self.setting.client != "kafka":
            return ["subscribe over HTTP: those clients are assigned their partitions"]
        return []

    async def prepare(self, http: Http) -> None:
        for topic in range(TOPICS):
            await self.make_topic(http, topic_name(topic), PARTITIONS)

    def client(self, process: int, worker: int) -> Client:
        if self._kafka(worker) and not (self._ending and worker < len(self.setting.urls)):
            child = self._children.setdefault(worker, Child())
            return KafkaClient(child, self.setting.kafka, process)
        if self._probes(worker) and not self._ending:
            return HttpLogClient(self.setting.urls, self.cluster_id, process, worker // PROBES, PROBE_SECONDS)
        return HttpLogClient(self.setting.urls, self.cluster_id, process, worker)

    def _kafka(self, worker: int) -> bool:
        """Whether this worker's clients speak Kafka's protocol. Those that probe speak HTTP."""
        kind = self.setting.client
        return kind != "http" and not self._probes(worker) and (kind == "kafka" or worker % 2 == 0)

    async def close(self) -> None:
        await asyncio.gather(*(child.kill() for child in self._children.values()))

    # --- drawing --------------------------------------------------------------------------------------------

    def _probes(self, worker: int) -> bool:
        return worker % PROBES == PROBES - 1

    def share(self, worker: int) -> float:
        """Those that probe have half of the rate among them: by them it is seen how soon a partition takes writes."""
        probing = self.setting.concurrency // PROBES
        if not probing:
            return super().share(worker)
        return 0.5 / (probing if self._probes(worker) else self.setting.concurrency - probing)

    def next(self, worker: int, random: Random) -> Op:
        if self._probes(worker):
            key = self.keys[next(self._turns) % len(self.keys)]
            return Op("send", ((SEND, key, next(self._values[key])),), keys=(key,))
        draw = random.random()
        fresh = worker not in self._assigned
        if draw < 0.02 or fresh:
            if self.setting.sub_via == "subscribe" and self._kafka(worker):
                return Op("subscribe", self.keys)
            keys = tuple(sorted(random.sample(self.keys, random.randint(1, len(self.keys)))))
            return Op("assign", keys, {"seek-to-beginning?": True} if fresh and random.random() < 0.5 else NOTHING)
        if draw < 0.024:
            return Op("crash")
        if draw < 0.5:
            return Op("poll", ((POLL,),))
        return self._send(random, kafka=self._kafka(worker))

    def _send(self, random: Random, *, kafka: bool) -> Op:
        """One to four records, all to one partition, or to several of one topic, each on its own: a "txn" in Jepsen's
        words."""
        count = random.randint(1, SENDS_MAX)
        first = random.choice(self.keys)
        if random.random() < 0.3:
            topic = first - first % PARTITIONS
            keys = [topic + random.randrange(PARTITIONS) for _ in range(count)]
        else:
            keys = [first] * count
        several = tuple(dict.fromkeys(keys))
        apart = len(several) > 1 or (kafka and count > 1)
        sends = tuple((SEND, key, next(self._values[key])) for key in keys)
        return Op("txn" if apart else "send", sends, keys=several)

    # --- the end --------------------------------------------------------------------------------------------

    async def final(self, worker: int) -> AsyncIterator[Op]:
        """Reads every partition from the beginning up to where it ends now, through this worker's node."""
        self._ending = True
        http = Http(self.setting.urls, worker)
        try:
            self._ends = {key: await end_at_last(http, key) for key in self.keys}
        finally:
            await http.close()
        if worker < len(self.setting.urls):
            yield Op("final-read", hint=FINAL)
        yield Op("assign", self.keys, {"seek-to-beginning?": True})
        reached = self._final_reads[worker] = dict.fromkeys(self.keys, 0)
        while any(reached[key] < end for key, end in self._ends.items()):
            yield Op("poll", ((POLL,),), hint=FINAL)

    # --- figures --------------------------------------------------------------------------------------------

    def saw(self, worker: int, op: Op, outcome: Outcome) -> None:
        if outcome.type == "info":
            self._assigned.discard(worker)
        elif outcome.type == "ok" and op.f in ("assign", "subscribe"):
            self._assigned.add(worker)
        if worker in self._final_reads:
            self._final_reads[worker] |= outcome.reached
        if outcome.type not in ("ok", "info") or not isinstance(outcome.value, tuple):
            return
        for micro in outcome.value:
            match micro:
                case (kind, int(key), (int(offset), _)) if kind is SEND:
                    self._sent[key] = max(self._sent[key], offset)
                case (kind, dict() as polled) if kind is POLL:
                    for key, pairs in polled.items():
                        self._read[key] = max(self._read[key], pairs[-1][0])

    def lag(self) -> dict[int, int]:
        return {key: max(0, self._sent[key] - self._read[key]) for key in self.keys}
