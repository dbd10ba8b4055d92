"""Webhooks on one whole node: changes that race, a cluster that does not know them yet, a restart."""

import asyncio
from pathlib import Path

import pytest

from raftbroker.broker import webhooks
from raftbroker.broker.errors import InvalidRequest, Unavailable, UnknownTopic
from raftbroker.broker.webhook_wire import PutWebhookRequest
from raftbroker.state.webhooks import Change
from tests.unit.broker.nodes import cluster, until

FIELDS: dict[str, Change] = {"topic": "t", "url": "https://93.184.216.34/", "secret": "0123456789abcdef"}


def test_racing_changes_all_count_and_one_makes_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path, 1) as (node,):
            hooks = node.broker.webhooks
            await node.broker.create_topic("t", 1, 1)
            changes: list[dict[str, Change]] = [
                {"batch_size": 7},
                {"attempts": 8},
                {"timeout_ms": 900},
                {"paused": True},
            ]
            done = await asyncio.gather(*(hooks.put("h", FIELDS | change) for change in changes))
            assert sum(made for _, made in done) == 1
            webhook = (await hooks.get("h")).webhook
            assert (webhook.batch_size, webhook.attempts, webhook.timeout_ms, webhook.paused) == (7, 8, 900, True)
            assert webhook.version == len(changes)
            same = await hooks.put("h", FIELDS)
            assert same[0].webhook.version == webhook.version, "nothing differs, nothing is written"

    asyncio.run(main())


def test_a_repeated_request_recognises_its_own_webhook(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path, 1) as (node,):
            hooks = node.broker.webhooks
            request = PutWebhookRequest("h", "abc", True, "", (), dict(FIELDS), 5.0)
            first = await hooks.put_here(request)
            assert await hooks.put_here(request) >= first
            control = node.broker._context.control
            assert [(hook.id, hook.version) for hook in control.webhooks()] == [("abc", 1)]
            assert "0123456789abcdef" not in repr(request)
            await node.stop()
            await node.start()
            await until(lambda: node.broker.readiness().ready)
            found = node.broker._context.control.webhook("h")
            assert found is not None
            assert (found.id, found.secret) == ("abc", "0123456789abcdef")

    asyncio.run(main())


def test_a_cluster_with_an_older_node_refuses_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with cluster(tmp_path, 1) as (node,):
            await node.broker.create_topic("t", 1, 1)
            monkeypatch.setattr(webhooks, "WEBHOOKS_FEATURE", 1 + node.broker._context.control.feature)
            with pytest.raises(Unavailable, match="newer raftbroker on every node"):
                await node.broker.webhooks.put("h", FIELDS)
            assert node.broker._context.control.webhooks() == ()

    asyncio.run(main())


def test_refusals_on_any_node_name_the_field(tmp_path: Path) -> None:
    async def main() -> None:
        async with cluster(tmp_path, 1) as (node,):
            hooks = node.broker.webhooks
            with pytest.raises(UnknownTopic):
                await hooks.put("h", FIELDS)
            for field, changes in (
                ("name", FIELDS),
                ("secret", FIELDS | {"secret": "short"}),
                ("dead_letter_queue", FIELDS | {"dead_letter_queue": "a/b"}),
            ):
                with pytest.raises(InvalidRequest) as caught:
                    await hooks.put("no/name" if field == "name" else "h", changes)
                assert caught.value.field == field
                assert caught.value.message.startswith(field)

    asyncio.run(main())
