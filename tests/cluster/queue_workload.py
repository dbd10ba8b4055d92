"""Clients of queues over HTTP, while nodes are killed: senders, and consumers that are as unreliable as real ones."""

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web

from tests.cluster.queue_history import History, Hold, Told
from tests.ports import free_port

QUEUE, DEAD, REPLIES = "work", "work-dead", "work-replies"
LOCK_MS = 3_000
DELIVERIES_MAX = 4
BATCH = 100
RECEIVE_MAX = 30
POSTED_OF = 10
"""One message of so many has its receipt posted, the others' go to a queue."""
ATTEMPTS_MAX = 2_000
AGAIN = (429, 500, 503)
HANG_UP_SECONDS = 0.004
"""After so long a consumer that dies while it acknowledges is gone: for some the request has arrived, for some not."""


class Client:
    """One client's connection to the cluster: each request goes to the next node until one answers it."""

    def __init__(self, session: aiohttp.ClientSession, urls: list[str], first: int) -> None:
        self._session = session
        self._urls: Iterator[str] = itertools.islice(itertools.cycle(urls), first, None)

    async def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        """The JSON of a success. Only for what may be repeated."""
        for _ in range(ATTEMPTS_MAX):
            found = await self.try_once(method, path, body, headers)
            if found is not None:
                return found
            await asyncio.sleep(0.05)
        raise AssertionError(f"{method} {path} was not answered in {ATTEMPTS_MAX} attempts")

    async def try_once(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        """None where it was not answered, or is to be tried again."""
        url = next(self._urls) + path
        try:
            async with self._session.request(method, url, json=body, headers=headers) as answer:
                assert answer.status < 300 or answer.status in AGAIN, (answer.status, await answer.text())
                return await answer.json() if answer.status < 300 else None
        except (aiohttp.ClientError, TimeoutError, json.JSONDecodeError):
            return None


@dataclass
class Run:
    urls: list[str]
    history: History
    random: random.Random
    session: aiohttp.ClientSession
    webhook: str = ""
    """Where some receipts go."""
    sending: bool = True

    def client(self, first: int) -> Client:
        return Client(self.session, self.urls, first)


async def make_queues(run: Run) -> None:
    configs = {"lock.ms": LOCK_MS, "max.deliveries": DELIVERIES_MAX, "dead.letter.queue": DEAD}
    await run.client(0).ask("PUT", f"/queues/{QUEUE}", configs)
    await run.client(0).ask("PUT", f"/queues/{REPLIES}", {})


async def send_all(run: Run, count: int, senders: int = 4) -> None:
    """Each batch under its own Idempotency-Key until it is answered."""
    batches = iter(range(0, count, BATCH))

    async def sender(number: int) -> None:
        client = run.client(number)
        for at in batches:
            messages = [
                {
                    "body": {"n": n},
                    "key": f"k{n % 97}",
                    "priority": run.random.randrange(10),
                    "receipt": {"queue": REPLIES} if n % POSTED_OF else {"url": run.webhook},
                    **({"delay_ms": run.random.randrange(1, 2_000)} if run.random.random() < 0.1 else {}),
                }
                for n in range(at, min(at + BATCH, count))
            ]
            headers = {"Idempotency-Key": f"batch-{at}"}
            answer = await client.ask("POST", f"/queues/{QUEUE}/messages", {"messages": messages}, headers)
            run.history.sent += [message["id"] for message in answer["messages"]]

    await asyncio.gather(*(sender(number) for number in range(senders)))
    run.sending = False


class Consumer:
    """Does its work on most messages; some it gives back, some it refuses, some it keeps too long; now and then it
    takes longer and extends its locks; and now and then it crashes, some of those times while it acknowledges, and
    comes back under another name knowing nothing."""

    def __init__(self, run: Run, number: int) -> None:
        self._run = run
        self._number = number
        self._life = 0
        self._client = run.client(number)

    @property
    def name(self) -> str:
        return f"consumer-{self._number}.{self._life}"

    async def work(self, finished: Callable[[], bool]) -> None:
        while not finished():
            holds = await self._receive()
            if holds:
                await self._treat(holds)

    async def _treat(self, holds: list[Hold]) -> None:
        chance = self._run.random.random()
        if chance < 0.02:
            self._crash("crashed")
        elif chance < 0.04:
            await self._die_acknowledging(holds)
        else:
            if chance < 0.06:
                await self._extend(holds)
            await self._settle(holds)

    def _crash(self, how: str) -> None:
        self._run.history.done[how] += 1
        self._life += 1

    async def _receive(self) -> list[Hold]:
        asked = time.monotonic()
        most = self._run.random.randrange(1, RECEIVE_MAX + 1)
        body = {"max_messages": most, "wait_ms": 500, "consumer": self.name}
        answer = await self._client.try_once("POST", f"/queues/{QUEUE}/receive", body)
        answered = time.monotonic()
        if answer is None:
            await asyncio.sleep(0.05)
            return []
        ends = asked + LOCK_MS / 1000
        holds = [
            Hold(one["id"], one["delivery_count"], one["lock_token"], self.name, asked, answered, ends)
            for one in answer["messages"]
        ]
        self._run.history.holds += holds
        return holds

    async def _die_acknowledging(self, holds: list[Hold]) -> None:
        self._begin(holds)
        self._run.history.unheard += holds
        body = {"lock_tokens": [hold.token for hold in holds]}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._run.random.random() * HANG_UP_SECONDS):
                await self._client.try_once("POST", f"/queues/{QUEUE}/ack", body)
        self._crash("crashed while it acknowledged")

    async def _extend(self, holds: list[Hold]) -> None:
        """Works on for half a lock's time, then holds them for a whole one more, and works again."""
        await asyncio.sleep(LOCK_MS / 2000)
        began = time.monotonic()
        for hold, kept in zip(holds, await self._tell("extend", holds), strict=True):
            if kept:
                hold.ends = max(hold.ends, began + LOCK_MS / 1000)
        await asyncio.sleep(LOCK_MS * 0.6 / 1000)

    async def _settle(self, holds: list[Hold]) -> None:
        fates: dict[str, list[Hold]] = {"ack": [], "release": [], "reject": [], "keep": []}
        for hold in holds:
            (fate,) = self._run.random.choices(list(fates), weights=(88, 6, 3, 3))
            fates[fate].append(hold)
        self._run.history.done["kept too long"] += len(fates.pop("keep"))
        kept = {"ack": self._run.history.acknowledged, "reject": self._run.history.rejected}
        for verb, chosen in fates.items():
            if chosen:
                self._begin(chosen)
                done = await self._tell(verb, chosen)
                kept.get(verb, []).extend(hold for hold, well in zip(chosen, done, strict=True) if well)

    def _begin(self, holds: list[Hold]) -> None:
        began = time.monotonic()
        for hold in holds:
            hold.settling = began

    async def _tell(self, verb: str, holds: list[Hold]) -> list[bool]:
        """Of each whether it was done; repeated until it is answered."""
        more = {"release": {"delay_ms": self._run.random.choice([0, 200])}, "reject": {"reason": "on purpose"}}
        body = {"lock_tokens": [hold.token for hold in holds], **more.get(verb, {})}
        answer = await self._client.ask("POST", f"/queues/{QUEUE}/{verb}", body)
        assert [result["lock_token"] for result in answer["results"]] == [hold.token for hold in holds]
        done = ["error_code" not in result for result in answer["results"]]
        self._run.history.done[f"{verb}: done"] += sum(done)
        self._run.history.done[f"{verb}: lost"] += len(done) - sum(done)
        return done


