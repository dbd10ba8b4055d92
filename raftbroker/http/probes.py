"""`/livez`, `/readyz`, `/metrics` and `/openapi.json`: for machines that watch this node. Never refused for load."""

import msgspec
from aiohttp import web

from raftbroker.broker.broker import Broker
from raftbroker.http.call import Call, Front
from raftbroker.http.group_metrics import write_groups
from raftbroker.http.metrics import CONTENT_TYPE, Labels, TextWriter
from raftbroker.http.problems import UNAVAILABLE, Problem
from raftbroker.http.queue_metrics import write_queues
from raftbroker.http.route import Answer, Route, Work
from raftbroker.http.webhook_metrics import write_webhooks


class Alive(msgspec.Struct, frozen=True):
    status: str


async def livez(call: Call) -> web.StreamResponse:
    return call.reply(Alive("alive"))


async def readyz(call: Call) -> web.StreamResponse:
    """Ready once this node can serve; while it stops it is not, so that no new clients are sent here."""
    readiness = call.broker.readiness()
    if call.front.stopping.is_set():
        raise Problem(UNAVAILABLE, "This node is stopping.", retry_after=1.0)
    if not readiness.ready:
        raise Problem(UNAVAILABLE, f"This node is not ready: {readiness.reason}.", retry_after=1.0)
    return call.reply(Alive("ready"))


async def openapi(call: Call) -> web.StreamResponse:
    return call.raw(call.front.openapi, "application/json")


async def metrics(call: Call) -> web.StreamResponse:
    return call.raw(metrics_text(call.front), CONTENT_TYPE)


# --- metrics ----------------------------------------------------------------------------------------------

_COUNTERS = {
    "produce_requests": "Batches that front doors asked to append.",
    "produce_batches": "Record batches appended on this node as leader.",
    "produce_records": "Records appended on this node as leader.",
    "produce_bytes": "Bytes of record batches appended on this node as leader.",
    "produce_entries": "Raft entries that carried the batches.",
    "produce_duplicates": "Batches recognised as sent before.",
    "produce_throttled": "Batches refused because too much was in flight.",
    "fetch_requests": "Fetches asked for on this node.",
    "fetch_bytes": "Bytes of record batches fetched.",
    "fetch_forwarded": "Fetches passed on to another node.",
    "forwarded": "Requests passed on to another node.",
    "retried": "Requests tried again because certainly nothing had been done.",
    "unknown_outcomes": "Requests that ended without their outcome being known.",
    "trimmed_partitions": "Partitions whose old records retention or a client deleted.",
    "compaction_passes": "Passes of compaction over a partition that this node leads.",
    "compaction_read_bytes": "Bytes of record batches that compaction read; most of them twice.",
    "compaction_written_bytes": "Bytes of record batches that compaction wrote anew.",
    "compaction_removed_records": "Records that compaction left out of what it wrote anew.",
}


def metrics_text(front: Front) -> bytes:
    writer = TextWriter()
    front.metrics.write(writer)
    _write_limits(writer, front)
    counters = front.broker.counters
    for name in counters.__struct_fields__:
        help_ = _COUNTERS.get(name, name.replace("_", " ").capitalize() + ".")
        writer.counter(f"raftbroker_{name}_total", help_, float(getattr(counters, name)))
    writer.gauge("raftbroker_ready", "1 when this node can serve.", float(front.broker.readiness().ready))
    _write_raft(writer, front.broker)
    _write_partitions(writer, front.broker)
    write_groups(writer, front.broker)
    consumers = front.broker.consumers.count
    writer.gauge("raftbroker_consumers", "Consumers kept by this node: instances, and streams with a group.", consumers)
    for metric in front.options.more_metrics():
        writer.family(*metric)
    write_queues(writer, front.broker)
    write_webhooks(writer, front.broker)
    usage = front.options.process_usage
    if usage is not None:
        now = usage()
        writer.counter("process_cpu_seconds_total", "Processor time used.", now.cpu_seconds)
        writer.gauge("process_resident_memory_bytes", "Memory in use.", now.resident_bytes)
        if now.open_files is not None:
            writer.gauge("process_open_fds", "Open file descriptors.", now.open_files)
    return writer.text()


