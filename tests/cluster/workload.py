"""Real text through HTTP from several clients while nodes are killed, and the account of what was acknowledged."""

import asyncio
import itertools
import json
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

TOPIC = "sources"
BATCH = 200
JSON_V2 = {"Content-Type": "application/vnd.kafka.json.v2+json"}


def source_lines() -> Iterator[str]:
    """The Python standard library's own sources, line by line, for ever."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(path for path in root.rglob("*.py") if "site-packages" not in path.parts)
    for turn in itertools.count():
        for path in files:
            for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines()):
                yield f"{turn} {path.relative_to(root)}:{number} {line}"


@dataclass
class Account:
    """What was acknowledged: partition -> offset -> text."""

    acknowledged: dict[int, dict[int, str]] = field(default_factory=dict)
    repeats: int = 0
    """Requests sent again under the same Idempotency-Key, because their outcome was not known."""
    records: int = 0
    lines: Iterator[str] = field(default_factory=source_lines)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    """Of the batches, for their Idempotency-Keys."""

    def add(self, partition: int, offset: int, text: str) -> None:
        known = self.acknowledged.setdefault(partition, {})
        assert offset not in known, f"offset {offset} of partition {partition} was acknowledged for two records"
        known[offset] = text
        self.records += 1


async def create_topic(urls: list[str], partitions: int, replication_factor: int | None) -> None:
    """None: the cluster's default factor."""
    async with aiohttp.ClientSession() as session:
        async with session.get(urls[0] + "/v3/clusters") as answer:
            cluster = (await answer.json())["data"][0]["cluster_id"]
        body = {"topic_name": TOPIC, "partitions_count": partitions}
        if replication_factor is not None:
            body["replication_factor"] = replication_factor
        async with session.post(f"{urls[0]}/v3/clusters/{cluster}/topics", json=body) as answer:
            assert answer.status == 201, await answer.text()


async def produce_batch(
    session: aiohttp.ClientSession, urls: Iterator[str], key: str, lines: list[str], account: Account
) -> None:
    """Sends until it is acknowledged, through one node after the other, always under the same key."""
    left = list(enumerate(lines))
    body = json.dumps({"records": [{"value": line} for line in lines]}).encode()
    for attempt in range(600):
        account.repeats += attempt > 0
        try:
            async with session.post(
                f"{next(urls)}/topics/{TOPIC}", data=body, headers={**JSON_V2, "Idempotency-Key": key}
            ) as answer:
                reports = (await answer.json(content_type=None)).get("offsets") if answer.status == 200 else None
                assert answer.status in (200, 429, 500, 503), (answer.status, await answer.text())
        except (aiohttp.ClientError, TimeoutError, json.JSONDecodeError):
            reports = None
        if reports is not None:
            done = [(i, line) for i, line in left if reports[i].get("error_code") is None]
            for i, line in done:
                account.add(reports[i]["partition"], reports[i]["offset"], line)
            left = [pair for pair in left if pair not in done]
            if not left:
                return
        await asyncio.sleep(0.05)
    raise AssertionError(f"batch {key} was not acknowledged in 600 attempts")


async def produce_while(
    cluster_urls: list[str], clients: int, at_least: int, going: Callable[[], bool], account: Account
) -> None:
    """`clients` produce at once until `at_least` records are acknowledged and `going` says enough."""
    timeout = aiohttp.ClientTimeout(total=40)

    async def client(first: int) -> None:
        urls = itertools.islice(itertools.cycle(cluster_urls), first, None)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while going() or account.records < at_least:
                batch = list(itertools.islice(account.lines, BATCH))
                await produce_batch(session, urls, f"batch-{next(account.numbers)}", batch, account)

    await asyncio.gather(*(client(n) for n in range(clients)))


async def read_partition(session: aiohttp.ClientSession, url: str, partition: int, end: int) -> dict[int, str]:
    """Every record from offset 0 up to `end`, as this node answers."""
    records: dict[int, str] = {}
    offset = 0
    while offset < end:
        query = f"offset={offset}&timeout=5000&max_bytes=4000000"
        async with session.get(
            f"{url}/topics/{TOPIC}/partitions/{partition}/records?{query}",
            headers={"Accept": "application/vnd.kafka.json.v2+json"},
        ) as answer:
            assert answer.status == 200, await answer.text()
            page = await answer.json(content_type=None)
        assert page, f"{url} has nothing at offset {offset} of partition {partition}, which ends at {end}"
        for record in page:
            assert record["offset"] == offset, f"offset {record['offset']} where {offset} was due"
            records[offset] = record["value"]
            offset += 1
    return records


async def verify(urls: list[str], account: Account) -> int:
    """Every acknowledged record is there once, at its offset, the same from each node; returns records per node.

    Every produced record was acknowledged in the end, so anything beyond that is a duplicate or invented."""
    counts = []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session:
        for url in urls:
            count = 0
            for partition, known in sorted(account.acknowledged.items()):
                async with session.get(f"{url}/topics/{TOPIC}/partitions/{partition}/offsets") as answer:
                    ends = await answer.json(content_type=None)
                assert ends["beginning_offset"] == 0
                assert ends["end_offset"] == len(known), (
                    f"partition {partition} ends at {ends['end_offset']} on {url}, acknowledged were {len(known)}"
                )
                records = await read_partition(session, url, partition, ends["end_offset"])
                assert records == known, f"partition {partition} differs on {url}"
                count += len(records)
            counts.append(count)
    assert len(set(counts)) == 1
    return counts[0]
