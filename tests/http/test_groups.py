"""Consumer groups over HTTP, on a real node: v3's routes, deletion, resets, metrics."""

import asyncio
import itertools

import pytest

from raftbroker.broker.broker import Broker
from raftbroker.broker.consumer_groups import OffsetToCommit
from raftbroker.state.groups.ops import Leaving
from raftbroker.state.groups.protocol import Subscription, encode_assignment, encode_subscription
from raftbroker.state.groups.terms import GroupError
from tests.http.harness import Client, LoopThread
from tests.unit.broker.nodes import until

_names = itertools.count(1)


@pytest.fixture(autouse=True)
def _coordinated(thread: LoopThread, real_broker: Broker) -> None:
    """A node that has just started makes its coordinator shards a moment later."""

    async def led() -> None:
        face = real_broker.consumer_groups
        await until(lambda: face.elected("any") and len(real_broker.shards.led()) == len(real_broker.shards.all()))

    thread.run(led())


@pytest.fixture
def group() -> str:
    return f"group {next(_names)}/a"


async def join(broker: Broker, group: str, topic: str) -> str:
    """The id of the only member, which has all three partitions of the topic."""
    face = broker.consumer_groups
    while True:
        joined = await face.join(
            group,
            instance_id="one",
            client_id="app",
            client_host="/test",
            session_ms=30_000,
            rebalance_ms=30_000,
            protocol_type="consumer",
            protocols=[("range", encode_subscription(Subscription((topic,))))],
        )
        if joined.error is None:
            break
        assert joined.error is GroupError.COORDINATOR_NOT_AVAILABLE
        await asyncio.sleep(0.05)
    assignment = encode_assignment({topic: (0, 1, 2)})
    synced = await face.sync(
        group,
        member_id=joined.member_id,
        instance_id="one",
        generation=joined.generation,
        assignments={joined.member_id: assignment},
    )
    assert synced.error is None
    done = await face.commit(
        group,
        [OffsetToCommit(topic, 0, 1), OffsetToCommit(topic, 1, 0)],
        member_id=joined.member_id,
        instance_id="one",
        generation=joined.generation,
    )
    assert done.error is None
    return joined.member_id


def test_a_groups_life(
    thread: LoopThread, real: Client, real_broker: Broker, cluster: str, topic: str, group: str
) -> None:
    path = f"{cluster}/consumer-groups/{group.replace(' ', '%20').replace('/', '%2F')}"
    own = f"/v1/groups/{group.replace(' ', '%20').replace('/', '%2F')}"
    for missing in (path, f"{path}/consumers", f"{path}/lags", f"{path}/lag-summary"):
        assert real.get(missing).code == 40405
    assert real.ask("DELETE", own).code == 40405
    records = [{"value": str(number), "partition": 0} for number in range(5)]
    real.ask("POST", f"/topics/{topic}", {"records": records}, media="application/vnd.kafka.json.v2+json")
    member = thread.run(join(real_broker, group, topic))

    found = real.get(path).json
    assert found["metadata"]["self"] == real.url + path
    shown = [found[name] for name in ("consumer_group_id", "state", "type", "partition_assignor", "is_simple")]
    assert shown == [group, "STABLE", "CLASSIC", "range", False]
    assert found["coordinator"]["related"].endswith("/brokers/1")
    assert found in real.get(f"{cluster}/consumer-groups").json["data"]

    (consumer,) = real.get(found["consumers"]["related"].removeprefix(real.url)).json["data"]
    assert (consumer["consumer_id"], consumer["instance_id"], consumer["client_id"]) == (member, "one", "app")
    assert consumer["assignments"] == [{"topic_name": topic, "partition_id": number} for number in range(3)]
    assert real.get(f"{path}/consumers/{member}").json == consumer
    assert real.get(f"{path}/consumers/nobody").status == 404

    lags = real.get(f"{path}/lags").json["data"]
    assert [(one["partition_id"], one["current_offset"], one["log_end_offset"], one["lag"]) for one in lags] == [
        (0, 1, 5, 4),
        (1, 0, 0, 0),
        (2, None, 0, None),
    ]
    assert {one["consumer_id"] for one in lags} == {member}
    assert real.get(f"{path}/lags/{topic}/partitions/0").json == lags[0]
    assert real.get(f"{path}/lags/{topic}/partitions/9").status == 404
    summary = real.get(found["lag_summary"]["related"].removeprefix(real.url)).json
    assert (summary["max_lag"], summary["total_lag"], summary["max_lag_topic_name"]) == (4, 4, topic)
    assert (summary["max_lag_partition_id"], summary["max_lag_consumer_id"]) == (0, member)

    metrics = real.get("/metrics").body.decode()
    assert f'raftbroker_consumer_group_lag{{group="{group}",topic="{topic}",partition="0"}} 4' in metrics
    assert f'raftbroker_consumer_group_offset{{group="{group}",topic="{topic}",partition="0"}} 1' in metrics
    assert 'raftbroker_consumer_groups{state="Stable",type="classic"}' in metrics

    reset = {"to": "latest", "topics": [topic]}
    assert real.post(f"{own}/reset-offsets", reset).code == 40903
    assert real.ask("DELETE", own).code == 40903
    thread.run(real_broker.consumer_groups.leave(group, [Leaving(member, None)]))
    tried = real.post(f"{own}/reset-offsets", {**reset, "dry_run": True}).json["offsets"]
    assert [(one["partition_id"], one["before"], one["after"]) for one in tried] == [(0, 1, 5), (1, 0, 0), (2, None, 0)]
    assert real.get(f"{path}/lag-summary").json["total_lag"] == 4
    assert real.post(f"{own}/reset-offsets", reset).json == {"group": group, "offsets": tried}
    assert real.get(f"{path}/lag-summary").json["total_lag"] == 0
    assert real.ask("DELETE", own).status == 204
    assert real.get(path).code == 40405


def test_resets_that_are_refused(real: Client, topic: str) -> None:
    path = "/v1/groups/resets/reset-offsets"
    assert real.post(path, {"to": "nowhere"}).status == 422
    assert real.post(path, {"to": "offset", "topics": [topic]}).code == 40002
    assert real.post(path, {"to": "earliest", "value": 3, "topics": [topic]}).code == 40002
    assert real.post(path, {"to": "earliest", "topics": ["none"]}).code == 40401
    assert real.post(path, {"to": "earliest", "partitions": [{"topic_name": topic, "partition_id": 77}]}).code == 40402
    assert real.post(path, {"to": "earliest"}).code == 40002
    moved = real.post(
        path, {"to": "offset", "value": 9, "partitions": [{"topic_name": topic, "partition_id": 2}]}
    ).json["offsets"]
    assert moved == [{"topic_name": topic, "partition_id": 2, "before": None, "after": 0}]


def test_a_group_of_offsets_alone_is_simple(
    thread: LoopThread, real: Client, real_broker: Broker, cluster: str, topic: str
) -> None:
    done = thread.run(real_broker.consumer_groups.commit("simple", [OffsetToCommit(topic, 0, 0)]))
    assert done.error is None
    found = real.get(f"{cluster}/consumer-groups/simple").json
    assert (found["is_simple"], found["state"], found["partition_assignor"]) == (True, "EMPTY", "")
