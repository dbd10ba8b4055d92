"""DescribeConfigs (32): topics' configs, and this node's configuration, each value with where it comes from."""

from collections.abc import Container, Sequence

from kafka.protocol.admin.configs import DescribeConfigsRequest, DescribeConfigsResponse

from raftbroker.broker.errors import InvalidRequest
from raftbroker.broker.views import ConfigView
from raftbroker.kafka.api import Api, Request
from raftbroker.kafka.codec import messages
from raftbroker.kafka.context import KafkaContext, NodeConfig
from raftbroker.kafka.errors import ErrorCode
from raftbroker.kafka.handlers.common import Failure, each
from raftbroker.kafka.handlers.config_forms import (
    KIND_OF_KEY,
    KIND_OF_TYPE,
    Kind,
    Resource,
    Source,
    shown_value,
    source_of,
)
from raftbroker.state.configs import DEFINITIONS

LISTED_MAX = 2_500
"""Resources and keys of one request: each resource is answered with some thirty configs."""

Asked = DescribeConfigsRequest.DescribeConfigsResource
Result = DescribeConfigsResponse.DescribeConfigsResult
Shown = Result.DescribeConfigsResourceResult
Synonym = Shown.DescribeConfigsSynonym


async def handle(context: KafkaContext, request: Request[DescribeConfigsRequest]) -> DescribeConfigsResponse:
    body = request.body

    async def describe(resource: Asked) -> list[Shown]:
        shown = await _describe(context, resource)
        for config in shown:
            if not body.include_documentation:
                config.documentation = None
            if not body.include_synonyms:
                config.synonyms = []
        return shown

    results = await each(body.resources, describe)
    return DescribeConfigsResponse(
        throttle_time_ms=0,
        results=[_result(resource, result) for resource, result in zip(body.resources, results, strict=True)],
    )


def _result(resource: Asked, result: list[Shown] | Failure) -> Result:
    return Result(
        error_code=result.code if isinstance(result, Failure) else ErrorCode.NONE,
        error_message=result.message if isinstance(result, Failure) else None,
        resource_type=resource.resource_type,
        resource_name=resource.resource_name,
        configs=[] if isinstance(result, Failure) else result,
    )


async def _describe(context: KafkaContext, resource: Asked) -> list[Shown]:
    keys = resource.configuration_keys
    wanted: Container[str] = _Everything() if keys is None else frozenset(keys)
    if resource.resource_type == Resource.TOPIC:
        configs = await context.broker.topic_configs(resource.resource_name, timeout=context.options.request_timeout)
        return [_topic_config(config) for config in configs if config.name in wanted]
    if resource.resource_type != Resource.BROKER:
        raise InvalidRequest(
            f"resources of type {resource.resource_type} have no configs here, only topics (2) and brokers (4) have"
        )
    if not resource.resource_name:
        return []  # the defaults of all nodes that Kafka lets change while they run; here there are none
    me = str(context.broker.node_id)
    if resource.resource_name != me:
        raise InvalidRequest(f"ask node {resource.resource_name[:20]} itself for its configuration; this is node {me}")
    return [_node_config(config) for config in context.options.node_configs if config.name in wanted]


class _Everything(Container[str]):
    def __contains__(self, name: object) -> bool:
        return True


def _topic_config(config: ConfigView) -> Shown:
    definition = DEFINITIONS[config.name]
    source = source_of(config)
    synonyms: list[tuple[str, Source]] = []
    if source is Source.DYNAMIC_TOPIC:
        synonyms.append((config.value, source))
    if config.default != definition.default:
        synonyms.append((config.default, Source.STATIC_BROKER))
    synonyms.append((definition.default, Source.DEFAULT))
    return Shown(
        name=config.name,
        value=shown_value(config),
        read_only=False,
        config_source=source,
        is_default=config.is_default,
        is_sensitive=config.sensitive,
        synonyms=_synonyms(config.name, synonyms),
        config_type=KIND_OF_TYPE[definition.type],
        documentation=config.documentation,
    )


def _node_config(config: NodeConfig) -> Shown:
    secret = config.kind == "secret"
    changed = config.value != config.default
    source = Source.STATIC_BROKER if changed and not secret else Source.DEFAULT
    synonyms = [] if secret else [(config.default, Source.DEFAULT)]
    if source is Source.STATIC_BROKER:
        synonyms.insert(0, (config.value or "", source))
    return Shown(
        name=config.name,
        value=config.value,
        read_only=True,
        config_source=source,
        is_default=source is Source.DEFAULT,
        is_sensitive=secret,
        synonyms=_synonyms(config.name, synonyms),
        config_type=KIND_OF_KEY.get(config.kind, Kind.STRING),
        documentation=config.documentation,
    )


def _synonyms(name: str, values: Sequence[tuple[str, Source]]) -> list[Synonym]:
    return [Synonym(name=name, value=value, source=source) for value, source in values]


API = Api(
    key=32,
    name="DescribeConfigs",
    min_version=1,
    max_version=4,
    codec=messages(DescribeConfigsRequest, DescribeConfigsResponse, elements_max=LISTED_MAX),
    handle=handle,
)
