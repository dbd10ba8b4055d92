"""`txn`: Kafka transactions of sends and polls, committed, aborted on purpose, and cut short by whatever is broken.

A worker's clients share a transactional id, so each fences the one before it, whose transaction ends one way or the
other. Readers see committed records only. Beside them the workers that probe send over HTTP, outside transactions.
"""

from random import Random

from jepsen.recorder import NOTHING, Op
from jepsen.workloads.base import Client
from jepsen.workloads.kafka_child import Child, KafkaClient
from jepsen.workloads.log import LogWorkload
from jepsen.workloads.log_http import POLL, SEND

MICRO_OPS_MAX = 4


class TxnWorkload(LogWorkload):
    """See the module's text."""

    name = "txn"
    writes = ("send", "txn")

    @property
    def remarks(self) -> list[str]:
        return []

    def client(self, process: int, worker: int) -> Client:
        if not self._kafka(worker) or (self._ending and worker < len(self.setting.urls)):
            return super().client(process, worker)
        child = self._children.setdefault(worker, Child())
        return KafkaClient(child, self.setting.kafka, process, group=f"txn-{worker}", transactional=f"txn-{worker}")

    def _kafka(self, worker: int) -> bool:
        return not self._probes(worker)

    def next(self, worker: int, random: Random) -> Op:
        if self._probes(worker):
            return super().next(worker, random)
        draw = random.random()
        if worker not in self._assigned or draw < 0.03:
            some = tuple(sorted(random.sample(self.keys, random.randint(1, len(self.keys)))))
            return Op("assign", some, {"seek-to-beginning?": True} if worker not in self._assigned else NOTHING)
        if draw < 0.035:
            return Op("crash")
        if draw < 0.2:
            return Op("poll", ((POLL,),))
        micro: list[tuple[object, ...]] = []
        keys: dict[int, None] = {}
        for _ in range(random.randint(1, MICRO_OPS_MAX)):
            if random.random() < 0.7:
                key = random.choice(self.keys)
                keys[key] = None
                micro.append((SEND, key, next(self._values[key])))
            else:
                micro.append((POLL,))
        return Op("txn", tuple(micro), keys=tuple(keys))