async def consume_all(run: Run, consumers: int) -> None:
    """Until all has been sent, and nothing is in the queue or on its way out of it."""
    finished = False

    async def watch() -> None:
        nonlocal finished
        client = run.client(1)
        while not finished:
            await asyncio.sleep(0.5)
            shown = await client.ask("GET", f"/queues/{QUEUE}")
            left = shown["depth"] + shown["dead"] + shown["moving"] + shown["pending_receipts"]
            finished = not run.sending and left == 0

    await asyncio.gather(watch(), *(Consumer(run, number).work(lambda: finished) for number in range(consumers)))


async def drain(run: Run, queue: str) -> list[dict[str, Any]]:
    """Everything in a queue, each message once: what comes twice by a lost answer has the same id."""
    client, found = run.client(0), dict[str, dict[str, Any]]()
    while (await client.ask("GET", f"/queues/{queue}"))["depth"]:
        answer = await client.ask("POST", f"/queues/{queue}/receive", {"max_messages": 500, "wait_ms": 1000})
        messages = answer["messages"]
        if messages:
            found.update((message["id"], message) for message in messages)
            tokens = [message["lock_token"] for message in messages]
            await client.ask("POST", f"/queues/{queue}/ack", {"lock_tokens": tokens})
    return list(found.values())


def told_by(shown: dict[str, Any]) -> Told:
    """From a receipt, or the answer to a question for a fate."""
    return Told(shown["id"], shown["state"], shown.get("consumer", ""), shown.get("moved_to", ""))


class Webhook:
    """A receiver of receipts that now and then takes one and dies before it says so, or cannot take it."""

    def __init__(self, history: History, chances: random.Random) -> None:
        self._history = history
        self._random = chances

    async def _take(self, request: web.Request) -> web.Response:
        chance = self._random.random()
        if chance < 0.05:
            return web.Response(status=503)
        self._history.posted.append(told_by(await request.json()))
        return web.Response(status=500 if chance < 0.1 else 204)

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Its URL."""
        app = web.Application()
        app.router.add_post("/receipts", self._take)
        runner = web.AppRunner(app)
        await runner.setup()
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            yield f"http://127.0.0.1:{port}/receipts"
        finally:
            await runner.cleanup()


async def look_at_fates(run: Run, count: int, clients: int = 8) -> None:
    """Of so many messages, chosen at random."""
    sent = run.history.sent
    chosen = iter(run.random.sample(sent, min(count, len(sent))))

    async def look(number: int) -> None:
        client = run.client(number)
        for id_ in chosen:
            run.history.fates.append(told_by(await client.ask("GET", f"/queues/{QUEUE}/messages/{id_}")))

    await asyncio.gather(*(look(number) for number in range(clients)))
