"""The `log` workload's client over HTTP: every way of sending there is, and reads at places that it keeps itself."""

import asyncio
import itertools
from collections.abc import Mapping
from random import Random
from typing import NamedTuple

from jepsen.client import Answer, Http, NotSent, Unclear, certainly_not_done, until_answer
from jepsen.edn import Keyword
from jepsen.recorder import Op, Outcome
from jepsen.workloads.base import Client

TOPICS, PARTITIONS = 2, 4
POLL_RECORDS = 64
FINAL_RECORDS = 2000
END_SECONDS = 60.0
REPEATS = 3
REPEAT_SECONDS = 0.3
REPEATED_OF = 8
"""Of the sends that ended well, a client repeats the first, and every so manieth after it."""
JSON_V2 = {"Content-Type": "application/vnd.kafka.json.v2+json"}
ACCEPT = {"Accept": "application/vnd.kafka.json.v2+json"}
FINAL = "final"
"""The hint of operations of the last phase."""
SEND, POLL = Keyword("send"), Keyword("poll")

Pairs = list[tuple[int, int]]
"""(offset, value)."""


class Sent(NamedTuple):
    """What became of one record: its offset where it is appended; `fail` where it certainly is not; else unknown."""

    offset: int | None = None
    fail: bool = False
    error: str = ""


class HttpLogClient(Client):
    """A producer, and a consumer that keeps its own places."""

    def __init__(self, urls: list[str], cluster_id: str, process: int, worker: int, probe: float | None = None) -> None:
        self._http = Http(urls, process) if probe is None else Http(urls, worker, probe)
        self._cluster_id = cluster_id
        self._process = process
        self._random = Random(f"log client {process}")
        self._repeats = process % 2 == 0 and probe is None
        self._own_node = worker % len(urls)
        self._numbers = itertools.count()
        self._well = itertools.count()
        self._places: dict[int, int] = {}

    async def close(self) -> None:
        await self._http.close()

    async def invoke(self, op: Op) -> Outcome:
        match op.f:
            case "crash":
                return Outcome("info")
            case "assign":
                return await self._assign(op)
            case "poll":
                return await self._poll(final=op.hint == FINAL)
            case "final-read":
                return await self._final_read()
            case _:
                return await self._send(op)

    # --- reading --------------------------------------------------------------------------------------------

    async def _assign(self, op: Op) -> Outcome:
        assert isinstance(op.value, tuple)
        keys: tuple[int, ...] = op.value
        begin = bool(op.extra.get("seek-to-beginning?"))
        places = {}
        for key in keys:
            if begin:
                places[key] = 0
            elif key in self._places:
                places[key] = self._places[key]
            elif self._random.random() < 0.3:
                places[key] = 0
            else:
                try:
                    places[key] = await _end(self._http, key)
                except (NotSent, Unclear, TimeoutError) as error:
                    return Outcome.failed(str(error))
        self._places = places
        return Outcome("ok", keys)

    async def _poll(self, *, final: bool) -> Outcome:
        """One page of each partition that is assigned. A page that does not come is one that was not read."""
        if final:
            self._http.node = self._own_node
        elif self._random.random() < 0.1:
            self._http.move()
        wait = 100 if not final and self._random.random() < 0.1 else 0
        most = FINAL_RECORDS if final else POLL_RECORDS
        pages = await asyncio.gather(*(self._page(key, place, wait, most) for key, place in self._places.items()))
        polled: dict[int, Pairs] = {}
        errors = []
        for key, page in zip(list(self._places), pages, strict=True):
            if isinstance(page, str):
                errors.append(page)
                continue
            records, self._places[key] = page
            if records:
                polled[key] = records
        if errors and not polled:
            self._http.move()
            return Outcome.failed(errors[0])
        return Outcome("ok", ((POLL, polled),), reached=dict(self._places))

    async def _final_read(self) -> Outcome:
        """All that this worker's own node has."""
        copies: dict[int, Pairs] = {}
        for key in range(TOPICS * PARTITIONS):
            copies[key] = []
            place = -1
            reached = 0
            while reached > place:
                place = reached
                self._http.node = self._own_node
                page = await self._page(key, place, 0, FINAL_RECORDS)
                if isinstance(page, str):
                    return Outcome.failed(page)
                records, reached = page
                copies[key] += records
        return Outcome("ok", {f"n{self._own_node + 1}": copies})

    async def _page(self, key: int, place: int, wait: int, most: int) -> tuple[Pairs, int] | str:
        """Records from `place` on and where to go on, or why there are none."""
        query = f"offset={place}&timeout={wait}&max_records={most}"
        try:
            answer = await self._http.call("GET", f"{partition_path(key)}/records?{query}", headers=ACCEPT)
            if not answer.ok:
                return answer.problem
            return _records(answer), int(answer.headers["X-Next-Offset"])
        except (NotSent, Unclear) as error:
            return str(error)

    # --- sending --------------------------------------------------------------------------------------------

    async def _send(self, op: Op) -> Outcome:
        assert isinstance(op.value, tuple)
        wanted: list[tuple[int, int]] = [(key, value) for _, key, value in op.value]
        identity = f"{self._process}-{next(self._numbers)}" if self._repeats else None
        draw = self._random.random()
        sent = await self._attempt(wanted, identity, draw)
        if identity is not None:
            sent = await self._repeat(wanted, identity, draw, sent)
        value = tuple((SEND, key, (done.offset, number)) for (key, number), done in zip(wanted, sent, strict=True))
        errors = [done.error for done in sent if done.offset is None]
        if not errors:
            return Outcome("ok", value)
        if all(done.fail for done in sent):
            return Outcome.failed(errors[0])
        good = tuple({key for (key, _), done in zip(wanted, sent, strict=True) if done.offset is not None})
        return Outcome("info", value, {"error": errors[0][:300]}, good)

    async def _repeat(self, wanted: list[tuple[int, int]], identity: str, draw: float, sent: list[Sent]) -> list[Sent]:
        """Sends the same again under the same key: until all is known, and now and then although it is."""
        if all(done.offset is not None for done in sent) and next(self._well) % REPEATED_OF:
            return sent
        for _ in range(REPEATS):
            again = await self._attempt(wanted, identity, draw)
            sent = [_settled(first, second) for first, second in zip(sent, again, strict=True)]
            if all(done.offset is not None for done in sent):
                break
            await asyncio.sleep(REPEAT_SECONDS)
        return sent

    async def _attempt(self, wanted: list[tuple[int, int]], identity: str | None, draw: float) -> list[Sent]:
        """One request; which way in, `draw` decides."""
        headers = {"Idempotency-Key": identity} if identity is not None else {}
        keys = {key for key, _ in wanted}
        first = wanted[0][0]
        if len(wanted) == 1 and draw < 0.3:
            return await self._attempt_v3(first, wanted[0][1], headers)
        if len(keys) == 1 and draw < 0.7:
            path, records = partition_path(first), [{"value": value} for _, value in wanted]
        else:
            path = f"/topics/{topic_name(first // PARTITIONS)}"
            records = [{"value": value, "partition": key % PARTITIONS} for key, value in wanted]
        answer = await self._http.write("POST", path, {"records": records}, {**JSON_V2, **headers})
        if isinstance(answer, Outcome):
            return [Sent(fail=answer.type == "fail", error=str(answer.extra["error"]))] * len(wanted)
        return _reports(answer, wanted)

    async def _attempt_v3(self, key: int, value: int, headers: Mapping[str, str]) -> list[Sent]:
        path = f"/v3/clusters/{self._cluster_id}/topics/{topic_name(key // PARTITIONS)}/records"
        body = {"partition_id": key % PARTITIONS, "value": {"type": "JSON", "data": value}}
        answer = await self._http.write("POST", path, body, headers)
        if isinstance(answer, Outcome):
            return [Sent(fail=answer.type == "fail", error=str(answer.extra["error"]))]
        match _decoded(answer):
            case {"offset": int(offset)}:
                return [Sent(offset)]
            case {"error_code": int(code), "message": str(message)}:
                return [_refusal(code, message)]
            case other:
                return [Sent(error=f"an answer of another form: {other}")]


