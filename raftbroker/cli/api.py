"""The command line's side of the HTTP API: typed answers, retries where they are safe, errors that say what to do.

Standard library only, because loading a larger client would take longer than most commands run. One `Api` may be used
from several threads; each keeps its own connection. Several base URLs may be given: when one node cannot be reached the
next is asked.

What is retried until the deadline: a request that certainly was not taken (the connection was refused, or the answer is
429, 503 or 507), and any failure at all of a request that may be repeated (`repeatable`: reads, deletes, and produce
requests that carry an Idempotency-Key).
"""

import http.client
import random
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from raftbroker.cli.failure import CommandError

T = TypeVar("T")

BINARY_V2 = "application/vnd.kafka.binary.v2+json"
UNKNOWN_OUTCOME = 50003
_CERTAINLY_NOT_DONE = (429, 503, 507)
_REACH_SECONDS_MAX = 5.0
"""How long commands that do not ask for more patience wait for any node to be there."""
_PAUSE_SECONDS_MIN, _PAUSE_SECONDS_MAX = 0.05, 1.0


class ApiError(CommandError):
    """The cluster refused; `code` is its error_code, whose first three digits are the HTTP status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class NotReached(CommandError):
    """No node took the request, or none answered in time."""


class Answer(msgspec.Struct, frozen=True):
    status: int
    body: bytes
    retry_after: float


class _Problem(msgspec.Struct, frozen=True):
    error_code: int
    message: str


# --- what the API answers (fields that the commands use; others are ignored) ------------------------------


class _Cluster(msgspec.Struct, frozen=True):
    cluster_id: str


class _Page(msgspec.Struct, frozen=True):
    next: str | None = None


class _Clusters(msgspec.Struct, frozen=True):
    data: list[_Cluster]


class TopicSummary(msgspec.Struct, frozen=True):
    topic_name: str
    topic_id: str
    partitions_count: int
    replication_factor: int


class _Topics(msgspec.Struct, frozen=True):
    data: list[TopicSummary]
    metadata: _Page = _Page()


class TopicConfig(msgspec.Struct, frozen=True):
    name: str
    value: str | None
    is_default: bool
    documentation: str = ""


class _Configs(msgspec.Struct, frozen=True):
    data: list[TopicConfig]


class Replica(msgspec.Struct, frozen=True):
    broker: int
    leader: bool
    in_sync: bool


class Partition(msgspec.Struct, frozen=True):
    partition: int
    leader: int | None
    replicas: list[Replica]


class Offsets(msgspec.Struct, frozen=True):
    beginning_offset: int
    end_offset: int


class ReportedOffset(msgspec.Struct, frozen=True):
    partition: int | None = None
    offset: int | None = None
    error_code: int | None = None
    error: str | None = None


class ProduceReport(msgspec.Struct, frozen=True):
    offsets: list[ReportedOffset]


class ReadHeader(msgspec.Struct, frozen=True):
    name: str
    value: str | None


class ReadRecord(msgspec.Struct, frozen=True):
    """A record in the embedded binary format: base64 text."""

    partition: int
    offset: int
    timestamp: int | None
    key: str | None
    value: str | None
    headers: list[ReadHeader] = []


class Health(msgspec.Struct, frozen=True):
    is_healthy: bool
    controller_id: int
    all_nodes: list[int]
    nodes_down: list[int]
    leaderless_partitions: list[str]
    under_replicated_partitions: list[str]


class Broker(msgspec.Struct, frozen=True):
    """A node."""

    id: int
    http: str
    kafka: str
    peer: str
    alive: bool
    is_controller: bool


class GroupReplica(msgspec.Struct, frozen=True):
    node: int
    role: str
    voter: bool
    term: int
    commit: int
    applied: int
    first_index: int
    last_index: int
    damaged: str | None = None


class Group(msgspec.Struct, frozen=True):
    """A Raft group; 0 is the control group."""

    group: int
    leader: int | None
    term: int
    commit: int
    applied: int
    partitions: int
    replicas: list[GroupReplica]


class _DeleteRecords(msgspec.Struct, frozen=True):
    before_offset: int


class _DeletedRecords(msgspec.Struct, frozen=True):
    log_start_offset: int


class Api:
    """One cluster, reached through the nodes at `urls`."""

    def __init__(self, urls: Sequence[str], *, patience: float = 40.0) -> None:
        """`patience`: seconds until a request that cannot be done is given up, longer than a node tries."""
        self.urls = [_checked_url(url) for url in urls]
        self._patience = patience
        self._local = threading.local()
        self._cluster: str | None = None

    # --- requests -----------------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        repeatable: bool,
        patience: float | None = None,
        wait: float = 0.0,
    ) -> bytes:
        """The body of a successful answer. `wait`: seconds the server may take on purpose (a long poll).

        Raises ApiError, NotReached."""
        started = time.monotonic()
        deadline = started + (self._patience if patience is None else patience)
        reach_deadline = started + _REACH_SECONDS_MAX if patience is None else deadline
        pause = _PAUSE_SECONDS_MIN
        while True:
            try:
                answer = self._ask(method, path, body, headers or {}, max(1.0, deadline - time.monotonic()) + wait)
            except _Unsent as error:
                failure: CommandError = NotReached(self._not_reached(error))
                again = time.monotonic() + pause < reach_deadline
            except _Unanswered as error:
                failure = NotReached(_no_answer(method, path, error))
                again = repeatable
            else:
                if answer.status < 300:
                    return answer.body
                failure = _api_error(answer)
                again = answer.status in _CERTAINLY_NOT_DONE or (repeatable and answer.status >= 500)
                pause = max(pause, answer.retry_after)
            if not again or time.monotonic() + pause > deadline:
                raise failure
            self._local.turn = self._turn + 1
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _PAUSE_SECONDS_MAX)

    @property
    def _turn(self) -> int:
        return int(getattr(self._local, "turn", 0))

    def _ask(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], timeout: float) -> Answer:
        url = self.urls[self._turn % len(self.urls)]
        connection, fresh = self._connection(url, timeout)
        prefix = urlsplit(url).path.rstrip("/")
        try:
            if fresh:
                connection.connect()
            elif connection.sock is not None:
                connection.sock.settimeout(timeout)
        except OSError as error:
            self._drop()
            raise _Unsent(url, error) from error
        try:
            connection.request(method, prefix + path, body, dict(headers))
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._drop()
            raise _Unanswered(url, error) from error
        if response.will_close:
            self._drop()
        return Answer(response.status, content, _retry_after(response.getheader("Retry-After")))

    def _connection(self, url: str, timeout: float) -> tuple[http.client.HTTPConnection, bool]:
        kept: tuple[str, http.client.HTTPConnection] | None = getattr(self._local, "kept", None)
        if kept is not None and kept[0] == url and kept[1].sock is not None:
            return kept[1], False
        self._drop()
        parts = urlsplit(url)
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=timeout, context=context)
        else:
            connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
        self._local.kept = (url, connection)
        return connection, True

    def _drop(self) -> None:
        kept: tuple[str, http.client.HTTPConnection] | None = getattr(self._local, "kept", None)
        if kept is not None:
            kept[1].close()
            self._local.kept = None

    def _not_reached(self, error: "_Unsent") -> str:
        reason = getattr(error.cause, "strerror", None) or str(error.cause)
        return (
            f"cannot reach a node at {', '.join(self.urls)}: {reason}. Start a cluster with `raftbroker dev`, or say"
            " where it is with --url or RAFTBROKER_URL"
        )

    def get(self, path: str, type_: type[T], *, patience: float | None = None) -> T:
        return decode(self.request("GET", path, repeatable=True, patience=patience), type_)

    def send(self, method: str, path: str, content: object = None, *, repeatable: bool = False) -> bytes:
        """A change; `content` becomes the JSON body."""
        body = None if content is None else msgspec.json.encode(content)
        headers = {} if body is None else {"Content-Type": "application/json"}
        return self.request(method, path, body, headers, repeatable=repeatable)

    # --- resources ----------------------------------------------------------------------------------------

    def cluster_id(self) -> str:
        if self._cluster is None:
            self._cluster = self.get("/v3/clusters", _Clusters).data[0].cluster_id
        return self._cluster

    def topics_path(self, *parts: str) -> str:
        return "/".join(("/v3/clusters", self.cluster_id(), "topics", *(quote(part, safe=":") for part in parts)))

    def topics(self) -> list[TopicSummary]:
        return self.get(self.topics_path(), _Topics).data

    def topic(self, name: str) -> TopicSummary:
        return self.get(self.topics_path(name), TopicSummary)

    def topic_configs(self, name: str) -> list[TopicConfig]:
        return self.get(self.topics_path(name, "configs"), _Configs).data

    def partitions(self, topic: str) -> list[Partition]:
        return self.get(f"/topics/{quote(topic, safe='')}/partitions", list[Partition])

    def offsets(self, topic: str, partition: int) -> Offsets:
        return self.get(f"/topics/{quote(topic, safe='')}/partitions/{partition}/offsets", Offsets)

    def health(self) -> Health:
        return self.get("/v1/cluster/health_overview", Health)

    def brokers(self) -> list[Broker]:
        return self.get("/v1/brokers", list[Broker])

    def groups(self) -> list[Group]:
        return self.get("/v1/raft", list[Group])

    def transfer(self, group: int, target: int | None) -> None:
        query = "" if target is None else f"?target={target}"
        self.send("POST", f"/v1/raft/{group}/transfer_leadership{query}")

    def delete_records(self, topic: str, partition: int, before: int) -> int:
        """The partition's new log start offset."""
        path = f"/v1/topics/{quote(topic, safe='')}/partitions/{partition}/delete_records"
        return decode(
            self.send("POST", path, _DeleteRecords(before), repeatable=True), _DeletedRecords
        ).log_start_offset

    def offset_for_time(self, topic: str, partition: int, time_ms: int) -> int:
        """The offset of the first record of that time or later; the next offset where there is none."""
        path = f"/topics/{quote(topic, safe='')}/partitions/{partition}/records"
        query = f"?timestamp={time_ms}&timeout=0&max_records=1"
        body = self.request("GET", path + query, None, {"Accept": BINARY_V2}, repeatable=True)
        found = decode(body, list[ReadRecord])
        return found[0].offset if found else self.offsets(topic, partition).end_offset

    def read(self, topic: str, partition: int, offset: int, *, wait_ms: int, bytes_max: int) -> list[ReadRecord]:
        """Records from `offset`; waits up to `wait_ms` for the first."""
        path = f"/topics/{quote(topic, safe='')}/partitions/{partition}/records"
        query = f"?offset={offset}&timeout={wait_ms}&max_bytes={bytes_max}"
        headers = {"Accept": BINARY_V2}
        body = self.request("GET", path + query, None, headers, repeatable=True, wait=wait_ms / 1000)
        return decode(body, list[ReadRecord])

    def produce(
        self, topic: str, partition: int | None, body: bytes, idempotency_key: str, *, patience: float
    ) -> ProduceReport:
        """One produce request, repeated until it is answered; the key makes that exactly once."""
        path = f"/topics/{quote(topic, safe='')}" + ("" if partition is None else f"/partitions/{partition}")
        headers = {"Content-Type": BINARY_V2, "Idempotency-Key": idempotency_key}
        return decode(self.request("POST", path, body, headers, repeatable=True, patience=patience), ProduceReport)


