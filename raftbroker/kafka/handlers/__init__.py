"""The APIs that are served: one file each, and this table of them. What is not in it is not advertised."""

from collections.abc import Mapping
from typing import Any

from raftbroker.kafka.api import Api
from raftbroker.kafka.context import Served
from raftbroker.kafka.handlers import (
    add_offsets_to_txn,
    add_partitions_to_txn,
    alter_configs,
    api_versions,
    consumer_group_describe,
    consumer_group_heartbeat,
    create_partitions,
    create_topics,
    delete_groups,
    delete_records,
    delete_topics,
    describe_cluster,
    describe_configs,
    describe_groups,
    describe_log_dirs,
    describe_producers,
    describe_transactions,
    elect_leaders,
    end_txn,
    fetch,
    find_coordinator,
    heartbeat,
    incremental_alter_configs,
    init_producer_id,
    join_group,
    leave_group,
    list_groups,
    list_offsets,
    list_transactions,
    metadata,
    offset_commit,
    offset_delete,
    offset_fetch,
    offset_for_leader_epoch,
    produce,
    sync_group,
    txn_offset_commit,
)

APIS: Mapping[int, Api[Any, Any]] = {
    api.key: api
    for api in (
        produce.API,  # 0
        fetch.API,  # 1
        list_offsets.API,  # 2
        metadata.API,  # 3
        offset_commit.API,  # 8
        offset_fetch.API,  # 9
        find_coordinator.API,  # 10
        join_group.API,  # 11
        heartbeat.API,  # 12
        leave_group.API,  # 13
        sync_group.API,  # 14
        describe_groups.API,  # 15
        list_groups.API,  # 16
        api_versions.API,  # 18
        create_topics.API,  # 19
        delete_topics.API,  # 20
        delete_records.API,  # 21
        init_producer_id.API,  # 22
        offset_for_leader_epoch.API,  # 23
        add_partitions_to_txn.API,  # 24
        add_offsets_to_txn.API,  # 25
        end_txn.API,  # 26
        txn_offset_commit.API,  # 28
        describe_configs.API,  # 32
        alter_configs.API,  # 33
        describe_log_dirs.API,  # 35
        create_partitions.API,  # 37
        delete_groups.API,  # 42
        elect_leaders.API,  # 43
        incremental_alter_configs.API,  # 44
        offset_delete.API,  # 47
        describe_cluster.API,  # 60
        describe_producers.API,  # 61
        describe_transactions.API,  # 65
        list_transactions.API,  # 66
        consumer_group_heartbeat.API,  # 68
        consumer_group_describe.API,  # 69
    )
}
"""By API key. Each has messages of its own, which is what `Any` stands for."""


def served(apis: Mapping[int, Api[Any, Any]] = APIS) -> tuple[Served, ...]:
    """What ApiVersions says: derived from the table."""
    return tuple(
        Served(api.key, api.min_version if api.advertise_min is None else api.advertise_min, api.max_version)
        for api in sorted(apis.values(), key=lambda api: api.key)
    )
