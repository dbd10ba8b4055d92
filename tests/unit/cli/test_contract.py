"""The command line and the HTTP front door speak of the same things: each decodes what the other writes.

The front door's table of routes has an example of every body; no server is needed to compare them.
"""

import msgspec
import pytest

from raftbroker.cli import api, group, produce, queue_api, topics, webhook
from raftbroker.http.app import ROUTES
from raftbroker.http.media import Format
from raftbroker.http.route import Route
from raftbroker.http.v1_cluster import DeleteRecords
from raftbroker.http.v1_groups import ResetOffsets
from raftbroker.http.v2_forms import BinaryRecords
from raftbroker.http.v3_forms import ConfigChanges, CreateTopic, GrowTopic
from raftbroker.http.webhooks import PutWebhook

BY_NAME = {route.name: route for route in ROUTES}
GROUP = "/v3/clusters/{cluster_id}/consumer-groups/{consumer_group_id}"
QUEUE = "/queues/{queue}"
WEBHOOK = "/v1/webhooks/{webhook}"
TOPIC = "/v3/clusters/{cluster_id}/topics/{topic_name}"


@pytest.mark.parametrize(
    ("method", "path", "type_"),
    [
        ("GET", "/v3/clusters", api._Clusters),
        ("GET", "/v3/clusters/{cluster_id}/topics", api._Topics),
        ("GET", TOPIC, api.TopicSummary),
        ("GET", f"{TOPIC}/configs", api._Configs),
        ("GET", "/topics/{topic_name}/partitions", list[api.Partition]),
        ("GET", "/topics/{topic_name}/partitions/{partition_id}/offsets", api.Offsets),
        ("GET", "/topics/{topic_name}/partitions/{partition_id}/records", list[api.ReadRecord]),
        ("POST", "/topics/{topic_name}", api.ProduceReport),
        ("POST", "/topics/{topic_name}/partitions/{partition_id}", api.ProduceReport),
        ("GET", "/v1/cluster/health_overview", api.Health),
        ("GET", "/v1/brokers", list[api.Broker]),
        ("GET", "/v1/raft", list[api.Group]),
        ("POST", "/v1/topics/{topic_name}/partitions/{partition_id}/delete_records", api._DeletedRecords),
        ("GET", "/v3/clusters/{cluster_id}/consumer-groups", group._Groups),
        ("GET", GROUP, group.GroupSummary),
        ("GET", f"{GROUP}/consumers", group._Members),
        ("GET", f"{GROUP}/lags", group._Lags),
        ("POST", "/v1/groups/{consumer_group_id}/reset-offsets", group.MovedOffsets),
        ("GET", "/v1/webhooks", webhook.WebhookList),
        ("GET", WEBHOOK, webhook.Webhook),
        ("PUT", WEBHOOK, webhook.Webhook),
        ("POST", f"{WEBHOOK}/pause", webhook.Webhook),
        ("POST", f"{WEBHOOK}/resume", webhook.Webhook),
        ("GET", "/queues", queue_api.QueueList),
        ("GET", QUEUE, queue_api.Queue),
        ("PUT", QUEUE, queue_api.Queue),
        ("POST", f"{QUEUE}/purge", queue_api.Count),
        ("POST", f"{QUEUE}/redrive", queue_api.Count),
        ("POST", f"{QUEUE}/messages", queue_api.SentList),
        ("GET", f"{QUEUE}/messages", queue_api.MessageList),
        ("POST", f"{QUEUE}/receive", queue_api.MessageList),
        ("POST", f"{QUEUE}/ack", queue_api.Results),
    ],
)
def test_the_command_line_reads_what_the_front_door_answers(method: str, path: str, type_: object) -> None:
    route = find(method, path)
    example = route.answer.example
    if route.name == "readRecords":  # its example is in the JSON format; the command line reads base64
        example = [msgspec.structs.replace(record, value=msgspec.Raw(b'"dGVh"')) for record in example]
    decoded = msgspec.json.decode(msgspec.json.encode(example), type=type_)
    assert decoded


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", TOPIC),
        ("PATCH", TOPIC),
        ("POST", f"{TOPIC}/configs:alter"),
        ("POST", "/v1/raft/{group}/transfer_leadership"),
        ("DELETE", "/v1/groups/{consumer_group_id}"),
        ("DELETE", QUEUE),
        ("DELETE", WEBHOOK),
    ],
)
def test_routes_whose_answer_is_not_read_exist(method: str, path: str) -> None:
    assert find(method, path)


def find(method: str, path: str) -> Route:
    return next(route for route in ROUTES if (route.method, route.path) == (method, path))


@pytest.mark.parametrize(
    ("sent", "taken"),
    [
        (topics.NewTopic("t"), CreateTopic),
        (topics.NewTopic("t", 3, 2, [topics.NamedValue("retention.ms", "1")]), CreateTopic),
        (topics.PartitionCount(4), GrowTopic),
        (topics.Changes([topics.NamedValue("a", "b"), topics.NamedValue("c", operation="DELETE")]), ConfigChanges),
        (api._DeleteRecords(-1), DeleteRecords),
        (webhook.Put(topic="t", url="u", secret="s", start="latest", batch_size=1), PutWebhook),
        (webhook.Put(attempts=3, dead_letter_queue="d"), PutWebhook),
        (group.Reset("earliest"), ResetOffsets),
        (group.Reset("shift", -5, ["t"], [group.PlaceToReset("u", 1)], True), ResetOffsets),
        (produce.ProduceBody([produce.RecordToSend("YQ==")]), BinaryRecords),
        (
            produce.ProduceBody([produce.RecordToSend("YQ==", "Yg==", [produce.HeaderToSend("h", "Yw==")])]),
            BinaryRecords,
        ),
    ],
)
def test_the_front_door_reads_what_the_command_line_sends(sent: object, taken: type) -> None:
    assert msgspec.json.decode(msgspec.json.encode(sent), type=taken)


def test_the_content_type_is_one_that_is_served() -> None:
    assert Format.BINARY.media_type == api.BINARY_V2
