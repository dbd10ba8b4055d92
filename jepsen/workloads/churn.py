"""`churn`: topics are created, written to, read of and deleted, all at once and through any node.

Names come again and again, a bounded number of times each, so that the checker's search stays small. One client at a
time deletes a name: a delete says that the topic it found is gone, and of two at once both say so, whoever did it.
"""

import itertools
from collections.abc import AsyncIterator
from random import Random

from jepsen.client import Http, NotSent, Unclear
from jepsen.recorder import Op, Outcome
from jepsen.workloads.base import Client, Setting, Workload

BUSY = 4
OPERATIONS = 60
"""With one name, before the next one's turn comes."""
PARTITIONS_MAX = 4
PREFIX = "churn-"
JSON_V2 = {"Content-Type": "application/vnd.kafka.json.v2+json"}


class ChurnWorkload(Workload):
    """See the module's text. `produce` writes a record to a topic, if it is there: load, which is not judged."""

    name = "churn"
    writes = ("create",)

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.keys = (0,)
        self._drawn = itertools.count()
        self._deleting: set[str] = set()

    def client(self, process: int, worker: int) -> "ChurnClient":
        return ChurnClient(self.setting, self.cluster_id, process)

    def next(self, worker: int, random: Random) -> Op:
        turn = next(self._drawn) // (OPERATIONS * BUSY)
        name = f"{PREFIX}{turn * BUSY + random.randrange(BUSY)}"
        draw = random.random()
        if draw < 0.2:
            return Op("create", name, keys=(0,))
        if draw < 0.35 and name not in self._deleting:
            self._deleting.add(name)
            return Op("delete", name)
        if draw < 0.45:
            return Op("list")
        if draw < 0.75:
            return Op("exists", (name, None))
        return Op("produce", name)

    def saw(self, worker: int, op: Op, outcome: Outcome) -> None:
        if op.f == "delete":
            self._deleting.discard(str(op.value))

    async def final(self, worker: int) -> AsyncIterator[Op]:
        yield Op("list")
        last = max(0, next(self._drawn) - 1) // (OPERATIONS * BUSY)
        for number in range(last * BUSY, (last + 1) * BUSY):
            yield Op("exists", (f"{PREFIX}{number}", None))


class ChurnClient(Client):
    """Asks one node, until that one is away."""

    def __init__(self, setting: Setting, cluster_id: str, process: int) -> None:
        self._http = Http(setting.urls, process)
        self._replication_factor = setting.replication_factor
        self._base = f"/v3/clusters/{cluster_id}/topics"
        self._random = Random(f"churn client {process}")

    async def close(self) -> None:
        await self._http.close()

    async def invoke(self, op: Op) -> Outcome:
        match op.f, op.value:
            case "create", str(name):
                body: dict[str, object] = {
                    "topic_name": name,
                    "partitions_count": self._random.randint(1, PARTITIONS_MAX),
                }
                if self._replication_factor is not None:
                    body["replication_factor"] = self._replication_factor
                answer = await self._http.write("POST", self._base, body)
            case "delete", str(name):
                answer = await self._http.write("DELETE", f"{self._base}/{name}")
            case "produce", str(name):
                record = {"records": [{"value": self._random.randrange(1000)}]}
                answer = await self._http.write("POST", f"/topics/{name}", record, JSON_V2)
            case "exists", (str(name), _):
                return await self._exists(name)
            case _:
                return await self._list()
        return answer if isinstance(answer, Outcome) else Outcome("ok")

    async def _exists(self, name: str) -> Outcome:
        try:
            answer = await self._http.call("GET", f"{self._base}/{name}")
        except (NotSent, Unclear) as error:
            self._http.move()
            return Outcome.failed(str(error))
        if answer.status in (200, 404):
            return Outcome("ok", (name, answer.status == 200))
        return Outcome.failed(answer.problem)

    async def _list(self) -> Outcome:
        answer = await self._http.read("/topics")
        if isinstance(answer, Outcome):
            return answer
        names = answer.decode()
        assert isinstance(names, list)
        return Outcome("ok", tuple(name for name in names if name.startswith(PREFIX)))
