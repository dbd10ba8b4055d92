"""`/v3/clusters/{id}/topics/{t}/configs`: a topic's configs under Kafka's names."""

from collections.abc import Iterable

import msgspec
from aiohttp import web

from raftbroker.broker.views import ConfigView
from raftbroker.http.call import Call
from raftbroker.http.problems import BAD_CONFIG, CONFIG_CHANGED, NO_TOPIC, Problem
from raftbroker.http.route import Answer, Route, json_body
from raftbroker.http.v3_clusters import BASE, CLUSTER, check_cluster
from raftbroker.http.v3_forms import (
    Config,
    ConfigChange,
    ConfigChanges,
    ConfigValue,
    ListMetadata,
    Metadata,
    ResourceList,
    Synonym,
)

Values = dict[str, str | None]

_config_value = msgspec.json.Decoder(ConfigValue)
_config_changes = msgspec.json.Decoder(ConfigChanges)


def _config(call: Call, cluster: str, topic: str, view: ConfigView) -> Config:
    here = call.link("v3/clusters", cluster, "topics", topic, "configs", view.name)
    synonyms = [] if view.is_default else [Synonym(view.name, view.value, view.source)]
    return Config(
        kind="KafkaTopicConfig",
        metadata=Metadata(here, f"crn:///kafka={cluster}/topic={topic}/config={view.name}"),
        cluster_id=cluster,
        topic_name=topic,
        name=view.name,
        value=None if view.sensitive else view.value,
        is_default=view.is_default,
        is_read_only=False,
        is_sensitive=view.sensitive,
        source=view.source,
        synonyms=[*synonyms, Synonym(view.name, view.default, "DEFAULT_CONFIG")],
        documentation=view.documentation,
    )


async def list_configs(call: Call) -> web.StreamResponse:
    cluster, topic = check_cluster(call), call.path("topic_name")
    data = [_config(call, cluster, topic, view) for view in await call.broker.topic_configs(topic)]
    here = call.link("v3/clusters", cluster, "topics", topic, "configs")
    return call.reply(ResourceList("KafkaTopicConfigList", ListMetadata(here), data))


async def _find_config(call: Call) -> ConfigView:
    name = call.path("config_name")
    for view in await call.broker.topic_configs(call.path("topic_name")):
        if view.name == name:
            return view
    raise Problem(404, f"There is no topic config {name[:60]!r}; GET .../configs lists those there are.")


async def get_config(call: Call) -> web.StreamResponse:
    cluster = check_cluster(call)
    return call.reply(_config(call, cluster, call.path("topic_name"), await _find_config(call)))


async def set_config(call: Call) -> web.StreamResponse:
    check_cluster(call)
    asked = await call.json(_config_value)
    name = call.path("config_name")
    await _change(call, {name: asked.value}, _expected([(name, asked.expected_value)]))
    return call.nothing()


async def reset_config(call: Call) -> web.StreamResponse:
    check_cluster(call)
    await _find_config(call)
    await _change(call, {call.path("config_name"): None}, {})
    return call.nothing()


async def alter_configs(call: Call) -> web.StreamResponse:
    check_cluster(call)
    asked = await call.json(_config_changes)
    changes: Values = {}
    for place, change in enumerate(asked.data):
        if change.name in changes:
            raise Problem(BAD_CONFIG, f"data[{place}].name {change.name[:60]!r} is there twice; give each once.")
        setting = change.operation.upper() == "SET"
        if setting and change.value is None:
            raise Problem(BAD_CONFIG, f"data[{place}].value is missing; give one, or the operation DELETE.")
        changes[change.name] = change.value if setting else None
    expected = _expected((change.name, change.expected_value) for change in asked.data)
    await _change(call, changes, expected, validate_only=asked.validate_only)
    return call.nothing()


def _expected(named: Iterable[tuple[str, str | msgspec.UnsetType | None]]) -> Values:
    return {name: value for name, value in named if not isinstance(value, msgspec.UnsetType)}


async def _change(call: Call, changes: Values, expected: Values, *, validate_only: bool = False) -> None:
    await call.broker.alter_configs(
        call.path("topic_name"),
        changes,
        expected=expected,
        validate_only=validate_only,
        timeout=call.options.request_timeout,
    )


_PATH = f"{BASE}/topics/{{topic_name}}/configs"
_HERE = f"http://127.0.0.1:8082/v3/clusters/{CLUSTER}/topics/orders/configs"
_CONFIG = Config(
    kind="KafkaTopicConfig",
    metadata=Metadata(f"{_HERE}/retention.ms", f"crn:///kafka={CLUSTER}/topic=orders/config=retention.ms"),
    cluster_id=CLUSTER,
    topic_name="orders",
    name="retention.ms",
    value="86400000",
    is_default=False,
    is_read_only=False,
    is_sensitive=False,
    source="DYNAMIC_TOPIC_CONFIG",
    synonyms=[
        Synonym("retention.ms", "86400000", "DYNAMIC_TOPIC_CONFIG"),
        Synonym("retention.ms", "604800000", "DEFAULT_CONFIG"),
    ],
)

ROUTES = (
    Route(
        "GET",
        _PATH,
        list_configs,
        "listTopicConfigs",
        "All configs of a topic, set or by default.",
        "v3 configs",
        Answer(ResourceList[Config], ResourceList("KafkaTopicConfigList", ListMetadata(_HERE), [_CONFIG])),
        problems=(NO_TOPIC,),
    ),
    Route(
        "GET",
        f"{_PATH}/{{config_name}}",
        get_config,
        "getTopicConfig",
        "One config of a topic.",
        "v3 configs",
        Answer(Config, _CONFIG),
        problems=(NO_TOPIC, 404),
    ),
    Route(
        "PUT",
        f"{_PATH}/{{config_name}}",
        set_config,
        "setTopicConfig",
        "Sets one config; null puts it back to its default. With expected_value only where it is that now.",
        "v3 configs",
        Answer(status=204),
        json_body(ConfigValue("86400000", expected_value="604800000")),
        problems=(NO_TOPIC, BAD_CONFIG, CONFIG_CHANGED),
    ),
    Route(
        "DELETE",
        f"{_PATH}/{{config_name}}",
        reset_config,
        "resetTopicConfig",
        "Puts one config back to its default.",
        "v3 configs",
        Answer(status=204),
        problems=(NO_TOPIC, 404),
    ),
    Route(
        "POST",
        f"{_PATH}:alter",
        alter_configs,
        "alterTopicConfigs",
        "Sets and resets several configs, all or none; each, if you wish, only with its expected_value.",
        "v3 configs",
        Answer(status=204),
        json_body(
            ConfigChanges(
                [ConfigChange("retention.ms", "86400000"), ConfigChange("cleanup.policy", operation="DELETE")]
            )
        ),
        problems=(NO_TOPIC, BAD_CONFIG, CONFIG_CHANGED),
    ),
)