def _write_limits(writer: TextWriter, front: Front) -> None:
    limits = front.limits.all
    labels: list[Labels] = [(("what", limit.name),) for limit in limits]
    for name, kind, help_, values in (
        ("raftbroker_http_in_hand", "gauge", "What is in hand for clients now.", [limit.used for limit in limits]),
        ("raftbroker_http_in_hand_max", "gauge", "The bounds on it.", [limit.most for limit in limits]),
        ("raftbroker_http_refused_total", "counter", "Requests refused with 429.", [limit.refused for limit in limits]),
    ):
        writer.family(name, kind, help_, zip(labels, values, strict=True))


def _write_raft(writer: TextWriter, broker: Broker) -> None:
    """This node's own replicas; what others say of theirs is in their own metrics."""
    me = broker.node_id
    rows: list[tuple[Labels, tuple[float, ...]]] = []
    for group in broker.local_groups():
        for replica in group.replicas:
            if replica.node == me:
                values = (
                    replica.term,
                    replica.commit,
                    replica.applied,
                    replica.last_index,
                    float(replica.role == "leader"),
                    float(group.leader is not None),
                    float(replica.damaged is not None),
                )
                rows.append(((("group", str(group.group)),), values))
    names = (
        ("raftbroker_raft_term", "The group's term."),
        ("raftbroker_raft_commit_index", "The highest committed entry known here."),
        ("raftbroker_raft_applied_index", "The highest entry applied here."),
        ("raftbroker_raft_last_index", "The last entry in the log here."),
        ("raftbroker_raft_is_leader", "1 when this node leads the group."),
        ("raftbroker_raft_has_leader", "1 when a leader of the group is known here."),
        ("raftbroker_raft_damaged", "1 when this replica met damage in its store."),
    )
    for column, (name, help_) in enumerate(names):
        writer.family(name, "gauge", help_, ((labels, values[column]) for labels, values in rows))


def _write_partitions(writer: TextWriter, broker: Broker) -> None:
    sizes = broker.partition_sizes()
    labels: list[Labels] = [(("topic", size.topic), ("partition", str(size.partition))) for size in sizes]
    for name, help_, values in (
        ("raftbroker_partition_log_start_offset", "First offset that can be read.", [size.start for size in sizes]),
        ("raftbroker_partition_high_watermark", "The next offset to be given.", [size.end for size in sizes]),
        ("raftbroker_partition_bytes", "Bytes of its record batches here.", [size.bytes for size in sizes]),
        ("raftbroker_partition_is_leader", "1 when this node leads it.", [int(size.leading) for size in sizes]),
    ):
        writer.family(name, "gauge", help_, zip(labels, values, strict=True))


_ALIVE = Answer(Alive, Alive("alive"))

ROUTES = (
    Route(
        "GET",
        "/livez",
        livez,
        "livez",
        "Whether the process serves requests at all.",
        "probes",
        _ALIVE,
        work=Work.PROBE,
    ),
    Route(
        "GET",
        "/readyz",
        readyz,
        "readyz",
        "Whether this node may be sent clients.",
        "probes",
        Answer(Alive, Alive("ready")),
        problems=(UNAVAILABLE,),
        work=Work.PROBE,
    ),
    Route(
        "GET",
        "/metrics",
        metrics,
        "metrics",
        "This node's metrics in Prometheus's text format.",
        "probes",
        Answer(str, "raftbroker_ready 1\n", media=("text/plain",)),
        work=Work.PROBE,
    ),
    Route(
        "GET",
        "/openapi.json",
        openapi,
        "openapi",
        "This description.",
        "probes",
        Answer(dict[str, msgspec.Raw], {"openapi": "3.1.0"}),
        work=Work.PROBE,
    ),
)
