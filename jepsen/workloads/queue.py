"""`queue`: messages are sent, received under locks, acknowledged, given back and refused, through any node.

Half of the clients send under an Idempotency-Key or a dedup_id and repeat what ended unknown: it must be one message
still. Locks are short, so they run out while their holders are busy, paused or gone. Queues with even numbers have a
dead-letter queue, the others keep their dead messages aside.

In the end one worker a queue receives and acknowledges all that is left, until the queue says that it is empty, and
lists the dead messages.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from random import Random

from jepsen.client import Answer, Http, NotSent, Unclear, until_answer
from jepsen.edn import Keyword
from jepsen.recorder import Op, Outcome
from jepsen.workloads.base import SETUP_SECONDS, Client, Setting, Workload

QUEUES = 4
DELIVERIES_MAX = 6
LOCKS_MS = (500, 1500, 5000)
RECEIVED_MAX = 4
HELD_MAX = 12
REPEATS = 3
REPEAT_SECONDS = 0.3
DRAIN_MESSAGES = 200
DRAIN_LOCK_MS = 60_000
DRAIN_SECONDS = 45.0
DEAD_MAX = 1000
QUEUE, MESSAGE, MESSAGES, LOCK, LOCK_MS, DEAD = (
    Keyword(name) for name in ("queue", "message", "messages", "lock", "lock-ms", "dead-letter")
)


@dataclass
class Drained:
    """What the last phase has taken out of one queue so far; goes on where an attempt before was cut off."""

    messages: list[int] = field(default_factory=list)
    dead: list[int] = field(default_factory=list)
    received: dict[str, int] = field(default_factory=dict)
    """Lock token -> message, received and perhaps acknowledged, of the queue and then of its dead-letter queue."""


class QueueWorkload(Workload):
    """A key is a queue."""

    name = "queue"
    writes = ("send",)

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.keys = tuple(range(QUEUES))
        self._messages = {queue: itertools.count() for queue in self.keys}
        self._held: dict[int, list[tuple[int, int, str]]] = {}
        """Per worker: (queue, message, lock)."""
        self._open = dict.fromkeys(self.keys, 0)
        """Per queue, messages accepted and not yet acknowledged or refused."""
        self._drained = {queue: Drained() for queue in self.keys}

    async def prepare(self, http: Http) -> None:
        for queue in self.keys:
            configs: dict[str, object] = {"max.deliveries": DELIVERIES_MAX}
            if _has_dead_letter_queue(queue):
                configs["dead.letter.queue"] = f"{queue_name(queue)}-dead"
            path = f"/queues/{queue_name(queue)}"
            await until_answer(http, "PUT", path, configs, (200, 201), SETUP_SECONDS)

    def client(self, process: int, worker: int) -> Client:
        return QueueClient(self.setting.urls, process, self._drained)

    def next(self, worker: int, random: Random) -> Op:
        held = self._held.setdefault(worker, [])
        draw = random.random()
        if held and (draw < 0.45 or len(held) >= HELD_MAX):
            queue, message, lock = held.pop(random.randrange(len(held)))
            f = "ack" if random.random() < 0.85 else random.choice(("release", "release", "reject"))
            return Op(f, {QUEUE: queue, MESSAGE: message, LOCK: lock})
        queue = random.choice(self.keys)
        if draw < 0.75:
            return Op("send", {QUEUE: queue, MESSAGE: next(self._messages[queue])}, keys=(queue,))
        if draw < 0.755:
            return Op("crash")
        return Op("receive", {QUEUE: queue})

    def saw(self, worker: int, op: Op, outcome: Outcome) -> None:
        if outcome.type == "info":
            self._held.pop(worker, None)  # who holds them is gone
        value = outcome.value if outcome.value is not None else op.value
        if outcome.type != "ok" or not isinstance(value, dict):
            return
        queue = value[QUEUE]
        match op.f:
            case "send":
                self._open[queue] += 1
            case "ack" | "reject":
                self._open[queue] -= 1
            case "receive":
                held = self._held.setdefault(worker, [])
                held += [(queue, each[MESSAGE], each[LOCK]) for each in value[MESSAGES]]

    async def final(self, worker: int) -> AsyncIterator[Op]:
        for queue in self.keys:
            if queue % self.setting.concurrency == worker:
                yield Op("drain", {QUEUE: queue})

    def lag(self) -> dict[int, int]:
        return {queue: max(0, count) for queue, count in self._open.items()}


class QueueClient(Client):
    """A sender and a consumer; talks with one node until that one is away."""

    def __init__(self, urls: list[str], process: int, drained: dict[int, Drained]) -> None:
        self._http = Http(urls, process)
        self._process = process
        self._random = Random(f"queue client {process}")
        self._repeats = process % 2 == 0
        self._numbers = itertools.count()
        self._drained = drained

    async def close(self) -> None:
        await self._http.close()

    async def invoke(self, op: Op) -> Outcome:
        if op.f == "crash":
            return Outcome("info")
        assert isinstance(op.value, dict)
        queue = op.value[QUEUE]
        if self._random.random() < 0.05:
            self._http.move()
        match op.f:
            case "send":
                return await self._send(queue, op.value[MESSAGE])
            case "receive":
                return await self._receive(queue)
            case "drain":
                return await self._drain(queue)
        return await self._settle(op.f, queue, op.value[LOCK])

    # --- sending --------------------------------------------------------------------------------------------

    async def _send(self, queue: int, message: int) -> Outcome:
        """Repeated under its name until its end is known, where it has one; now and then although it is known."""
        body: dict[str, object] = {"body": message}
        headers = {}
        if self._repeats:
            name = f"{self._process}-{next(self._numbers)}"
            if self._random.random() < 0.5:
                headers["Idempotency-Key"] = name
            else:
                body["dedup_id"] = name
        outcome = await self._attempt(queue, body, headers)
        if self._repeats and (outcome.type == "info" or self._random.random() < 0.05):
            for _ in range(REPEATS):
                await asyncio.sleep(REPEAT_SECONDS)
                outcome = _settled(outcome, await self._attempt(queue, body, headers))
                if outcome.type == "ok":
                    break
        return outcome

    async def _attempt(self, queue: int, message: dict[str, object], headers: dict[str, str]) -> Outcome:
        path = f"/queues/{queue_name(queue)}/messages"
        answer = await self._http.write("POST", path, {"messages": [message]}, headers)
        if isinstance(answer, Outcome):
            return answer
        match _decoded(answer):
            case {"messages": [{"id": str(id_)}]}:
                return Outcome("ok", extra={"id": id_})
            case other:
                return Outcome.unknown(f"an answer of another form: {other}")

    # --- receiving and settling -----------------------------------------------------------------------------

    async def _receive(self, queue: int) -> Outcome:
        lock_ms = self._random.choice(LOCKS_MS)
        body = {
            "max_messages": self._random.randint(1, RECEIVED_MAX),
            "wait_ms": self._random.choice((0, 0, 100)),
            "lock_ms": lock_ms,
            "consumer": f"process-{self._process}",
        }
        answer = await self._http.write("POST", f"/queues/{queue_name(queue)}/receive", body)
        if isinstance(answer, Outcome):
            return answer
        received = tuple({MESSAGE: m, LOCK: lock, LOCK_MS: lock_ms} for lock, m in _messages(answer))
        return Outcome("ok", {QUEUE: queue, MESSAGES: received})

    async def _settle(self, f: str, queue: int, lock: str) -> Outcome:
        answer = await self._http.write("POST", f"/queues/{queue_name(queue)}/{f}", {"lock_tokens": [lock]})
        if isinstance(answer, Outcome):
            return answer
        match _decoded(answer):
            case {"results": [{"error_code": int(code), "message": str(message)}]}:
                return Outcome.failed(f"{code} {message}")
            case {"results": [{"lock_token": str(token)}]} if token == lock:
                return Outcome("ok")
            case other:
                return Outcome.unknown(f"an answer of another form: {other}")

    # --- the end --------------------------------------------------------------------------------------------

    async def _drain(self, queue: int) -> Outcome:
        """Everything, as far as it can be had in time; fails otherwise, and goes on when it is asked again."""
        state, name = self._drained[queue], queue_name(queue)
        deadline = time.monotonic() + DRAIN_SECONDS
        try:
            await self._take_all(name, state, state.messages, deadline)
            if _has_dead_letter_queue(queue):
                if await self._known(f"{name}-dead"):
                    await self._take_all(f"{name}-dead", state, state.dead, deadline)
                dead = state.dead
            else:
                path = f"/queues/{name}/messages?state=dead&max_messages={DEAD_MAX}"
                dead = [message for _, message in _messages(await self._asked("GET", path))]
                if len(dead) >= DEAD_MAX:
                    return Outcome.failed(f"{name} has more dead messages than can be listed")
        except (NotSent, Unclear, TimeoutError) as error:
            self._http.move()
            return Outcome.failed(str(error))
        return Outcome("ok", {QUEUE: queue, MESSAGES: tuple(state.messages), DEAD: tuple(dead)})

    async def _take_all(self, name: str, state: Drained, taken: list[int], deadline: float) -> None:
        """Until the queue says that it is empty. Raises TimeoutError, NotSent, Unclear."""
        body = {"max_messages": DRAIN_MESSAGES, "lock_ms": DRAIN_LOCK_MS, "consumer": "drain"}
        while True:
            if state.received:
                await self._acknowledge(name, state, taken)
            state.received = dict(_messages(await self._asked("POST", f"/queues/{name}/receive", body)))
            if state.received:
                continue
            match _decoded(await self._asked("GET", f"/queues/{name}")):
                case {"depth": 0, "moving": 0}:
                    return
                case left if time.monotonic() > deadline:
                    raise TimeoutError(f"{name} is not empty: {left}")
            await asyncio.sleep(REPEAT_SECONDS)

    async def _acknowledge(self, name: str, state: Drained, taken: list[int]) -> None:
        answer = await self._asked("POST", f"/queues/{name}/ack", {"lock_tokens": list(state.received)})
        match _decoded(answer):
            case {"results": list(results)}:
                done = [result["lock_token"] for result in results if result.get("error_code") is None]
                taken += [state.received[token] for token in done]
                state.received = {}
            case other:
                raise Unclear(f"an answer of another form: {other}")

    async def _known(self, name: str) -> bool:
        """A dead-letter queue is made when the first message dies, at the latest."""
        return (await self._http.call("GET", f"/queues/{name}")).status != 404

    async def _asked(self, method: str, path: str, body: object = None) -> Answer:
        answer = await self._http.call(method, path, body)
        if not answer.ok:
            raise Unclear(answer.problem)
        return answer


def queue_name(queue: int) -> str:
    return f"queue-{queue}"


def _has_dead_letter_queue(queue: int) -> bool:
    return queue % 2 == 0


def _settled(first: Outcome, second: Outcome) -> Outcome:
    """What two attempts under one name tell together. Two ids are both told, for people: the message comes twice."""
    if first.type == "ok" and second.type == "ok" and first.extra["id"] != second.extra["id"]:
        return Outcome("ok", extra={"id": second.extra["id"], "error": f"was {first.extra['id']}"})
    if first.type == "ok":
        return first
    if second.type == "ok":
        return second
    return second if first.type == "fail" else first


def _decoded(answer: Answer) -> object:
    try:
        return answer.decode()
    except Unclear as error:
        return str(error)


def _messages(answer: Answer) -> list[tuple[str, int]]:
    """(lock token, message); those that were only looked at have no token. Raises Unclear."""
    match answer.decode():
        case {"messages": list(messages)}:
            return [(each.get("lock_token", ""), each["body"]) for each in messages]
    raise Unclear(answer.problem)
