"""`/v3/clusters`: the one cluster this node belongs to, its brokers, and their configs (none can be set this way)."""

from aiohttp import web

from raftbroker.broker.errors import UnknownNode
from raftbroker.broker.views import BrokerView
from raftbroker.http.call import Call
from raftbroker.http.problems import UNAVAILABLE, Problem
from raftbroker.http.route import Answer, Route
from raftbroker.http.v3_forms import Broker, Cluster, Config, Link, ListMetadata, Metadata, ResourceList

BASE = "/v3/clusters/{cluster_id}"
CLUSTER = "Rk9KZKCFSQqYm2rXZqGpSA"
"""The cluster id in examples."""


def own_cluster(call: Call) -> str:
    """This cluster's id. Raises Problem while the node belongs to none."""
    if not call.broker.cluster_id:
        raise Problem(UNAVAILABLE, "This node belongs to no cluster yet; try again in a moment.", retry_after=1.0)
    return call.broker.cluster_id


def check_cluster(call: Call) -> str:
    """This cluster's id, once it is known to be the one in the path. Raises Problem."""
    mine = own_cluster(call)
    asked = call.path("cluster_id")
    if asked != mine:
        raise Problem(404, f"There is no cluster {asked[:60]!r} here; GET /v3/clusters shows the id of this one.")
    return mine


def _cluster(call: Call) -> Cluster:
    mine = own_cluster(call)
    here = call.link("v3/clusters", mine)
    controller = call.broker.controller_id
    return Cluster(
        kind="KafkaCluster",
        metadata=Metadata(here, f"crn:///kafka={mine}"),
        cluster_id=mine,
        controller=Link(f"{here}/brokers/{controller}") if controller >= 0 else None,
        brokers=Link(f"{here}/brokers"),
        broker_configs=Link(f"{here}/broker-configs"),
        topics=Link(f"{here}/topics"),
    )


async def list_clusters(call: Call) -> web.StreamResponse:
    clusters = [_cluster(call)] if call.broker.cluster_id else []
    return call.reply(ResourceList("KafkaClusterList", ListMetadata(call.link("v3/clusters")), clusters))


async def get_cluster(call: Call) -> web.StreamResponse:
    check_cluster(call)
    return call.reply(_cluster(call))


def _broker(call: Call, cluster: str, view: BrokerView) -> Broker:
    """Host and port are those of the Kafka listener, as Kafka's tools expect; of HTTP where there is none."""
    host, _, port = (view.kafka or view.http).rpartition(":")
    here = call.link("v3/clusters", cluster, "brokers", view.id)
    return Broker(
        kind="KafkaBroker",
        metadata=Metadata(here, f"crn:///kafka={cluster}/broker={view.id}"),
        cluster_id=cluster,
        broker_id=view.id,
        host=host.strip("[]") or None,
        port=int(port) if port.isdigit() else None,
        rack=None,
        configs=Link(f"{here}/configs"),
    )


async def list_brokers(call: Call) -> web.StreamResponse:
    cluster = check_cluster(call)
    data = [_broker(call, cluster, view) for view in await call.broker.brokers()]
    return call.reply(ResourceList("KafkaBrokerList", ListMetadata(call.link("v3/clusters", cluster, "brokers")), data))


async def find_broker(call: Call) -> BrokerView:
    """The broker of the path. Raises UnknownNode."""
    wanted = call.path_number("broker_id")
    for view in await call.broker.brokers():
        if view.id == wanted:
            return view
    raise UnknownNode(f"There is no broker {wanted} in this cluster; GET /v1/brokers lists those there are.")


async def get_broker(call: Call) -> web.StreamResponse:
    cluster = check_cluster(call)
    return call.reply(_broker(call, cluster, await find_broker(call)))


def _no_configs(call: Call, *path: str | int) -> web.StreamResponse:
    here = call.link("v3/clusters", *path)
    return call.reply(ResourceList[Config]("KafkaClusterConfigList", ListMetadata(here), []))


async def list_cluster_configs(call: Call) -> web.StreamResponse:
    return _no_configs(call, check_cluster(call), "broker-configs")


async def list_broker_configs(call: Call) -> web.StreamResponse:
    cluster = check_cluster(call)
    view = await find_broker(call)
    return _no_configs(call, cluster, "brokers", view.id, "configs")


_HERE = f"http://127.0.0.1:8082/v3/clusters/{CLUSTER}"
_CLUSTER = Cluster(
    kind="KafkaCluster",
    metadata=Metadata(_HERE, f"crn:///kafka={CLUSTER}"),
    cluster_id=CLUSTER,
    controller=Link(f"{_HERE}/brokers/1"),
    brokers=Link(f"{_HERE}/brokers"),
    broker_configs=Link(f"{_HERE}/broker-configs"),
    topics=Link(f"{_HERE}/topics"),
)
_BROKER = Broker(
    kind="KafkaBroker",
    metadata=Metadata(f"{_HERE}/brokers/1", f"crn:///kafka={CLUSTER}/broker=1"),
    cluster_id=CLUSTER,
    broker_id=1,
    host="127.0.0.1",
    port=9092,
    rack=None,
    configs=Link(f"{_HERE}/brokers/1/configs"),
)
_CONFIGS = ResourceList[Config]("KafkaClusterConfigList", ListMetadata(f"{_HERE}/broker-configs"), [])
_CONFIG_LIST = Answer(
    ResourceList[Config], _CONFIGS, summary="Always empty: brokers are configured by their file, not over HTTP."
)

ROUTES = (
    Route(
        "GET",
        "/v3/clusters",
        list_clusters,
        "listClusters",
        "The one cluster this node belongs to.",
        "v3 clusters",
        Answer(
            ResourceList[Cluster],
            ResourceList("KafkaClusterList", ListMetadata("http://127.0.0.1:8082/v3/clusters"), [_CLUSTER]),
        ),
    ),
    Route("GET", BASE, get_cluster, "getCluster", "One cluster.", "v3 clusters", Answer(Cluster, _CLUSTER)),
    Route(
        "GET",
        f"{BASE}/brokers",
        list_brokers,
        "listBrokers",
        "The cluster's brokers.",
        "v3 brokers",
        Answer(ResourceList[Broker], ResourceList("KafkaBrokerList", ListMetadata(f"{_HERE}/brokers"), [_BROKER])),
    ),
    Route(
        "GET",
        f"{BASE}/brokers/{{broker_id}}",
        get_broker,
        "getBroker",
        "One broker.",
        "v3 brokers",
        Answer(Broker, _BROKER),
        problems=(404,),
    ),
    Route(
        "GET",
        f"{BASE}/brokers/{{broker_id}}/configs",
        list_broker_configs,
        "listBrokerConfigs",
        "The configs of a broker that can be changed while it runs.",
        "v3 brokers",
        _CONFIG_LIST,
        problems=(404,),
    ),
    Route(
        "GET",
        f"{BASE}/broker-configs",
        list_cluster_configs,
        "listClusterConfigs",
        "Configs that hold for all brokers and can be changed while they run.",
        "v3 brokers",
        _CONFIG_LIST,
    ),
)
