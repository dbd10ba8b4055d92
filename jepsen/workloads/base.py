"""What a workload is: it draws operations, its clients carry them out, and in the end everything is read once more.

A worker is one task with one client at a time. A client whose operation ended as `info` is given up with its process
number; the worker goes on with a new client under the next one (process + concurrency).
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass
from random import Random

from jepsen.client import Http, until_answer
from jepsen.recorder import Op, Outcome

SETUP_SECONDS = 60.0
OWN_NAMES = ("log-", "register-", "churn-", "queue-")
"""How the topics and queues of workloads are called."""


@dataclass(frozen=True)
class Setting:
    """What a workload is told of the run."""

    urls: list[str]
    kafka: list[str]
    concurrency: int
    replication_factor: int | None
    """Of the topics; None: the cluster's default."""
    client: str
    """"http", "kafka" or "both"."""
    sub_via: str = "assign"
    """How consumers come by their partitions: "assign" or "subscribe"."""


class Client(ABC):
    """One process of the history."""

    @abstractmethod
    async def invoke(self, op: Op) -> Outcome:
        """Carries it out. Raises only for faults of the harness itself."""

    @abstractmethod
    async def close(self) -> None:
        """Lets go of its connections."""


class Workload(ABC):
    """See the module's text. `f`s that append are in `writes`: availability is measured on them."""

    name: str
    writes: tuple[str, ...] = ("send",)
    keys: tuple[int, ...] = ()
    """All that it works on; known after `setup`."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.cluster_id = ""

    @property
    def remarks(self) -> list[str]:
        """What this workload would do and cannot here, each with the reason."""
        return []

    async def refuse_leftovers(self) -> None:
        """Of a cluster that was not made for this run. Raises ValueError where it has what a run before has left."""
        http = Http(self.setting.urls, 0)
        try:
            topics = (await until_answer(http, "GET", "/topics", None, (200,), SETUP_SECONDS)).decode()
            queues = (await until_answer(http, "GET", "/queues", None, (200,), SETUP_SECONDS)).decode()
        finally:
            await http.close()
        names = [str(name) for name in topics] if isinstance(topics, list) else []
        match queues:
            case {"queues": list(found)}:
                names += [str(queue["name"]) for queue in found]
        left = [name for name in names if name.startswith(OWN_NAMES)]
        if left:
            raise ValueError(
                f"the cluster has {', '.join(sorted(left)[:5])}, which a test would make: delete them first"
            )

    async def setup(self) -> None:
        """Makes what it needs in a healthy cluster."""
        http = Http(self.setting.urls, 0)
        try:
            answer = await until_answer(http, "GET", "/v3/clusters", None, (200,), SETUP_SECONDS)
            match answer.decode():
                case {"data": [{"cluster_id": str(found)}, *_]}:
                    self.cluster_id = found
            await self.prepare(http)
        finally:
            await http.close()

    async def prepare(self, http: Http) -> None:  # noqa: B027  some need nothing
        """Topics and such; asked for once, in a healthy cluster."""

    async def make_topic(self, http: Http, topic: str, partitions: int, configs: dict[str, str] | None = None) -> None:
        """Makes a topic with as many replicas as the run has nodes. Raises TimeoutError."""
        body: dict[str, object] = {
            "topic_name": topic,
            "partitions_count": partitions,
            "configs": [{"name": name, "value": value} for name, value in (configs or {}).items()],
        }
        if self.setting.replication_factor is not None:
            body["replication_factor"] = self.setting.replication_factor
        # 409: an attempt before, whose answer did not come, has made it.
        await until_answer(http, "POST", f"/v3/clusters/{self.cluster_id}/topics", body, (201, 409), SETUP_SECONDS)

    async def close(self) -> None:  # noqa: B027  most hold nothing
        """After the last client was closed."""

    @abstractmethod
    def client(self, process: int, worker: int) -> Client:
        """A fresh client for this process."""

    def share(self, worker: int) -> float:
        """The worker's share of the rate."""
        return 1 / self.setting.concurrency

    @abstractmethod
    def next(self, worker: int, random: Random) -> Op:
        """What the worker does next."""

    @abstractmethod
    def final(self, worker: int) -> AsyncIterator[Op]:
        """What the worker does, with a fresh client, once everything is healed: it reads all there is.

        Ends when it has; the runner bounds the time."""

    def saw(self, worker: int, op: Op, outcome: Outcome) -> None:  # noqa: B027  some need not know
        """Told of every operation's end, before the worker's next one is drawn."""

    def lag(self) -> dict[int, int]:
        """Per key, how many records nobody has read yet."""
        return {}
