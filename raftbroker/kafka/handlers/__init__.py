"""The APIs that are served: one file each, and this table of them. What is not in it is not advertised."""

from collections.abc import Mapping
from typing import Any

from raftbroker.kafka.api import Api
from raftbroker.kafka.context import Served
from raftbroker.kafka.handlers import api_versions

APIS: Mapping[int, Api[Any, Any]] = {
    api.key: api
    for api in (
        api_versions.API,  # 18
    )
}
"""By API key. Each has messages of its own, which is what `Any` stands for."""


def served(apis: Mapping[int, Api[Any, Any]] = APIS) -> tuple[Served, ...]:
    """What ApiVersions says: derived from the table."""
    return tuple(
        Served(api.key, api.min_version if api.advertise_min is None else api.advertise_min, api.max_version)
        for api in sorted(apis.values(), key=lambda api: api.key)
    )