class _RequestError(Exception):
    """No answer from the node at `url`."""

    def __init__(self, url: str, cause: Exception) -> None:
        super().__init__(url)
        self.cause = cause


class _Unsent(_RequestError):
    """No connection: the request was certainly not taken."""


class _Unanswered(_RequestError):
    """The connection broke before the answer: the request may have been taken."""


def _no_answer(method: str, path: str, error: _Unanswered) -> str:
    reason = str(error.cause) or type(error.cause).__name__
    return (
        f"the node at {error} did not answer {method} {path}: {reason}. Whether it was done is unknown; look before"
        " you repeat it"
    )


def _api_error(answer: Answer) -> ApiError:
    try:
        problem = msgspec.json.decode(answer.body, type=_Problem)
    except msgspec.DecodeError:
        text = answer.body[:200].decode(errors="replace")
        return ApiError(
            answer.status, f"HTTP {answer.status} without an explanation: {text!r}; is this a raftbroker node?"
        )
    return ApiError(problem.error_code, f"{problem.message} (error {problem.error_code})")


def _retry_after(header: str | None) -> float:
    """Seconds, bounded; a header that is not a number counts as none."""
    if header is None or not header.isdigit():
        return 0.0
    return min(float(header), 5.0)


def _checked_url(url: str) -> str:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise CommandError(f"{url!r} is not a URL of a node; it looks like http://127.0.0.1:8082")
    return parts.geturl().rstrip("/")


def decode(body: bytes, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=type_)
    except msgspec.DecodeError as error:
        raise CommandError(
            f"the answer is not what this version expects: {error}; is the cluster of another version?"
        ) from error
