"""`groups`: consumer groups that read what others send, commit how far they came, and never go back nor leave
anything out.

Half of the workers send, as in `log`; of the others each is a member of one of two groups, polls, commits what it
polled, and asks what the group has committed. Members come and go with their clients. In the end each asks once more,
before it reads everything as in `log`: offsets that were forgotten in the last moment are missed too.
"""

from collections.abc import AsyncIterator
from random import Random

from jepsen.recorder import Op, Outcome
from jepsen.workloads.base import Client, Setting
from jepsen.workloads.kafka_child import Child, KafkaClient
from jepsen.workloads.log import LogWorkload
from jepsen.workloads.log_http import POLL

GROUPS = 2
ASKED_MAX = 20


class GroupsWorkload(LogWorkload):
    """See the module's text."""

    name = "groups"
    writes = ("send", "txn")

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._readers: set[int] = set()
        """Members that have become readers of everything..."""
        self._told: set[int] = set()
        """... since they were told what their group has committed."""

    @property
    def remarks(self) -> list[str]:
        return ["groups over HTTP: members are Kafka clients"]

    def _member(self, worker: int) -> bool:
        return worker % 2 == 0

    def client(self, process: int, worker: int) -> Client:
        if self._member(worker) and worker not in self._readers:
            child = self._children.setdefault(worker, Child())
            return KafkaClient(child, self.setting.kafka, process, group=self._group(worker))
        return super().client(process, worker)

    def _group(self, worker: int) -> str:
        return f"group-{worker // 2 % GROUPS}"

    def _kafka(self, worker: int) -> bool:
        return False

    def next(self, worker: int, random: Random) -> Op:
        if not self._member(worker):
            return super().next(worker, random)
        group = {"group": self._group(worker)}
        draw = random.random()
        if worker not in self._assigned:
            return Op("subscribe", self.keys, group)
        if draw < 0.01:
            return Op("crash")
        if draw < 0.7:
            return Op("poll", ((POLL,),), group)
        return Op("commit" if draw < 0.9 else "committed", None, group)

    async def final(self, worker: int) -> AsyncIterator[Op]:
        if self._member(worker):
            self._told.discard(worker)
            for _ in range(ASKED_MAX):
                yield Op("committed", None, {"group": self._group(worker)})
                if worker in self._told:
                    break
            self._readers.add(worker)
            yield Op("crash")
        async for op in super().final(worker):
            yield op

    def saw(self, worker: int, op: Op, outcome: Outcome) -> None:
        super().saw(worker, op, outcome)
        if op.f == "committed" and outcome.type == "ok":
            self._told.add(worker)
