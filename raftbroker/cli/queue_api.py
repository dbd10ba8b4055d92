"""What the queue commands send and read over HTTP."""

from urllib.parse import quote

import msgspec

from raftbroker.cli.api import Api, decode

JSON_HEADERS = {"Content-Type": "application/json"}


class Totals(msgspec.Struct, frozen=True):
    sent: int
    delivered: int
    acknowledged: int
    expired: int
    died: int
    redriven: int
    purged: int
    receipts_lost: int


class Rates(msgspec.Struct, frozen=True):
    sent: float
    delivered: float
    acknowledged: float


class Queue(msgspec.Struct, frozen=True):
    name: str
    configs: dict[str, int | str | bool | None]
    created_at: int
    depth: int
    available: int
    delayed: int
    blocked: int
    locked: int
    dead: int
    moving: int
    pending_receipts: int
    size_bytes: int
    oldest_age_ms: int
    totals: Totals
    rates: Rates


class QueueList(msgspec.Struct, frozen=True):
    queues: list[Queue]


class Count(msgspec.Struct, frozen=True):
    count: int


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True):
    queue: str | None = None
    url: str | None = None


class MessageToSend(msgspec.Struct, frozen=True, omit_defaults=True):
    """One of `body` (JSON) and `body_base64`."""

    body: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    body_base64: bytes | None = None
    key: str | None = None
    headers: dict[str, str] = {}
    delay_ms: int = 0
    ttl_ms: int | None = None
    priority: int | None = None
    receipt: Receipt | None = None


class SendBody(msgspec.Struct, frozen=True):
    messages: list[MessageToSend]


class SentMessage(msgspec.Struct, frozen=True):
    id: str
    duplicate: bool


class SentList(msgspec.Struct, frozen=True):
    messages: list[SentMessage]


class ReceiveBody(msgspec.Struct, frozen=True):
    max_messages: int
    wait_ms: int
    lock_ms: int | None
    consumer: str | None


class Past(msgspec.Struct, frozen=True):
    consumer: str
    delivered_at: int
    ended_at: int
    end: str


class DeadLetter(msgspec.Struct, frozen=True):
    queue: str
    id: str
    reason: str
    died_at: int
    delivery_count: int
    history: list[Past]


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    id: str
    timestamp: int
    delivery_count: int
    body: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    body_base64: bytes | msgspec.UnsetType = msgspec.UNSET
    key: str | None = None
    headers: dict[str, str] = {}
    lock_token: str = ""
    locked_until: int = 0
    dead_letter: DeadLetter | None = None

    @property
    def content(self) -> bytes:
        """The body's bytes; of a JSON body, its text."""
        if isinstance(self.body, msgspec.Raw):
            return bytes(self.body)
        return b"" if self.body_base64 is msgspec.UNSET else self.body_base64


class MessageList(msgspec.Struct, frozen=True):
    messages: list[Message]


class Tokens(msgspec.Struct, frozen=True):
    lock_tokens: list[str]


class Result(msgspec.Struct, frozen=True):
    lock_token: str
    error_code: int | None = None
    message: str | None = None


class Results(msgspec.Struct, frozen=True):
    results: list[Result]


class Redrive(msgspec.Struct, frozen=True, omit_defaults=True):
    max_messages: int | None = None
    source: str | None = msgspec.field(name="from", default=None)


class Queues:
    def __init__(self, api: Api) -> None:
        self._api = api

    def path(self, queue: str, *parts: str) -> str:
        return "/".join(("/queues", quote(queue, safe=""), *parts))

    def all(self) -> list[Queue]:
        return self._api.get("/queues", QueueList).queues

    def get(self, queue: str) -> Queue:
        return self._api.get(self.path(queue), Queue)

    def put(self, queue: str, configs: dict[str, int | str | bool | None]) -> Queue:
        return decode(self._api.send("PUT", self.path(queue), configs, repeatable=True), Queue)

    def delete(self, queue: str) -> None:
        self._api.send("DELETE", self.path(queue))

    def purge(self, queue: str) -> int:
        return decode(self._api.send("POST", self.path(queue, "purge")), Count).count

    def redrive(self, queue: str, asked: Redrive) -> int:
        return decode(self._api.send("POST", self.path(queue, "redrive"), asked), Count).count

    def send(self, queue: str, messages: list[MessageToSend], key: str, *, patience: float) -> list[SentMessage]:
        """Repeated under the same key until it is answered: sent once."""
        body = msgspec.json.encode(SendBody(messages))
        answer = self._api.request(
            "POST",
            self.path(queue, "messages"),
            body,
            {**JSON_HEADERS, "Idempotency-Key": key},
            repeatable=True,
            patience=patience,
        )
        return decode(answer, SentList).messages

    def receive(self, queue: str, asked: ReceiveBody) -> list[Message]:
        """One that is not answered is asked again: what it may have locked comes back when the locks run out."""
        body = msgspec.json.encode(asked)
        path, wait = self.path(queue, "receive"), asked.wait_ms / 1000
        return decode(
            self._api.request("POST", path, body, JSON_HEADERS, repeatable=True, wait=wait), MessageList
        ).messages

    def peek(self, queue: str, count: int, *, dead: bool) -> list[Message]:
        query = f"?max_messages={count}&state={'dead' if dead else 'waiting'}"
        return self._api.get(self.path(queue, "messages") + query, MessageList).messages

    def ack(self, queue: str, tokens: list[str]) -> list[Result]:
        """Those that were not held any more."""
        answer = self._api.send("POST", self.path(queue, "ack"), Tokens(tokens), repeatable=True)
        return [result for result in decode(answer, Results).results if result.error_code is not None]