def topic_name(topic: int) -> str:
    return f"log-{topic}"


def partition_path(key: int) -> str:
    return f"/topics/{topic_name(key // PARTITIONS)}/partitions/{key % PARTITIONS}"


def _settled(first: Sent, second: Sent) -> Sent:
    """What two attempts under one key tell together. Two different offsets are both told: a duplicate."""
    if first.offset is not None and second.offset is not None and first.offset != second.offset:
        return Sent(second.offset, error=f"was at {first.offset}")
    if first.offset is not None:
        return first
    if second.offset is not None:
        return second
    return Sent(fail=first.fail and second.fail, error=second.error)


def _decoded(answer: Answer) -> object:
    try:
        return answer.decode()
    except Unclear as error:
        return str(error)


def _refusal(code: int, message: str) -> Sent:
    return Sent(fail=certainly_not_done(code if code < 1000 else code // 100, code), error=f"{code} {message}")


def _reports(answer: Answer, wanted: list[tuple[int, int]]) -> list[Sent]:
    """What a v2 answer says of each record."""
    decoded = _decoded(answer)
    found = decoded.get("offsets") if isinstance(decoded, dict) else None
    if not isinstance(found, list) or len(found) != len(wanted):
        return [Sent(error=f"an answer of another form: {str(decoded)[:200]}")] * len(wanted)
    sent = []
    for report in found:
        match report:
            case {"offset": int(offset), "error_code": None}:
                sent.append(Sent(offset))
            case {"error_code": int(code), "error": str(message)}:
                sent.append(_refusal(code, message))
            case other:
                sent.append(Sent(error=f"a report of another form: {other}"))
    return sent


def _records(answer: Answer) -> Pairs:
    records = answer.decode()
    assert isinstance(records, list)
    return [(record["offset"], record["value"]) for record in records]


async def _end(http: Http, key: int) -> int:
    """Where the partition ends now, linearizable. Raises NotSent and Unclear."""
    return _end_in(await http.call("GET", f"{partition_path(key)}/offsets"))


async def end_at_last(http: Http, key: int) -> int:
    """The same, of a cluster that is whole and may take a moment. Raises TimeoutError."""
    return _end_in(await until_answer(http, "GET", f"{partition_path(key)}/offsets", None, (200,), END_SECONDS))


def _end_in(answer: Answer) -> int:
    match answer.decode():
        case {"end_offset": int(end)}:
            return end
    raise Unclear(answer.problem)
